"""Published and golden values, with the real weights from pip's index; skipped without network."""

import os

import numpy as np
import pytest
from golden import real_lpips
from helpers import reference

from cwvae.errors import UserError
from cwvae.metrics import frechet, fvd, lpips, weights

pytestmark = pytest.mark.slow

# I3D's logits [N, 400] by another implementation, of black, white and formula videos.
I3D_LOGITS = reference.GOLDEN / "i3d_logits.npz"
WAVE = {"B": 2, "T": 16, "cfg": {"channels": 3}}


@pytest.fixture(scope="module", autouse=True)
def fetched(tmp_path_factory):
    """A cache folder with the real weights."""
    before = os.environ.get("CWVAE_CACHE")
    os.environ["CWVAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        weights.fetch()
    except UserError as error:
        pytest.skip(str(error))
    yield
    if before is None:
        del os.environ["CWVAE_CACHE"]
    else:
        os.environ["CWVAE_CACHE"] = before


@pytest.fixture(scope="module")
def i3d():
    return fvd.I3D()


def still(value, length):
    return np.full((1, length, 64, 64, 3), value, np.uint8)


@pytest.mark.parametrize(("length", "published"), [(30, 151.39), (10, 569.8)])
def test_fvd_of_black_against_white_videos(i3d, length, published):
    # Any number of equal videos has the same moments.
    features = [np.repeat(i3d.features(still(value, length)), 8, 0) for value in (0, 255)]
    distance = frechet.frechet_distance(*(frechet.moments([f], i3d.size) for f in features))
    assert abs(distance - published) < 0.1


def test_logits_equal_the_reference(i3d):
    with np.load(I3D_LOGITS, allow_pickle=False) as file:
        want = dict(file)
    wave = np.rint(255 * reference.video(WAVE)).astype(np.uint8)
    for length in (9, 16):
        np.testing.assert_allclose(
            i3d.features(wave[:, :length]), want[f"wave_{length}"], atol=1e-3
        )
    for length in (10, 30):
        for name, value in (("black", 0), ("white", 255)):
            got = i3d.features(still(value, length))
            np.testing.assert_allclose(got, want[f"{name}_{length}"], atol=1e-3)


@pytest.mark.parametrize("size", real_lpips.SIZES)
@pytest.mark.parametrize("kind", ["rgb", "gray"])
def test_lpips_equals_the_package_of_its_authors(size, kind):
    distance = lpips.LPIPS(lpips.load(lpips.find()))
    truth, prediction = real_lpips.images(size, 3 if kind == "rgb" else 1)
    got = distance(truth[None], prediction[None])[0]
    with np.load(real_lpips.FILE, allow_pickle=False) as want:
        assert want[f"{kind}_{size}"].max() > 0.05
        np.testing.assert_allclose(got, want[f"{kind}_{size}"], atol=1e-5)
