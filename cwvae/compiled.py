"""Methods that TensorFlow compiles, without keeping every trace."""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Traces of a method that a model keeps. More than a prediction of common length needs: those would
# be traced again in every prediction.
TRACES = 16

# Whether a method of `compiled` is traced. Nobody keeps the gradients of predictions.
_tracing = contextvars.ContextVar("tracing", default=False)


class compiled:
    """A method compiled by `tf.function`, with a trace for each shape and each Python value.

    A trace takes .3 to 1.8 s and 8 to 22 MiB, and `tf.function` keeps all of them. A notebook that
    tries context lengths and horizons needs many, so a model keeps the last 16 traces it used. What
    it computes with needs `custom_gradient` of this module instead of TensorFlow's.
    """

    def __init__(self, method: Callable):
        self._method = method

    def __set_name__(self, owner: type, name: str):
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> "Traces":
        if model is None:
            return self
        traces = Traces(functools.partial(self._method, model))
        # Found before this descriptor from now on. `setattr` of Keras would track it.
        object.__setattr__(model, self._name, traces)
        return traces


class Traces:
    """A function that is traced for each combination of its arguments; it keeps the last traces."""

    def __init__(self, function: Callable):
        def traced(*arguments, **options):
            token = _tracing.set(True)
            try:
                return function(*arguments, **options)
            finally:
                _tracing.reset(token)

        def make(key: tuple) -> Callable:
            # With a partial for each trace TensorFlow does not warn that one is traced often.
            return tf.function(functools.partial(traced), autograph=False)

        self._functions = functools.lru_cache(TRACES)(make)

    def __call__(self, *arguments, **options):
        """Calls the function with nests of tensors, integers, booleans and None."""
        leaves = tf.nest.flatten((arguments, options))
        key = tuple((x.dtype, tuple(x.shape)) if tf.is_tensor(x) else x for x in leaves)
        return self._functions(key)(*arguments, **options)

    def count(self) -> tuple[int, int]:
        """Returns how many traces there were, and how many are kept."""
        info = self._functions.cache_info()
        return info.misses, info.currsize


def custom_gradient(function: Callable) -> Callable:
    """Returns `tf.custom_gradient(function)`, but the plain function in methods of `compiled`.

    TensorFlow keeps every custom gradient, and with it the graph it belongs to, until the process
    ends, so forgetting the trace would free nothing. There TensorFlow's own gradients apply.
    """
    differentiable = tf.custom_gradient(function)

    def call(*arguments):
        return function(*arguments)[0] if _tracing.get() else differentiable(*arguments)

    return call
