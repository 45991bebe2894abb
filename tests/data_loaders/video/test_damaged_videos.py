"""Tests of the messages for video files that are truncated, damaged or not videos."""

import io
import re
import struct
import sys
import wave

import av
import numpy as np
import pytest
from helpers.video_files import H, W, counting, fault, read, scene, write_video
from PIL import Image

from cwvae.errors import UserError
from data_loaders.video.frames import frames_and_rate


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Writes the same 100 frames to several kinds of files."""
    folder, frames = tmp_path_factory.mktemp("whole"), scene(100)
    kinds = {
        "front.mp4": {"options": {"movflags": "faststart"}},
        "end.mp4": {},
        "usual.mp4": {"codec": "libx264", "options": {"movflags": "faststart"}},
        "raw.avi": {},
        "usual.avi": {"codec": "mpeg4"},
        "raw.mkv": {},
        "usual.mkv": {"codec": "libx264"},
        "usual.webm": {"codec": "libvpx"},
        "usual.gif": {},
    }
    return {
        name: write_video(folder / name, frames, **how).read_bytes() for name, how in kinds.items()
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("front.mp4", "of 100 frames can be read"),
        ("end.mp4", "cannot be opened"),
        ("usual.mp4", "of 100 frames can be read"),
        ("raw.avi", "of 100 frames can be read"),
        ("usual.avi", "of 100 frames can be read"),
        ("raw.mkv", "bytes are there"),
        ("usual.mkv", "bytes are there"),
        ("usual.webm", "bytes are there"),
        ("usual.gif", "is cut short: the end of the GIF is missing"),
    ],
)
def test_videos_that_are_cut_short(whole, capfd, name, words):
    content = whole[name]
    assert len(read(content, name)) == 100
    assert words in fault(content[: int(0.6 * len(content))], name)
    assert fault(content[:30], name).startswith(("cannot be opened", "is cut short"))
    assert capfd.readouterr().err == ""


def test_an_mp4_cut_short_between_two_frames(whole):
    content = whole["front.mp4"]
    with av.open(io.BytesIO(content)) as container:
        start = [packet.pos for packet in container.demux(video=0)][50]
    assert fault(content[:start], "a.mp4") == "is cut short: 50 of 100 frames can be read"


@pytest.mark.parametrize("name", ["raw.mkv", "usual.webm"])
def test_a_matroska_file_cut_short_anywhere(whole, name):
    content = whole[name]
    for cut in np.random.default_rng(0).integers(1000, len(content), 40):
        assert "is cut short: " in fault(content[:cut], name)
        assert "is damaged or cut short: " in fault(content[:cut].ljust(len(content), b"\0"), name)
    assert len(read(content + bytes(1000), name)) == 100


def test_a_matroska_file_that_lost_a_cluster(whole):
    content = bytearray(whole["raw.mkv"])
    second = content.index(bytes.fromhex("1f43b675"), content.index(bytes.fromhex("1f43b675")) + 4)
    content[second] ^= 1
    assert "is damaged or cut short: " in fault(bytes(content), "a.mkv")


def test_the_last_frame_may_be_held(tmp_path):
    """Matroska tells when it ends."""
    path = write_video(tmp_path / "a.mkv", counting(25))
    content = path.read_bytes().replace(b"00:00:01.000000000", b"00:00:04.000000000")
    assert b"00:00:04.0" in content
    assert len(read(content, "a.mkv")) == 25


def test_a_live_recording_in_matroska(tmp_path):
    """Nothing tells where it ends, but a cut within a frame is noticed."""
    path = write_video(tmp_path / "a.mkv", scene(50), options={"live": "1"})
    content = path.read_bytes()
    assert len(read(content, "a.mkv")) == 50
    assert "is cut short: " in fault(content[:-100], "a.mkv")


@pytest.mark.parametrize("tag", [b"DURATION", b"OTHERTAG"])
def test_sound_may_be_longer(tmp_path, tag):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = W, H, "gray"
        audio = container.add_stream("pcm_s16le", rate=8000)
        for frame in scene(50, 1):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(video.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 40000), np.int16), layout="mono")
        silence.sample_rate = 8000
        container.mux(audio.encode(silence))
    content = path.read_bytes().replace(b"DURATION", tag)
    assert len(read(content, "a.mkv")) == 50
    if tag == b"DURATION":
        cut = fault(content[: len(content) // 2], "a.mkv")
        assert "is cut short: " in cut


def test_texts_in_a_file_need_not_be_utf_8(tmp_path):
    content = write_video(tmp_path / "a.mp4", scene(5)).read_bytes()
    assert len(read(content.replace(b"VideoHandler", b"Vid\xe9oHandler"), "a.mp4")) == 5


@pytest.mark.parametrize("name", ["front.mp4", "usual.mp4", "usual.avi", "usual.webm"])
def test_damage_in_the_middle(whole, capfd, name):
    av.logging.restore_default_callback()  # FFmpeg prints by default.
    content = bytearray(whole[name])
    for percent in (50, 60, 70, 80):  # A decoder does not detect all damage.
        start = len(content) * percent // 100
        content[start : start + 200] = np.random.default_rng(percent).bytes(200)
    assert fault(bytes(content), name).startswith(("is damaged", "is cut short: "))
    assert capfd.readouterr().err == ""


def chunks(content: bytes) -> list[bytes]:
    """Returns the frames of an AVI."""
    position, found = content.index(b"movi") + 4, []
    while content[position : position + 4] == b"00dc":
        size = struct.unpack_from("<I", content, position + 4)[0]
        found.append(content[position + 8 : position + 8 + size])
        position += 8 + size + size % 2
    return found


def test_an_avi_may_leave_frames_empty(tmp_path):
    """Cameras that are too slow write empty frames, which are not damage."""
    content = write_video(tmp_path / "a.avi", scene(20), codec="mjpeg").read_bytes()
    kept = [b"" if t in (5, 6, 12) else chunk for t, chunk in enumerate(chunks(content))]
    body, index = b"movi", b""
    for chunk in kept:
        index += b"00dc" + struct.pack("<III", 16, len(body), len(chunk))
        body += b"00dc" + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
    lists = b"LIST" + struct.pack("<I", len(body)) + body
    lists += b"idx1" + struct.pack("<I", len(index)) + index
    assert len(read(content[: content.index(b"movi") - 8] + lists, "a.avi")) == 17


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
def test_an_mp4_may_leave_frames_empty(tmp_path, codec):
    content = bytearray(write_video(tmp_path / "a.mp4", scene(20), codec=codec).read_bytes())
    last_size = content.index(b"stsz") + 16 + 4 * 19
    content[last_size : last_size + 4] = bytes(4)
    assert len(read(bytes(content), "a.mp4")) == 19


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "PNG")
    return stream.getvalue()


def wav() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return stream.getvalue()


def mp3_with_a_cover() -> bytes:
    cover = b"\0image/png\0\3\0" + png()
    tag = b"APIC" + struct.pack(">IH", len(cover), 0) + cover
    length = bytes((len(tag) >> shift) & 127 for shift in (21, 14, 7, 0))
    silence = b"\xff\xfb\x90\x00" + bytes(413)
    return b"ID3\3\0\0" + length + tag + 20 * silence


def test_files_that_are_not_videos(tmp_path, capfd):
    assert fault(b"", "a.mp4") == "is empty"
    (tmp_path / "a.mp4").touch()
    assert fault(tmp_path / "a.mp4", "a.mp4") == "is empty"
    assert fault(b"Not a video.\n" * 100, "a.mp4").startswith("cannot be opened: it is not a video")
    assert fault(png(), "a.mp4").startswith("cannot be opened: it is not a video")
    assert fault(wav(), "a.mp4").startswith("has no pictures")
    assert fault(mp3_with_a_cover(), "a.mp4").startswith("has no pictures")
    assert capfd.readouterr().err == ""


def test_a_playlist_is_not_followed(tmp_path):
    other = write_video(tmp_path / "other.mp4", scene(5))
    for text in (
        f"ffconcat version 1.0\nfile {other}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
    ):
        assert fault(text.encode(), "a.mp4").startswith("cannot be opened")
        (tmp_path / "list.mp4").write_text(text)
        assert fault(tmp_path / "list.mp4", "list.mp4").startswith("cannot be opened")


def test_without_pyav(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", scene(5))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        read(path)


PADDED = [(".ts", "libx264"), (".m2ts", "libx264"), (".flv", "flv"), (".ogv", "libvpx")]


@pytest.mark.parametrize(("suffix", "codec"), PADDED)
def test_zeros_may_follow_the_end(tmp_path, suffix, codec):
    content = write_video(tmp_path / f"a{suffix}", scene(60), codec=codec).read_bytes()
    for length in (1, 3, 4, 100, 188, 1000, 60_000):
        assert len(read(content + bytes(length), f"a{suffix}")) == 60
    if suffix != ".flv":
        words = fault(content + bytes(70_000), f"a{suffix}")
        assert words == "is cut short or padded: it ends with 70,000 bytes that are zero"


@pytest.mark.parametrize(("suffix", "codec"), PADDED)
def test_zeros_do_not_hide_that_the_end_is_missing(tmp_path, suffix, codec):
    content = write_video(tmp_path / f"a{suffix}", scene(60), codec=codec).read_bytes()
    for cut in (len(content) // 2 + 77, len(content) * 3 // 4 + 13, len(content) - 300):
        for length in (1, 1000, len(content) - cut):
            words = fault(content[:cut] + bytes(length), f"a{suffix}")
            assert words.startswith(("is cut short", "is damaged"))


@pytest.fixture(scope="module")
def fragments(tmp_path_factory):
    """Returns a fragmented mp4, as cameras and streams write it, without an index."""
    path = tmp_path_factory.mktemp("fragments") / "a.mp4"
    flags = {"movflags": "frag_keyframe+empty_moov"}
    return write_video(path, scene(300), codec="libx264", options=flags).read_bytes()


def test_fragments_are_read_to_the_end(fragments):
    assert len(read(fragments, "a.mp4")) == 300


def test_incomplete_fragments_are_reported(fragments):
    boundaries = [m.start() - 4 for m in re.finditer(b"moof", fragments)]
    cuts = [len(fragments) * i // 30 for i in range(1, 30)]
    told = [fault(fragments[:cut], "a.mp4") for cut in cuts if cut not in boundaries]
    assert sum("its last fragment is incomplete" in words for words in told) >= 20


def test_frames_are_counted_on_request_if_no_header_says(fragments, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(fragments)
    assert frames_and_rate(path, through=True)[0] == 300
