"""Faster implementations of the Clockwork VAE, from the weights of the plain layers.

`model.FastCWVAE` overrides three methods of `cwvae.model.CWVAE`. Everything here equals a plain
expression, which stands at the top of each module with the name of the test that compares both.
Only `cwvae.factory` imports this package. Without it, `training.kernels=plain` trains all models.
"""
