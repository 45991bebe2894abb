"""TensorFlow GAN's Frechet distance, against SciPy's matrix root."""

import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.linalg
from helpers.scripts import ENVIRONMENT

from cwvae.metrics import tfgan


def features(count, size, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, size)) @ rng.normal(0, 1, (size, size))


def scipy_distance(x, y):
    product = np.cov(x.T) @ np.cov(y.T)
    traces = np.trace(np.cov(x.T) + np.cov(y.T) - 2 * scipy.linalg.sqrtm(product).real)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + traces


@pytest.mark.parametrize(("count", "size"), [(50, 3), (301, 40)])
def test_the_distance_equals_scipys(count, size):
    x, y = features(count, size, 0), features(count + 7, size, 1, shift=0.3)
    got = tfgan.classifier_metrics.frechet_classifier_distance_from_activations(x, y).numpy()
    np.testing.assert_allclose(got, scipy_distance(x, y), rtol=1e-6)


def test_equal_sets_are_at_distance_0():
    x = features(100, 11, 0)
    got = tfgan.classifier_metrics.frechet_classifier_distance_from_activations(x, x).numpy()
    np.testing.assert_allclose(got, 0, atol=1e-6)


def test_nothing_else_of_tensorflow_gan_is_imported():
    code = """
import sys
from cwvae.metrics import tfgan
print(*sorted(n for n in sys.modules if n.partition(".")[0] in ("tensorflow_gan", "tensorflow_hub",
      "pkg_resources", "tensorflow_estimator")))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    package = "tensorflow_gan.python.eval"
    assert result.stdout.split() == [f"{package}.classifier_metrics", f"{package}.eval_utils"]


def test_packages_imported_before_stay_unchanged(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorflow_gan")]:
        monkeypatch.delitem(sys.modules, name)
    before = types.ModuleType("tensorflow_gan")
    before.__path__ = [tfgan.classifier_metrics.__file__.partition("/python/")[0]]
    monkeypatch.setitem(sys.modules, "tensorflow_gan", before)
    module = tfgan._import_classifier_metrics()
    assert module is not tfgan.classifier_metrics
    assert module.trace_sqrt_product(np.eye(3), 4 * np.eye(3)).numpy() == pytest.approx(6)
    assert sys.modules["tensorflow_gan"] is before
    assert "tensorflow_gan.python" not in sys.modules
    for name in [name for name in sys.modules if name.startswith("tensorflow_gan.")]:
        del sys.modules[name]  # monkeypatch restores the earlier ones
