"""Tests of downloads from a local server that fails, changes files, or sends wrong answers."""

import errno
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.http_server import serve

from cwvae.errors import UserError
from data_loaders.published import downloads
from data_loaders.published.downloads import Checksum, archive_org_checksum, download

CUT = 24 * 2**14  # A whole number of chunks.
CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA1 = Checksum("sha1", hashlib.sha1(CONTENT).hexdigest(), len(CONTENT))
ROOT = Path(downloads.__file__).parents[2]
NOBODY = "http://localhost:9/a.zip"  # Nothing listens there.


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", (0.01, 0.01, 0.01))


@pytest.fixture
def server():
    with serve() as running:
        running.files["/a.zip"] = CONTENT
        yield running


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "a.zip"


def part_of(path: Path) -> Path:
    return path.with_name("a.zip.part")


def assert_only(path: Path, content: bytes = CONTENT) -> None:
    """Checks that the file is complete, and that only the lock is left next to it."""
    assert path.read_bytes() == content
    assert {file.name for file in path.parent.iterdir()} <= {"a.zip", "a.zip.lock"}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", None])
def test_a_file_is_complete_and_not_downloaded_twice(server, path, capfd, algorithm):
    checksum = algorithm and Checksum(algorithm, hashlib.new(algorithm, CONTENT).hexdigest())
    download([f"{server.url}/a.zip"], path, checksum)
    assert_only(path)
    assert "1.00M/1.00M" in capfd.readouterr().err
    download([f"{server.url}/a.zip"], path, checksum)
    assert len(server.requests) == 1


def test_an_interrupted_connection_is_resumed(server, path, capfd):
    server.cuts["/a.zip"] = [CUT, 2**14]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert [request.range for request in server.requests] == [
        None,
        f"bytes={CUT}-",
        f"bytes={CUT + 2**14}-",
    ]
    assert sum(request.sent for request in server.requests) == len(CONTENT)
    assert "cut. Trying again" in capfd.readouterr().err


def test_a_later_call_resumes(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", ())
    server.cuts["/a.zip"] = [CUT]
    with pytest.raises(UserError, match=r"connection was cut.*resumes after 393kB") as caught:
        download([f"{server.url}/a.zip"], path, SHA1)
    assert str(path) in str(caught.value)
    assert not path.exists()
    assert part_of(path).read_bytes() == CONTENT[:CUT]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert server.requests[1].range == f"bytes={CUT}-"
    assert server.requests[1].sent == len(CONTENT) - CUT


def test_a_file_that_changed_meanwhile_is_downloaded_from_the_start(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", ())
    server.cuts["/a.zip"] = [CUT]
    with pytest.raises(UserError):
        download([f"{server.url}/a.zip"], path)
    server.files["/a.zip"] = CONTENT[::-1]
    download([f"{server.url}/a.zip"], path)
    assert_only(path, CONTENT[::-1])
    assert server.requests[1].if_range
    assert server.requests[1].status == 200


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(server, path, etag):
    server.etags["/a.zip"] = etag
    server.cuts["/a.zip"] = [CUT]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert [request.range for request in server.requests] == [None, None]


def test_a_server_without_ranges_sends_all_again(server, path):
    server.ranges = False
    server.cuts["/a.zip"] = [CUT]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert [request.status for request in server.requests] == [200, 200]


def test_a_server_that_always_fails_at_the_same_byte_is_given_up(server, path):
    server.ranges = False
    server.cuts["/a.zip"] = [CUT] * 99
    with pytest.raises(UserError, match="cut"):
        download([f"{server.url}/a.zip"], path, SHA1)
    assert len(server.requests) == 1 + len(downloads.RETRY_SECONDS)


def test_a_stalled_connection_is_closed_and_resumed(server, path, monkeypatch, capfd):
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.2)
    server.stalls["/a.zip"] = [CUT]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert server.requests[1].range == f"bytes={CUT}-"
    assert "nothing received for 0.2 s" in capfd.readouterr().err


def test_an_overloaded_server_is_asked_again_in_the_middle_of_a_file_only(server, path):
    server.statuses["/a.zip"] = [503]
    with pytest.raises(UserError, match="HTTP 503 Service Unavailable"):
        download([f"{server.url}/a.zip"], path, SHA1)
    assert len(server.requests) == 1
    server.statuses["/a.zip"] = [200, 503]
    server.cuts["/a.zip"] = [CUT]
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert [request.status for request in server.requests[1:]] == [200, 503, 206]


def test_the_next_url_resumes(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", ())
    server.files["/b.zip"] = CONTENT
    server.cuts["/a.zip"] = [CUT]
    download([NOBODY, f"{server.url}/a.zip", f"{server.url}/b.zip"], path, SHA1)
    assert_only(path)
    assert [request.path for request in server.requests] == ["/a.zip", "/b.zip"]
    assert server.requests[1].sent == len(CONTENT) - CUT


def test_without_a_network_it_fails_at_once(path):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        download([NOBODY, "http://no-such-host.invalid/a.zip"], path)
    assert time.monotonic() - began < 5
    for part in (NOBODY, "Connection refused", "no-such-host", str(path), "The same command"):
        assert part in str(caught.value)
    assert not part_of(path).exists()


def test_a_missing_file_is_reported_with_its_status(server, path):
    with pytest.raises(UserError, match=r"/b\.zip: HTTP 404 Not Found"):
        download([f"{server.url}/b.zip"], path)


def test_only_http_is_supported(tmp_path, path):
    (tmp_path / "a.zip").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"file://.*No connection adapters"):
        download([(tmp_path / "a.zip").as_uri()], path)


def test_a_wrong_file_is_renamed_and_the_next_call_starts_again(server, path):
    server.files["/a.zip"] = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    found = hashlib.sha1(server.files["/a.zip"]).hexdigest()
    with pytest.raises(UserError, match="checksum mismatch") as caught:
        download([f"{server.url}/a.zip"], path, SHA1)
    damaged = path.with_name("a.zip.damaged")
    for part in (found, SHA1.digest, str(damaged)):
        assert part in str(caught.value)
    assert damaged.read_bytes() == server.files["/a.zip"]
    assert not path.exists()
    server.files["/a.zip"] = CONTENT
    download([f"{server.url}/a.zip"], path, SHA1)
    assert path.read_bytes() == CONTENT
    assert server.requests[-1].range is None


def test_a_damaged_part_is_not_resumed_forever(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRY_SECONDS", ())
    server.cuts["/a.zip"] = [CUT]
    with pytest.raises(UserError, match="cut"):
        download([f"{server.url}/a.zip"], path, SHA1)
    part_of(path).write_bytes(bytes(CUT))
    with pytest.raises(UserError, match="checksum mismatch"):
        download([f"{server.url}/a.zip"], path, SHA1)
    download([f"{server.url}/a.zip"], path, SHA1)
    assert path.read_bytes() == CONTENT


def test_a_file_of_another_size_is_not_downloaded(server, path):
    server.files["/a.zip"] = b"<html>Sorry, down for maintenance</html>"
    with pytest.raises(UserError, match="has 40 bytes; expected 1000000"):
        download([f"{server.url}/a.zip"], path, SHA1)
    assert not part_of(path).exists()


@pytest.mark.parametrize("state", [None, "{", "[]", '{"validator": 1, "total": "x"}'])
def test_a_part_of_unknown_version_is_discarded(server, path, state):
    path.parent.mkdir()
    part_of(path).write_bytes(b"something else")
    if state is not None:
        path.with_name("a.zip.part.json").write_text(state)
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert server.requests[0].range is None


@pytest.mark.parametrize("extra", [0, 1])
def test_a_part_that_is_complete_or_too_long(server, path, extra):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT + bytes(extra))
    state = {"validator": '"a"', "total": len(CONTENT)}
    path.with_name("a.zip.part.json").write_text(json.dumps(state))
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert len(server.requests) == extra  # A complete part was only checked.


def test_a_part_that_the_server_does_not_know_is_discarded(server, path):
    server.cuts["/a.zip"] = [CUT]
    server.statuses["/a.zip"] = [200, 416]
    with pytest.raises(UserError, match="HTTP 416"):
        download([f"{server.url}/a.zip"], path, SHA1)
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert server.requests[-1].range is None


def test_a_server_with_the_same_etag_for_two_versions(server, path, monkeypatch):
    server.cuts["/a.zip"] = [CUT]
    server.etags["/a.zip"] = '"same for all"'
    shorter = CONTENT[:-1]
    monkeypatch.setattr(downloads.time, "sleep", lambda _: server.files.update({"/a.zip": shorter}))
    download([f"{server.url}/a.zip"], path)
    assert_only(path, shorter)
    assert [request.status for request in server.requests] == [200, 206, 200]


def test_a_file_of_unknown_length(server, path):
    server.lengths = False
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)


def test_a_disk_that_is_too_small_is_reported_before_the_download(server, small_disk):
    server.files["/a.zip"] = bytes(2_000_000)
    with pytest.raises(UserError, match=r"needs 2\.00MB more.*1\.0\dMB are free.*data_dir"):
        download([f"{server.url}/a.zip"], small_disk / "a.zip")
    assert not (small_disk / "a.zip.part").exists()


def test_a_disk_that_fills_up_keeps_the_part(server, small_disk):
    server.files["/a.zip"] = bytes(2_000_000)
    server.lengths = False
    with pytest.raises(UserError, match=r"No space left.*Make room"):
        download([f"{server.url}/a.zip"], small_disk / "a.zip")
    assert part_of(small_disk / "a.zip").stat().st_size > 900_000


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "downloads").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"a\.zip cannot be written to .*downloads \(File exists\)"):
        download([f"{server.url}/a.zip"], tmp_path / "downloads" / "a.zip")
    assert not server.requests


def test_disk_errors_are_not_reported_as_network_errors(server, path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(downloads.os, "replace", fail)
    with pytest.raises(UserError, match="cannot be written"):
        download([f"{server.url}/a.zip"], path, SHA1)
    monkeypatch.undo()
    download([f"{server.url}/a.zip"], path, SHA1)  # Nothing is downloaded again.
    assert len(server.requests) == 1


def test_ctrl_c_leaves_a_part_that_is_resumed(server, path, monkeypatch):
    append = downloads._Part.append

    def interrupt(part, data):
        append(part, data)
        if part.size > 500_000:
            raise KeyboardInterrupt

    monkeypatch.setattr(downloads._Part, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download([f"{server.url}/a.zip"], path, SHA1)
    monkeypatch.undo()
    size = part_of(path).stat().st_size
    download([f"{server.url}/a.zip"], path, SHA1)
    assert_only(path)
    assert server.requests[1].range == f"bytes={size}-"


SECOND = """
import pathlib, sys
from data_loaders.published.downloads import download
download([sys.argv[1]], pathlib.Path(sys.argv[2]))
"""


def test_of_two_processes_one_downloads_and_the_other_waits(server, path, monkeypatch):
    command = [sys.executable, "-c", SECOND, f"{server.url}/a.zip", str(path)]
    append, others = downloads._Part.append, []

    def start_another(part, data):
        append(part, data)
        if not others:
            other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
            others.append(other)
            assert "is downloading a.zip" in other.stderr.readline()

    monkeypatch.setattr(downloads._Part, "append", start_another)
    download([f"{server.url}/a.zip"], path, SHA1)
    assert others[0].wait(timeout=20) == 0
    others[0].stderr.close()
    assert_only(path)
    assert len(server.requests) == 1


def metadata(**entry) -> bytes:
    other = {"name": "other.xml", "size": "1"}
    return json.dumps({"result": [other, {"name": "a.zip", **entry}]}).encode()


@pytest.mark.parametrize("algorithm", ["sha1", "md5"])
def test_archive_org_gives_checksum_and_size(server, monkeypatch, algorithm):
    monkeypatch.setattr(downloads, "ARCHIVE_ORG", server.url)
    digests = {"md5": "aa", "sha1": "bb"} if algorithm == "sha1" else {"md5": "AA"}
    server.files["/metadata/mazes/files"] = metadata(size="123", **digests)
    expected = Checksum(algorithm, "bb" if algorithm == "sha1" else "aa", 123)
    assert archive_org_checksum("mazes", "a.zip") == expected


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "HTTP 404"),
        (b"<html>", "JSONDecodeError"),
        (b"{}", "'result'"),
        (b"[]", "unexpected response"),
        (b'{"result": null}', "unexpected response"),
        (b'{"result": []}', "'a.zip'"),
        (metadata(size="123"), "'md5'"),
        (metadata(size="many", sha1="bb"), "'many'"),
        (metadata(size="123", sha1=5), "unexpected response"),
    ],
)
def test_without_metadata_a_note_is_printed(server, monkeypatch, capfd, answer, reason):
    monkeypatch.setattr(downloads, "ARCHIVE_ORG", server.url)
    if answer is not None:
        server.files["/metadata/mazes/files"] = answer
    assert archive_org_checksum("mazes", "a.zip") is None
    note = capfd.readouterr().err
    assert "no checksum for a.zip" in note
    assert reason in note


def test_the_default_folder_is_that_of_tensorflow_datasets(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert downloads.default_data_dir() == Path.home() / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert downloads.default_data_dir() == Path("/somewhere")
