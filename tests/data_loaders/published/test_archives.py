"""Tests of reading from zip archives: good, damaged and malicious ones."""

import errno
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from cwvae.errors import UserError
from data_loaders.published import archives
from data_loaders.published.archives import members, read_member
from data_loaders.sources import BadVideo, UnreadableVideo

NOISE = np.random.default_rng(0).bytes(5000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "videos.zip"


def write(path, files, compression=zipfile.ZIP_STORED):
    """Writes an archive; names may be ZipInfo."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_videos_are_listed_and_read_in_place(path):
    files = {
        "train/": b"",
        "train/b.mp4": NOISE,
        "train/a.avi": b"a",
        "train/C.MP4": b"c",
        "train/b.json": b"{}",
        "readme.txt": b"",
        "__MACOSX/train/._b.mp4": b"fork",
        "train/.hidden.mp4": b"",
        ".git/d.mp4": b"",
    }
    write(path, files)
    assert members(path) == ["train/C.MP4", "train/a.avi", "train/b.mp4"]
    assert members(path, (".json",)) == ["train/b.json"]
    assert read_member(path, "train/b.mp4") == NOISE
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_back_unchanged(path, compression):
    files = {"a.mp4": NOISE, "b.mp4": bytes(100_000), "empty.mp4": b""}
    write(path, files, compression)
    assert {name: read_member(path, name) for name in members(path)} == files


@pytest.fixture
def opened(monkeypatch):
    """The archives that were opened."""
    real, paths = zipfile.ZipFile, []

    def note(path, *args):
        paths.append(path)
        return real(path, *args)

    monkeypatch.setattr(archives.zipfile, "ZipFile", note)
    return paths


def test_an_archive_is_opened_once_until_it_changes(path, opened):
    write(path, {"a.mp4": b"old"})
    opened.clear()
    assert members(path) == ["a.mp4"]
    assert read_member(str(path), "a.mp4") == b"old"
    assert opened == [path]
    write(path, {"a.mp4": b"newer"})
    assert read_member(path, "a.mp4") == b"newer"


def test_a_forked_process_opens_its_own(path, opened, monkeypatch):
    write(path, {"a.mp4": NOISE})
    opened.clear()
    read_member(path, "a.mp4")
    monkeypatch.setattr(archives.os, "getpid", lambda: -1)
    read_member(path, "a.mp4")
    assert opened == [path, path]


def named(name):
    """Returns a member with exactly this name, which ZipInfo might correct."""
    info = zipfile.ZipInfo("a")
    info.filename = name
    return info


def symlink():
    info = zipfile.ZipInfo("train/link.mp4")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (named("/etc/passwd.mp4"), "has an absolute name"),
        (named("//server/share.mp4"), "has an absolute name"),
        (named("C:/a.mp4"), "has an absolute name"),
        (named("c:a.mp4"), "has an absolute name"),
        (named("../a.mp4"), "may lead out"),
        (named("train/../../a.mp4"), "may lead out"),
        (named(".."), "may lead out"),
        (named("..\\a.mp4"), "may lead out"),
        (named("train\\a.mp4"), "may lead out"),
        (symlink(), "is a symbolic link"),
    ],
    ids=lambda value: getattr(value, "filename", None),
)
def test_names_that_lead_out_of_the_folder_are_rejected(path, member, problem):
    write(path, {"train/good.mp4": b"", member: b"target"})
    for call in (members, lambda path: read_member(path, "train/good.mp4")):
        with pytest.raises(UserError, match=problem) as caught:
            call(path)
        assert str(path) in str(caught.value)
        assert repr(member.filename) in str(caught.value)
        assert "run the same command again" in str(caught.value)


def test_a_name_with_a_null_byte_is_rejected(path):
    write(path, {"aX.mp4": b""})
    path.write_bytes(path.read_bytes().replace(b"aX.mp4", b"a\0.mp4"))
    with pytest.raises(UserError, match="may lead out"):
        members(path)


@pytest.mark.parametrize("second", ["train/a.mp4", "train//a.mp4", "./train/a.mp4"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_duplicate_name_is_rejected(path, second):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/a.mp4", b"1")
        archive.writestr(second, b"2")
    with pytest.raises(UserError, match="is there twice"):
        members(path)


def patch_central(path, offset, value):
    """Changes a uint16 of the first entry of the archive's index."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + offset : entry + offset + 2] = struct.pack("<H", value)
    path.write_bytes(data)


def test_encrypted_members_are_rejected(path):
    write(path, {"a.mp4": b"a"})
    patch_central(path, 8, 1)
    with pytest.raises(UserError, match=r"'a\.mp4' is encrypted"):
        members(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 98])
def test_other_compressions_are_rejected(path, method):
    write(path, {"a.mp4": b"a"})
    patch_central(path, 10, method)
    with pytest.raises(UserError, match=f"compressed by method {method}"):
        members(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", NOISE])
def test_a_file_that_is_not_a_zip_archive_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a zip archive") as caught:
        members(path)
    assert str(path) in str(caught.value)
    assert "Delete it and run the same command again" in str(caught.value)


def test_a_missing_archive_or_a_folder_in_its_place(path):
    with pytest.raises(UserError, match=r"videos\.zip: cannot be read \(No such file"):
        members(path)
    path.mkdir()
    with pytest.raises(UserError, match=r"videos\.zip: cannot be read \(Is a directory"):
        members(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_named(path, keep):
    write(path, {f"{i}.mp4": NOISE for i in range(5)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match="cut short"):
        members(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_damages_only_one_video(path, compression):
    text = b"".join(b"%d " % i for i in range(5000))
    write(path, {"a.mp4": text, "b.mp4": text}, compression)
    data = bytearray(path.read_bytes())
    data[200] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(BadVideo, match=r"is damaged in .*videos\.zip"):
        read_member(path, "a.mp4")
    assert read_member(path, "b.mp4") == text


def test_damage_anywhere_is_one_of_two_errors(path):
    write(path, {"train/a.mp4": NOISE[:300], "b.mp4": bytes(300)}, zipfile.ZIP_DEFLATED)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    outcomes = set()
    for n in range(1500):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            data[at] = rng.integers(256)
        damaged = path.with_name(f"{n}.zip")
        damaged.write_bytes(data)
        try:
            for name in members(damaged):
                read_member(damaged, name)
            outcomes.add("read")
        except (UserError, BadVideo) as error:
            outcomes.add(type(error).__name__)
        damaged.unlink()
    assert outcomes == {"UserError", "BadVideo", "read"}


def test_a_member_that_is_not_there(path):
    write(path, {"a.mp4": b""})
    with pytest.raises(BadVideo, match="is not in"):
        read_member(path, "b.mp4")


def test_a_member_that_would_fill_the_memory_is_rejected(path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    write(path, {"a.mp4": bytes(10_001), "b.mp4": bytes(10_000)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(BadVideo, match=r"has 10001 bytes .* more than 10000"):
        read_member(path, "a.mp4")
    assert len(read_member(path, "b.mp4")) == 10_000


def test_a_member_with_a_false_size_takes_no_more_memory_than_that_size(path):
    write(path, {"a.mp4": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace(struct.pack("<I", 50_000_000), struct.pack("<I", 1000))
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(BadVideo, match="damaged"):
        read_member(path, "a.mp4")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_an_archive_that_the_system_cannot_read_is_not_called_damaged(path, monkeypatch):
    write(path, {"train/a.mp4": NOISE})
    members(path)

    def fail(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(UnreadableVideo, match=r"cannot be read from .*: Stale file handle"):
        read_member(path, "train/a.mp4")
