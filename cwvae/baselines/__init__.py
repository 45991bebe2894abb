"""Models and predictors that CW-VAE is compared with."""
