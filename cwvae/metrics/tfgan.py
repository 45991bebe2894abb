"""TensorFlow GAN's Frechet distance, without the rest of TensorFlow GAN.

TensorFlow GAN 2.1.0 imports `tf.estimator`, which left TensorFlow in 2.16, and TensorFlow Hub,
which needs `pkg_resources`. The module with the Frechet distance needs neither, so empty packages
replace its parents while it is imported.
"""

import importlib
import importlib.util
import pathlib
import sys
import types

_PACKAGES = ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.eval")


def _import_classifier_metrics() -> types.ModuleType:
    replaced = [name for name in _PACKAGES if name not in sys.modules]
    for name in replaced:
        sys.modules[name] = _empty_package(name)
    try:
        return importlib.import_module("tensorflow_gan.python.eval.classifier_metrics")
    finally:  # A later import of TensorFlow GAN must get the real packages.
        for name in replaced:
            del sys.modules[name]


def _empty_package(name: str) -> types.ModuleType:
    """Returns a package without code, with the search path of the installed one."""
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


# For its `trace_sqrt_product` and `frechet_classifier_distance_from_activations`.
classifier_metrics = _import_classifier_metrics()
