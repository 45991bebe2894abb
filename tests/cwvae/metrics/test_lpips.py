"""LPIPS against plain torch (tests/golden/lpips.py), its properties, errors and weights."""

import hashlib
import sys

import keras
import numpy as np
import pytest
from golden import lpips as golden
from helpers import scripts

from cwvae.errors import MissingWeights, UserError
from cwvae.metrics import lpips

ARRAYS = lpips.from_state_dicts(*golden.state_dicts())


@pytest.fixture(scope="module")
def distance():
    return lpips.LPIPS(lpips.Weights(ARRAYS, lpips.digest(ARRAYS)))


@pytest.fixture(scope="module")
def want():
    with np.load(golden.FILE, allow_pickle=False) as file:
        return dict(file)


def video(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


# The value.


@pytest.mark.parametrize("case", golden.CASES)
def test_it_equals_torch(distance, want, case):
    truth, prediction = golden.images(case)
    assert want[case].sum(1)[-1] > 0.5, "too small for a tolerance of 1e-5"
    values = distance(truth[None], prediction[None])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, want[case].sum(1)[None], rtol=0, atol=1e-5)
    signed = (2 * np.repeat(x, 3 // x.shape[-1], -1) - 1 for x in (truth, prediction))
    np.testing.assert_allclose(distance.taps(*signed), want[case], rtol=0, atol=1e-5)


def test_the_number_of_weights_equals_the_published_one():
    sizes = {name: array.size for name, array in ARRAYS.items()}
    assert sum(size for name, size in sizes.items() if not name.startswith("head")) == 2_469_696
    assert sum(size for name, size in sizes.items() if name.startswith("head")) == 1_152


def test_equal_frames_have_distance_0(distance):
    frames = video(2, 3, 33, 37, 1)
    np.testing.assert_array_equal(distance(frames, frames), np.zeros((2, 3)))
    black = np.zeros_like(frames)
    np.testing.assert_array_equal(distance(black, black), np.zeros((2, 3)))


def test_it_is_symmetric(distance):
    x, y = video(1, 3, 33, 37, 3), video(1, 3, 33, 37, 3, seed=1)
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)


def test_it_grows_with_noise(distance):
    frames, noise = video(1, 1, 48, 40, 3), video(1, 1, 48, 40, 3, seed=1)
    amounts = (0.01, 0.05, 0.2, 0.5, 1)
    values = [distance(frames, (1 - a) * frames + a * noise).item() for a in amounts]
    assert values[0] > 0
    assert np.all(np.diff(values) > 0)


def test_values_keep_the_order_of_frames(distance):
    truth, prediction = video(2, 5, 32, 35, 3), video(2, 5, 32, 35, 3, seed=1)
    prediction[1, 3] = truth[1, 3]
    assert np.argwhere(distance(truth, prediction) == 0).tolist() == [[1, 3]]


def test_predictions_are_clipped(distance):
    truth, prediction = video(1, 2, 32, 35, 1), 3 * video(1, 2, 32, 35, 1, seed=1) - 1
    clipped = distance(truth, np.clip(prediction, 0, 1))
    np.testing.assert_array_equal(distance(truth, prediction), clipped)


def test_it_is_float32_under_any_policy(distance):
    truth, prediction = video(1, 2, 32, 35, 3), video(1, 2, 32, 35, 3, seed=1)
    want = distance(truth, prediction)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        again = lpips.LPIPS(lpips.Weights(ARRAYS, lpips.digest(ARRAYS)))
        np.testing.assert_allclose(again(truth, prediction), want, rtol=1e-6)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_chunks_do_not_change_values(distance, monkeypatch):
    truth, prediction = video(1, 7, 32, 35, 1), video(1, 7, 32, 35, 1, seed=1)
    together = distance(truth, prediction)
    monkeypatch.setattr(lpips, "CHUNK", 3)  # The last chunk has one frame.
    np.testing.assert_allclose(distance(truth, prediction), together, rtol=1e-5)


# Errors.


def changed(value, shape=(2, 3, 32, 33, 3)):
    frames = video(*shape)
    frames[1, 2, 5, 6, 0] = value
    return frames


GOOD = video(2, 3, 32, 33, 3)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (GOOD, GOOD[:, :2], "differ in shape"),
        (GOOD[0], GOOD[0], r"\[N, T, H, W, C\]"),
        (GOOD[..., :2], GOOD[..., :2], "1 or 3 channels, got 2"),
        (GOOD[..., :30, :], GOOD[..., :30, :], "31x31 pixels, got 32x30"),
        ((GOOD * 255).astype(np.uint8), GOOD, "truth must be floats"),
        (GOOD, changed(np.nan), r"prediction holds a NaN .*\[1, 2\]"),
        (changed(np.inf), GOOD, "truth holds a NaN or an infinity"),
        (GOOD * 255, GOOD, r"truth must lie in \[0, 1\]"),
        (changed(-0.1), GOOD, r"truth must lie in \[0, 1\]"),
    ],
)
def test_invalid_videos_are_refused(distance, truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        distance(truth, prediction)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD[0] * 255, r"must lie in \[-1, 1\].*2 x / 255 - 1"),
        (changed(1.01)[1], r"must lie in \[-1, 1\]"),
        (changed(np.nan)[1], r"must lie in \[-1, 1\]"),
        (GOOD[0].astype(np.uint8), "must be floats"),
        (GOOD[0, ..., :1], r"\[F, H, W, 3\]"),
        (GOOD, r"\[F, H, W, 3\]"),
        (GOOD[0, :, :30], "31x31 pixels, got 30x33"),
        (GOOD[0, :2], "differ in shape"),
    ],
)
def test_invalid_images_are_refused(distance, images, message):
    good = GOOD[0] if "differ" in message else np.zeros_like(images, np.float32)
    for pair in ((images, good), (good, images)):
        with pytest.raises(ValueError, match=message):
            distance.taps(*pair)


def test_the_smallest_frame(distance):
    frames = video(1, 2, lpips.MIN_SIZE, lpips.MIN_SIZE, 1)
    assert (distance(frames, 1 - frames) > 0).all()


# The file of weights.


@pytest.fixture
def file(tmp_path):
    lpips.save(tmp_path / "new" / "weights.npz", ARRAYS, "a" * 64, "b" * 64)
    return tmp_path / "new" / "weights.npz"


def test_a_file_holds_the_weights_their_checksum_and_their_sources(file):
    weights = lpips.load(file)
    assert weights.digest == lpips.digest(ARRAYS) == lpips.LPIPS(weights).digest
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(weights.arrays[name], array)
    with np.load(file, allow_pickle=False) as content:
        assert content["alexnet_sha256"] == "a" * 64
        assert content["heads_sha256"] == "b" * 64
    assert [path.name for path in file.parent.iterdir()] == ["weights.npz"]


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def no_npz(file):
    file.write_text("weights")


def one_array(file):
    with open(file, "wb") as out:
        np.save(out, ARRAYS["head0"])


def another(file):
    np.savez(file, kernel0=ARRAYS["kernel0"])


def stale_checksum(file):
    np.savez(file, **(ARRAYS | {"bias0": ARRAYS["bias0"] + 1}), sha256=lpips.digest(ARRAYS))


def consistent(**changes):
    def write(file):
        lpips.save(file, ARRAYS | changes, "", "")

    write.__name__ = "_".join(changes)
    return write


@pytest.mark.parametrize(
    "spoil",
    [
        *(cut, flip, no_npz, one_array, another, stale_checksum),
        consistent(head1=-ARRAYS["head1"]),
        consistent(bias2=np.full_like(ARRAYS["bias2"], np.nan)),
        consistent(kernel3=ARRAYS["kernel3"].transpose(0, 1, 3, 2)),
        consistent(head4=ARRAYS["head4"].astype(np.float64)),
    ],
)
def test_a_damaged_file_is_refused(file, spoil):
    spoil(file)
    with pytest.raises(
        UserError, match=r"weights\.npz: damaged, or not LPIPS weights(.|\n)*lpips convert"
    ):
        lpips.load(file)


def test_a_full_disk_leaves_no_file(small_disk):
    with pytest.raises(UserError, match=r"weights\.npz: cannot be written"):
        lpips.save(small_disk / "weights.npz", ARRAYS, "", "")
    assert not list(small_disk.iterdir())


def test_where_weights_are_found(file, tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CWVAE_LPIPS", raising=False)
    with pytest.raises(MissingWeights) as missing:
        lpips.find()
    for part in (str(tmp_path / "cache"), lpips.ALEXNET_URL, lpips.HEADS_URL, "lpips convert"):
        assert part in str(missing.value)
    kept = tmp_path / "cache" / "lpips_alexnet_v0.1.npz"
    kept.parent.mkdir()
    kept.write_bytes(b"")
    assert lpips.find() == kept
    other = tmp_path / "other.npz"
    other.write_bytes(b"")
    monkeypatch.setenv("CWVAE_LPIPS", str(other))
    assert lpips.find() == other
    assert lpips.find(file) == file


def test_the_cache_does_not_replace_a_named_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path))
    (tmp_path / lpips.NAME).write_bytes(b"")
    with pytest.raises(UserError, match=r"no\.npz: no file of LPIPS weights"):
        lpips.find(tmp_path / "no.npz")
    monkeypatch.setenv("CWVAE_LPIPS", str(tmp_path / "no.npz"))
    with pytest.raises(UserError, match=r"\$CWVAE_LPIPS: .*no\.npz") as refused:
        lpips.find()
    assert not isinstance(refused.value, MissingWeights)


# Conversion.


def test_the_classifier_is_skipped():
    alexnet, heads = golden.state_dicts()
    arrays = lpips.from_state_dicts(alexnet | {"classifier.1.bias": np.zeros(4096)}, heads)
    assert lpips.digest(arrays) == lpips.digest(ARRAYS)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features.6.weight", None, r"features\.6\.weight is missing"),
        ("lin4.model.1.weight", None, r"lin4\.model\.1\.weight is missing"),
        ("features.3.weight", lambda x: x[:, :-1], r"kernel1 is float32 \(5, 5, 63, 192\)"),
        ("features.3.weight", lambda x: x[0], "layer 3: "),
        ("lin0.model.1.weight", lambda x: -x, "head0 holds a negative weight"),
        ("features.0.bias", lambda x: x * np.nan, "bias0 holds a NaN"),
    ],
)
def test_other_weights_are_not_converted(name, change, message):
    states = golden.state_dicts()
    for state in states:
        if name in state:
            value = state.pop(name)
            if change:
                state[name] = change(value)
    with pytest.raises(UserError, match=f"not the weights of AlexNet and LPIPS v0.1: {message}"):
        lpips.from_state_dicts(*states)


def test_errors_of_convert(tmp_path, monkeypatch):
    alexnet, heads = tmp_path / "alexnet.pth", tmp_path / "heads.pth"
    alexnet.write_bytes(b"1")
    heads.write_bytes(b"2")
    out = tmp_path / "out.npz"
    with pytest.raises(UserError, match=r"gone\.pth: cannot be read \(No such file(.|\n)*curl"):
        lpips.convert(tmp_path / "gone.pth", heads, out)
    with pytest.raises(UserError, match=r"alexnet\.pth: not the official file.*7be5be79.*curl"):
        lpips.convert(alexnet, heads, out)
    right = hashlib.sha256(b"1").hexdigest()
    with pytest.raises(UserError, match=r"heads\.pth: not the official file.*df73285e.*curl"):
        lpips.convert(alexnet, heads, out, hashes=(right, lpips.HEADS_SHA256))
    monkeypatch.setitem(sys.modules, "torch", None)  # Makes the import fail.
    both = (right, hashlib.sha256(b"2").hexdigest())
    with pytest.raises(UserError, match=r"pip install torch==2\.13\.0"):
        lpips.convert(alexnet, heads, out, hashes=both)
    assert not out.exists()


def test_converting_does_not_start_tensorflow(no_tensorflow, tmp_path):
    words = ("-m", "cwvae.metrics.lpips", "convert", tmp_path / "a.pth", tmp_path / "b.pth")
    assert "a.pth: cannot be read" in scripts.refused(scripts.run(*words, env=no_tensorflow))
