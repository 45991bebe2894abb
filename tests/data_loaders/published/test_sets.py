"""Tests of the data sets of archive.org, on small archives with the same layout, over HTTP."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.http_server import serve
from helpers.video_files import write_video

from cwvae.errors import UserError
from data_loaders.published import downloads, sets
from data_loaders.published.sets import FACTS, Published
from data_loaders.sources import BadVideo, natural_order

# The folders in each data set's archive; MineRL's are one level deeper.
FOLDERS = {
    "minerl_navigate": {"train": "minerl_navigate/train", "test": "minerl_navigate/test"},
    "gqn_mazes": {"train": "train", "test": "test"},
    "moving_mnist_2digit": {"train": "train-seq100", "test": "test-seq1000"},
}
VIDEOS = {"train": ["1.mp4", "2.mp4", "10.mp4"], "test": ["1.mp4"]}


def frames_of(name: str, split: str, video: str, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng([*name.encode(), *split.encode(), *video.encode()])
    shape = (6, size, size) if FACTS[name].frame_shape[-1] == 1 else (6, size, size, 3)
    return rng.integers(0, 256, shape).astype(np.uint8)


def write_archive(path: Path, name: str, sizes: dict[str, int] | None = None) -> Path:
    """Writes a small archive; `sizes` has the frame sizes of training videos that are not 64."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.md", "About the data.")
        for split, videos in VIDEOS.items():
            for video in videos:
                size = (sizes or {}).get(video, 64) if split == "train" else 64
                frames = frames_of(name, split, video, size)
                file = write_video(path.with_name(video), frames)
                member = f"{FOLDERS[name][split]}/{video}"
                archive.write(file, member)
                archive.writestr(f"{member.removesuffix('.mp4')}.json", "{}")
                archive.writestr(f"__MACOSX/{FOLDERS[name][split]}/._{video}", b"fork")
                file.unlink()
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Makes an archive, once for each data set."""
    made = {}

    def make(name):
        if name not in made:
            path = tmp_path_factory.mktemp(name) / next(iter(FACTS[name].files))
            made[name] = write_archive(path, name)
        return made[name]

    return make


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", (0.01,))
    with serve() as running:
        monkeypatch.setattr(downloads, "ARCHIVE_ORG", running.url)
        yield running


def publish(server, monkeypatch, name: str, content: bytes) -> str:
    """Serves an archive instead of the real one; returns its path on the server."""
    facts = FACTS[name]
    ((file, (url,)),) = facts.files.items()
    path = f"/download/{facts.item}/{file}"
    assert url.endswith(path)
    server.files[path] = content
    entry = {"name": file, "size": str(len(content)), "sha1": hashlib.sha1(content).hexdigest()}
    server.files[f"/metadata/{facts.item}/files"] = json.dumps({"result": [entry]}).encode()
    local = dataclasses.replace(facts, files={file: (server.url + path,)})
    monkeypatch.setitem(FACTS, name, local)
    return path


def read_all(source, split, item) -> np.ndarray:
    return np.concatenate(list(source.read(split, item)))


def assert_holds_the_videos(source: Published) -> None:
    name = source.name
    for split, videos in VIDEOS.items():
        items = source.items(split)
        assert items == [f"{FOLDERS[name][split]}/{video}" for video in videos]
        for item, video in zip(items, videos, strict=True):
            expected = frames_of(name, split, video).reshape(6, *FACTS[name].frame_shape)
            np.testing.assert_array_equal(read_all(source, split, item), expected)


@pytest.mark.parametrize("name", FACTS)
def test_from_an_interrupted_download_to_frames(
    server, archive, monkeypatch, tmp_path, capfd, name
):
    content = archive(name).read_bytes()
    path = publish(server, monkeypatch, name, content)
    cut = len(content) // 2 // 2**14 * 2**14
    server.cuts[path] = [cut]
    source = Published(name, data_dir=str(tmp_path))
    source.fetch()
    _, first, second = server.requests
    assert (first.sent, second.sent) == (cut, len(content) - cut)
    assert second.range == f"bytes={cut}-"
    printed = capfd.readouterr().err
    facts = FACTS[name]
    for part in (facts.description, facts.homepage, facts.licence, str(tmp_path / "downloads")):
        assert part in printed
    assert_holds_the_videos(source)
    assert (tmp_path / "downloads" / archive(name).name).read_bytes() == content
    counts = facts.frames_per_video
    assert source.expected_frames() == 3 * counts["train"] + counts["test"]

    assert f"about {source.expected_frames():,} frames" in printed  # Of millions.
    source.fetch()  # Nothing is downloaded again.
    assert len(server.requests) == 3
    assert "Downloading" not in capfd.readouterr().err


def test_the_default_folder(server, archive, monkeypatch, tmp_path):
    publish(server, monkeypatch, "gqn_mazes", archive("gqn_mazes").read_bytes())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "not made yet"))
    source = Published("gqn_mazes")
    source.fetch()
    assert (tmp_path / "not made yet" / "downloads" / "gqn_mazes.zip").is_file()
    assert_holds_the_videos(source)


def test_without_metadata_the_archive_is_still_downloaded(
    server, archive, monkeypatch, tmp_path, capfd
):
    publish(server, monkeypatch, "gqn_mazes", archive("gqn_mazes").read_bytes())
    del server.files["/metadata/gqn_mazes/files"]
    source = Published("gqn_mazes", data_dir=str(tmp_path))
    source.fetch()
    assert "Note: no checksum for gqn_mazes.zip" in capfd.readouterr().err
    assert_holds_the_videos(source)


def test_a_file_other_than_the_published_one_is_rejected(server, archive, monkeypatch, tmp_path):
    content = archive("gqn_mazes").read_bytes()
    path = publish(server, monkeypatch, "gqn_mazes", content)
    server.files[path] = content[:-1] + b"x"
    with pytest.raises(UserError, match="checksum mismatch"):
        Published("gqn_mazes", data_dir=str(tmp_path)).fetch()


def test_without_a_network_the_urls_and_the_folder_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "ARCHIVE_ORG", "http://localhost:9")
    url = "http://localhost:9/gqn_mazes.zip"
    facts = dataclasses.replace(FACTS["gqn_mazes"], files={"gqn_mazes.zip": (url,)})
    monkeypatch.setitem(FACTS, "gqn_mazes", facts)
    with pytest.raises(UserError, match="Connection refused") as caught:
        Published("gqn_mazes", data_dir=str(tmp_path)).fetch()
    assert url in str(caught.value)
    assert str(tmp_path / "downloads" / "gqn_mazes.zip") in str(caught.value)


@pytest.mark.parametrize("name", FACTS)
def test_existing_archives_are_used_in_place(archive, name):
    path = archive(name)
    source = Published(name, archives_dir=str(path.parent), data_dir="/not/looked/at")
    source.fetch()
    assert_holds_the_videos(source)
    assert list(path.parent.iterdir()) == [path]


def test_an_archive_that_is_not_in_the_folder_is_named(server, tmp_path):
    with pytest.raises(UserError) as caught:
        Published("gqn_mazes", archives_dir=str(tmp_path)).fetch()
    url = "https://archive.org/download/gqn_mazes/gqn_mazes.zip"
    for part in ("gqn_mazes.zip", str(tmp_path), url, "data.archives_dir"):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["data_dir", "archives_dir"])
def test_a_folder_that_does_not_exist_is_named(tmp_path, option):
    folder = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"data\.{option}: .*nowhere is not a folder"):
        Published("gqn_mazes", **{option: folder}).fetch()
    assert not (tmp_path / "nowhere").exists()


def test_frames_are_converted_to_another_size_and_number_of_channels(archive):
    folder = str(archive("gqn_mazes").parent)
    source = Published("gqn_mazes", frame_size=32, channels=1, archives_dir=folder)
    assert source.frame_shape == (32, 32, 1)
    assert read_all(source, "train", "train/1.mp4").shape == (6, 32, 32, 1)
    source = Published("gqn_mazes", archives_dir=folder)
    assert source.frame_shape == (64, 64, 3)


def test_a_video_of_another_size_is_skipped_and_the_others_are_read(tmp_path):
    write_archive(tmp_path / "gqn_mazes.zip", "gqn_mazes", sizes={"2.mp4": 48})
    source = Published("gqn_mazes", archives_dir=str(tmp_path))
    source.fetch()
    with pytest.raises(BadVideo, match="48"):
        read_all(source, "train", "train/2.mp4")
    assert read_all(source, "train", "train/10.mp4").shape == (6, 64, 64, 3)


def test_a_damaged_video_is_skipped_and_the_others_are_read(archive, tmp_path):
    data = bytearray(archive("gqn_mazes").read_bytes())
    with zipfile.ZipFile(archive("gqn_mazes")) as file:
        data[file.getinfo("train/2.mp4").header_offset + 500] ^= 1
    (tmp_path / "gqn_mazes.zip").write_bytes(data)
    source = Published("gqn_mazes", archives_dir=str(tmp_path))
    source.fetch()
    for call in (source.digest, lambda *item: list(source.read(*item))):
        with pytest.raises(BadVideo, match="is damaged"):
            call("train", "train/2.mp4")
    assert read_all(source, "train", "train/10.mp4").shape == (6, 64, 64, 3)


def test_the_digest_is_that_of_the_video_file(archive):
    source = Published("gqn_mazes", archives_dir=str(archive("gqn_mazes").parent))
    with zipfile.ZipFile(archive("gqn_mazes")) as file:
        expected = hashlib.sha256(file.read("train/10.mp4")).hexdigest()
    assert source.digest("train", "train/10.mp4") == expected


@pytest.mark.parametrize(
    "names", [[], ["train/1.avi"], ["a/b/train/1.mp4"], ["train/a/1.mp4"], ["trains/1.mp4"]]
)
def test_an_archive_of_something_else_is_rejected(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "gqn_mazes.zip", "w") as file:
        for name in names:
            file.writestr(name, b"")
    with pytest.raises(UserError, match="has no mp4 files in a folder train/"):
        Published("gqn_mazes", archives_dir=str(tmp_path)).fetch()


@pytest.mark.parametrize("content", [b"<html>", b"PK\x03\x04 cut short"])
def test_a_file_that_is_not_an_archive_is_rejected_by_fetch(tmp_path, content):
    (tmp_path / "gqn_mazes.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"gqn_mazes\.zip: is not a zip archive"):
        Published("gqn_mazes", archives_dir=str(tmp_path)).fetch()


def test_the_description_has_what_determines_the_frames_and_no_folders():
    first = Published("gqn_mazes", archives_dir="/somewhere", frame_size=32)
    expected = {"name": "gqn_mazes", "version": "1.0.0", "frame_size": 32, "channels": 3}
    expected |= {"fit": "crop", "resize": "area"}
    assert first.describe() == expected
    assert first.describe() == Published("gqn_mazes", data_dir="/else", frame_size=32).describe()
    assert first.describe() != Published("gqn_mazes", fit="squeeze", frame_size=32).describe()


def test_options_out_of_range():
    with pytest.raises(UserError, match=r"did you mean 'gqn_mazes'"):
        Published("gqn_maze")
    with pytest.raises(UserError, match=r"model\.channels is 2"):
        Published("gqn_mazes", channels=2)
    with pytest.raises(UserError, match=r"data\.fit 'cropp'; did you mean 'crop'"):
        Published("gqn_mazes", fit="cropp")
    with pytest.raises(UserError, match="did you mean 'train'"):
        Published("gqn_mazes").items("trian")


def test_natural_order():
    names = ["b/1.mp4", "a/10.mp4", "a/2.mp4", "a/02.mp4", "a/x.mp4", "a/1b.mp4", "1", "²", ""]
    expected = ["", "1", "a/1b.mp4", "a/02.mp4", "a/2.mp4", "a/10.mp4", "a/x.mp4", "b/1.mp4", "²"]
    assert sorted(names, key=natural_order) == expected


@pytest.mark.parametrize("name", FACTS)
def test_the_facts_of_every_data_set(name):
    facts = FACTS[name]
    assert facts.frame_shape[:2] == (64, 64)
    assert facts.folders.keys() == facts.frames_per_video.keys() == {"train", "test"}
    for file, urls in facts.files.items():
        assert urls == (f"https://archive.org/download/{facts.item}/{file}",)
    assert facts.homepage == f"https://archive.org/details/{facts.item}"
    assert facts.citation.count("@") >= 1


IMPORT = """
import sys
import data_loaders.published.kth_actions, data_loaders.published.sets
for module in ("tensorflow", "tensorflow_datasets", "av"):
    assert module not in sys.modules, module
"""


def test_importing_starts_neither_tensorflow_nor_a_decoder():
    root = Path(sets.__file__).parents[2]
    subprocess.run([sys.executable, "-c", IMPORT], check=True, cwd=root)


def test_stamps_are_the_checksums_and_sizes_in_the_archive(archive, tmp_path):
    path = archive("gqn_mazes")
    stamps = Published("gqn_mazes", archives_dir=str(path.parent)).stamps()
    with zipfile.ZipFile(path) as file:
        for name in ("train/1.mp4", "train/2.mp4", "train/10.mp4", "test/1.mp4"):
            content = file.read(name)
            assert stamps.pop(name) == f"{zlib.crc32(content):08x} {len(content)}"
    assert stamps == {}
    assert Published("gqn_mazes", archives_dir=str(tmp_path)).stamps() is None
    assert Published("gqn_mazes", data_dir=str(tmp_path)).stamps() is None


def test_what_is_done_to_a_video_is_noted(archive):
    folder = str(archive("gqn_mazes").parent)
    for size, channels, expected in ((64, 3, "unchanged"), (32, 1, "resized to 32x32 (area)")):
        notes = []
        source = Published("gqn_mazes", frame_size=size, channels=channels, archives_dir=folder)
        list(source.read("train", "train/1.mp4", notes.append))
        assert any("64x64" in note and expected in note for note in notes)
