"""A model and an optimizer of NumPy arrays, with the attributes that checkpoints need."""

import numpy as np


class Variable:
    """A variable with the interface of Keras and TensorFlow."""

    def __init__(self, path, array):
        self.path, self._array = path, np.asarray(array)

    @property
    def shape(self):
        return self._array.shape

    def numpy(self):
        return self._array

    def assign(self, array):
        assert array.shape == self._array.shape
        self._array = np.array(array)


class Model:
    """A model whose weights have odd shapes and all hold the same number."""

    def __init__(self, number=0.0, size=5):
        shapes = {"net/kernel": (3, size), "net/bias": (size,), "scale": (), "none": (0, 2)}
        self.weights = [
            Variable(path, np.full(shape, number, np.float32)) for path, shape in shapes.items()
        ]


class Optimizer:
    """An optimizer with a number of updates and a moment per weight."""

    def __init__(self, model, number=0):
        self.state = {"iterations": Variable("", np.int64(number))}
        for weight in model.weights:
            moment = np.full(weight.shape, number, np.float32)
            self.state[f"moment/{weight.path}"] = Variable("", moment)


class Average:
    """An average of a model's weights after a number of updates, which is also its value."""

    def __init__(self, model, number=0):
        self.state = {"updates": Variable("", np.int64(number))}
        for weight in model.weights:
            self.state[weight.path] = Variable("", np.full(weight.shape, number, np.float32))


def values(model, optimizer=None):
    """Returns the number that all variables hold. Fails if they differ."""
    variables = [*model.weights, *(optimizer.state.values() if optimizer else ())]
    (number,) = {float(x) for variable in variables for x in np.ravel(variable.numpy())}
    return number
