"""What metrics.json means to those who write it and those who read it. No TensorFlow."""

# The format of metrics.json. Raise it when a reader of the old one would misread the new one.
FORMAT = 3

# Names of predictors without a model.
COPY, MEAN, RANDOM = "copy last frame", "mean training frame", "random training frame"
# The readout's scores on true frames are the ceiling of its scores on predicted ones.
TRUTH = "true frames"


def best_of(model: str, num_samples: int) -> str:
    """Returns the name of the best of a model's samples."""
    return f"{model}, best of {num_samples}"


def is_best_of(name: str, model: str) -> bool:
    """Returns whether a predictor is the best of a model's samples."""
    return name.startswith(f"{model}, best of ")
