"""TensorFlow GAN's Frechet distance, without the rest of TensorFlow GAN.

TensorFlow GAN 2.1.0 imports `tf.estimator`, which left TensorFlow in 2.16, and TensorFlow Hub,
which needs `pkg_resources`. The module with the Frechet distance needs neither: its packages are
stood in for by empty ones while it is imported.
"""

import importlib
import importlib.util
import pathlib
import sys
import types

_PACKAGES = ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.eval")


def _import_classifier_metrics() -> types.ModuleType:
    stand_ins = {}
    for name in _PACKAGES:
        if name not in sys.modules:
            sys.modules[name] = stand_ins[name] = _empty_package(name)
    try:
        return importlib.import_module("tensorflow_gan.python.eval.classifier_metrics")
    finally:  # Whoever imports TensorFlow GAN later shall meet the whole of it.
        for name in stand_ins:
            del sys.modules[name]


def _empty_package(name: str) -> types.ModuleType:
    """A package with the path of an installed one, so that its modules are found, and no code."""
    package = types.ModuleType(name)
    parent, _, own = name.rpartition(".")
    if parent:
        package.__path__ = [str(pathlib.Path(path, own)) for path in sys.modules[parent].__path__]
        return package
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"{name} is not installed: pip install -r requirements.txt")
    package.__path__ = list(spec.submodule_search_locations)
    return package


# Its `trace_sqrt_product` and `frechet_classifier_distance_from_activations` are what is wanted.
classifier_metrics = _import_classifier_metrics()
