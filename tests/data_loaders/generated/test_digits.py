"""Tests of the digit images: the redrawn UCI digits, IDX files, and tensorflow_datasets (faked)."""

import gzip
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cwvae.errors import UserError
from data_loaders.generated import digits as digit_images
from data_loaders.generated.digits import load_digits

NUM_IMAGES = {"train": 5, "t10k": 3}


def idx_bytes(values: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def random_images(prefix: str) -> np.ndarray:
    rng = np.random.default_rng(NUM_IMAGES[prefix])
    return rng.integers(0, 256, (NUM_IMAGES[prefix], 28, 28)).astype(np.uint8)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A tiny MNIST: the train files compressed, the test files plain."""
    for prefix, num_images in NUM_IMAGES.items():
        files = {
            "images-idx3": random_images(prefix),
            "labels-idx1": np.arange(num_images) + 4,
        }
        for kind, values in files.items():
            data, name = idx_bytes(values), f"{prefix}-{kind}-ubyte"
            if prefix == "train":
                data, name = gzip.compress(data), f"{name}.gz"
            (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("size", [12, 16, 28, 40])
def test_sklearn_digits_are_white_strokes_on_black_at_every_size(size):
    images, labels, _ = load_digits("test", size)
    assert images.shape == (360, size, size)
    assert images.dtype == np.uint8
    assert labels.shape == (360,)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert border.max() == 0
    assert images.max(axis=(1, 2)).min() > 220  # Every digit reaches white...
    assert 0.1 < (images > 127).mean() < 0.2  # ...with strokes about as thick as MNIST's.


def test_sklearn_digits_have_crisp_edges():
    images, _, _ = load_digits("train", 28)
    gray = np.mean((images > 64) & (images < 192))
    # The same digits, only enlarged, have more gray pixels than white ones.
    assert gray < 0.5 * np.mean(images >= 192)


def test_sklearn_digits_keep_their_shape():
    from sklearn import datasets

    source = datasets.load_digits().images[:1437]
    images, _, _ = load_digits("train", 28)
    # MNIST's layout, 20 of 28 pixels. Each half of the digit keeps its share of the ink.
    for ours, theirs in (
        (images[:, 4:14], source[:, :4]),
        (images[:, :, 4:14], source[:, :, :4]),
    ):
        share = ours.sum(axis=(1, 2)) / images.sum(axis=(1, 2))
        expected = theirs.sum(axis=(1, 2)) / source.sum(axis=(1, 2))
        assert np.abs(share - expected).mean() < 0.03


def test_sklearn_splits_are_the_first_80_and_the_last_20_percent():
    from sklearn import datasets

    target = datasets.load_digits().target
    train_images, train_labels, _ = load_digits("train", 16)
    test_images, test_labels, _ = load_digits("test", 16)
    np.testing.assert_array_equal(np.concatenate([train_labels, test_labels]), target)
    assert len(test_labels) == 360
    in_both = {image.tobytes() for image in train_images} & {i.tobytes() for i in test_images}
    assert not in_both


def test_missing_sklearn_names_the_alternatives(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install scikit-learn.*data\.digits_dir"):
        load_digits("train", 28)


def test_idx_files_are_read_plain_and_packed(idx_folder):
    images, labels, _ = load_digits("train", 28, digits_dir=str(idx_folder))
    np.testing.assert_array_equal(images, random_images("train"))
    assert labels.tolist() == [4, 5, 6, 7, 8]
    images, labels, _ = load_digits("test", 28, digits_dir=str(idx_folder))
    np.testing.assert_array_equal(images, random_images("t10k"))
    assert labels.tolist() == [4, 5, 6]


def test_plain_file_under_a_gz_name_is_read(idx_folder):
    packed = idx_folder / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.decompress(packed.read_bytes()))
    images, _, _ = load_digits("train", 28, digits_dir=idx_folder)
    np.testing.assert_array_equal(images, random_images("train"))


def test_shrinking_does_not_alias_and_keeps_place(idx_folder):
    stripes = np.zeros((3, 28, 28), np.uint8)
    stripes[0, ::2] = 255  # Stripes of one pixel must become uniform gray.
    stripes[1, 7:14, 14:21] = 255
    stripes[2] = 255
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(stripes))
    gray, square, white = load_digits("test", 12, digits_dir=idx_folder)[0]
    assert np.abs(gray[2:-2].astype(int) - 127).max() <= 8
    rows, columns = np.nonzero(square > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 5, 6, 8)
    assert white.min() == 255


def test_enlarging_is_smooth(idx_folder):
    step = np.zeros((3, 28, 28), np.uint8)
    step[:, :, 14:] = 255
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(step))
    row = load_digits("test", 40, digits_dir=idx_folder)[0][0, 20].astype(int)
    assert row[0] == 0
    assert row[-1] == 255
    assert 0 < row[19] < 128 < row[20] < 255  # Not nearest-neighbor interpolation.


def bad_magic(data: bytes) -> bytes:
    return b"\x00\x00\x0d\x03" + data[4:]


def too_many_announced(data: bytes) -> bytes:
    return data[:4] + b"\xff" * 12 + data[16:]


DAMAGE = {
    "magic": (bad_magic, "begins with 0x00000d03, expected 0x00000803"),
    "truncated": (lambda data: data[:-1], "cut short"),
    "too long": (lambda data: data + b"\x00", "too long"),
    "header": (lambda data: data[:7], "not even a header"),
    "empty": (lambda data: b"", "not even a header"),
    "sizes": (too_many_announced, "cut short"),
    "truncated gz": (lambda data: gzip.compress(data)[:-9], "cannot be read"),
    "damaged gz": (lambda data: b"\x1f\x8b" + data, "cannot be read"),
    "damaged deflate": (lambda data: gzip.compress(b"")[:10] + b"\xff" * 99, "cannot be read"),
    "not square": (lambda data: idx_bytes(np.zeros((3, 28, 27))), r"\(3, 28, 27\)"),
    "no images": (lambda data: idx_bytes(np.zeros((0, 28, 28))), r"\(0, 28, 28\)"),
    "count": (lambda data: idx_bytes(np.zeros((4, 28, 28))), "4 images.* 3 labels"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_idx_file_is_named(idx_folder, damage):
    change, expected = DAMAGE[damage]
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=expected) as caught:
        load_digits("test", 28, digits_dir=idx_folder)
    assert str(path) in str(caught.value)
    load_digits("train", 28, digits_dir=idx_folder)  # The other split is intact.


NAMES = r"no file train-labels-idx1-ubyte or train-labels\.idx1-ubyte, with or without \.gz"


def test_missing_idx_file_or_folder_is_named(idx_folder):
    (idx_folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=NAMES) as caught:
        load_digits("train", 28, digits_dir=idx_folder)
    assert str(idx_folder) in str(caught.value)
    with pytest.raises(UserError, match=r"nowhere is not a folder.*data\.digits=sklearn"):
        load_digits("train", 28, digits_dir=idx_folder / "nowhere")


def fake_tfds(load, prepared=True) -> types.ModuleType:
    module = types.ModuleType("tensorflow_datasets")
    module.load = load
    module.builder = lambda name, data_dir: types.SimpleNamespace(is_prepared=lambda: prepared)
    module.as_numpy = lambda data: data
    return module


def test_mnist_comes_from_tfds(monkeypatch):
    def load(name, *, split, data_dir, batch_size):
        assert (name, split, data_dir, batch_size) == ("mnist", "test", "some/folder", -1)
        return {"image": random_images("t10k")[..., None], "label": np.array([7, 2, 1])}

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(load))
    images, labels, _ = load_digits("test", 28, digits="mnist", data_dir="some/folder")
    np.testing.assert_array_equal(images, random_images("t10k"))
    assert labels.tolist() == [7, 2, 1]


def test_failing_download_names_the_folder_and_alternatives(monkeypatch):
    def load(name, **_):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(load))
    with pytest.raises(UserError) as caught:
        load_digits("train", 28, digits="mnist", data_dir="some/folder")
    for part in ("some/folder", "no route to host", "data.digits_dir", "data.digits=sklearn"):
        assert part in str(caught.value)


def test_without_a_network_it_fails_at_once(monkeypatch):
    def load(name, **_):
        raise AssertionError("would retry for minutes")

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake_tfds(load, prepared=False))
    monkeypatch.setattr(digit_images, "_MNIST_HOST", "http://localhost:9")  # nothing listens there
    with pytest.raises(UserError, match=r"could not be downloaded.*data\.digits=sklearn"):
        load_digits("train", 28, digits="mnist")


def test_missing_tfds_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install tensorflow-datasets.*data\.digits=sklearn"):
        load_digits("train", 28, digits="mnist")


def test_unknown_source_and_split_suggest_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load_digits("train", 28, digits="mnits")
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_digits("trian", 28)


@pytest.mark.skipif("CWVAE_MNIST_DIR" not in os.environ, reason="CWVAE_MNIST_DIR is not set")
def test_the_real_mnist():
    folder = os.environ["CWVAE_MNIST_DIR"]
    images, labels, _ = load_digits("train", 28, digits_dir=folder)
    assert images.shape == (60000, 28, 28)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    images, labels, _ = load_digits("test", 16, digits_dir=folder)
    assert images.shape == (10000, 16, 16)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


# The names that MNIST is distributed under.


def layout(folder: Path, name: str, source: Path) -> Path:
    """Makes a folder with MNIST's files under other names."""
    for packed in source.iterdir():
        data = packed.read_bytes()
        data = gzip.decompress(data) if packed.suffix == ".gz" else data
        stem = packed.name.removesuffix(".gz")
        path = folder / name.format(stem, dotted=stem.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


LAYOUTS = (
    "{0}",
    "{dotted}",
    "raw/{0}",
    "MNIST/raw/{0}",
    "MNIST/raw/{dotted}",
    "{0}/{0}",
    "{0}/{dotted}",
)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_idx_files_are_found_under_all_their_names(idx_folder, tmp_path, name, end):
    folder = layout(tmp_path / "other", name + end, idx_folder)
    for split, prefix, labels in (("train", "train", [4, 5, 6, 7, 8]), ("test", "t10k", [4, 5, 6])):
        found = load_digits(split, 28, digits_dir=folder)
        np.testing.assert_array_equal(found.images, random_images(prefix))
        assert found.labels.tolist() == labels


def test_two_files_of_the_same_name_must_be_equal(idx_folder):
    layout(idx_folder, "MNIST/raw/{dotted}", idx_folder)  # Unpacked copies.
    load_digits("train", 28, digits_dir=idx_folder)
    other = idx_folder / "MNIST" / "raw" / "train-labels.idx1-ubyte"
    other.write_bytes(idx_bytes(np.arange(5)))
    with pytest.raises(UserError, match="both have a name of the same file") as caught:
        load_digits("train", 28, digits_dir=idx_folder)
    assert str(other) in str(caught.value)
    assert str(idx_folder / "train-labels-idx1-ubyte.gz") in str(caught.value)


# The checksum that identifies digits.


def test_the_checksum_depends_on_images_and_labels_and_not_on_place_or_size(idx_folder, tmp_path):
    folder = layout(tmp_path / "moved", "MNIST/raw/{dotted}", idx_folder)
    digests = [
        load_digits("test", 28, digits_dir=idx_folder).sha256,
        load_digits("test", 28, digits_dir=folder).sha256,
        load_digits("test", 14, digits_dir=folder).sha256,
    ]
    assert len(set(digests)) == 1
    images = random_images("t10k")
    changes = {
        "labels.idx1": idx_bytes(np.array([4, 5, 7])),
        "images.idx3": idx_bytes(images ^ (images == images.max())),
    }
    for name, data in changes.items():
        (folder / "MNIST" / "raw" / f"t10k-{name}-ubyte").write_bytes(data)
        digests.append(load_digits("test", 28, digits_dir=folder).sha256)
    assert len(set(digests)) == 3
