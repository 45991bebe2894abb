"""Features on the disk."""

import numpy as np
import pytest

from cwvae.metrics.features import Features

PIECES = [(0, 9), (4, 13)]


def filled(seed=0):
    """Returns features of 301 videos, more than one chunk, written in batches of odd sizes."""
    values = np.random.default_rng(seed).normal(0, 1, (2, 301, 5)).astype(np.float32)
    features = Features(PIECES, 301, 5)
    for rows in (slice(0, 7), slice(7, 300), slice(300, 301)):
        features.append(list(values[:, rows]))
    return features, values


def read_back(features):
    return np.stack([np.concatenate(list(features.chunks(piece))) for piece in PIECES])


def test_written_features_can_be_read():
    features, values = filled()
    assert features.written == 301
    np.testing.assert_array_equal(read_back(features), values)


def test_kept_features_can_be_read(tmp_path):
    features, values = filled()
    path = tmp_path / "new" / "a.features"
    assert Features.read(path, PIECES, 301, 5) is None
    features.keep(path)
    found = Features.read(path, PIECES, 301, 5)
    assert found.written == 301
    np.testing.assert_array_equal(read_back(found), values)
    assert [file.name for file in path.parent.iterdir()] == ["a.features"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "longer"])
def test_a_damaged_file_is_reported_and_not_used(tmp_path, capsys, damage):
    path = tmp_path / "a.features"
    filled()[0].keep(path)
    content = bytearray(path.read_bytes())
    content[1000] ^= damage == "flipped"
    ends = {"cut": len(content) - 1, "emptied": 0, "flipped": len(content), "longer": len(content)}
    path.write_bytes(content[: ends[damage]] + b"x" * (damage == "longer"))
    assert Features.read(path, PIECES, 301, 5) is None
    assert f"{path}: damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, capsys):
    (tmp_path / "in_the_way").touch()
    features, values = filled()
    features.keep(tmp_path / "in_the_way" / "a.features")
    assert "cannot be written" in capsys.readouterr().err
    np.testing.assert_array_equal(read_back(features), values)
