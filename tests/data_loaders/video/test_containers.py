"""Tests of what differs between containers: streams, timestamps, announced lengths, estimates."""

import io
import os
import re
import socket
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_files import counting, fault, read, scene, write_video

from data_loaders.sources import BadVideo, UnreadableVideo
from data_loaders.video.frames import (
    ARRAY_SUFFIXES,
    SUFFIXES,
    FrameFormat,
    frames_and_rate,
    read_video,
)

KINDS = [
    (".mpg", "mpeg1video"),
    (".mpeg", "mpeg2video"),
    (".vob", "mpeg2video"),
    (".ts", "libx264"),
    (".ts", "mpeg2video"),
    (".m2ts", "libx264"),
    (".mts", "mpeg2video"),
    (".wmv", "wmv2"),
    (".flv", "flv"),
    (".flv", "libx264"),
    (".ogv", "libvpx"),
    (".3gp", "h263"),
    (".3gp", "mpeg4"),
    (".3g2", "mpeg4"),
    (".f4v", "libx264"),
    (".qt", "mjpeg"),
    (".divx", "mpeg4"),
    (".asf", "wmv2"),
    (".mpe", "mpeg1video"),
    (".m1v", "mpeg1video"),
    (".m2v", "mpeg2video"),
    (".m4v", "libx264"),
    (".mov", "mjpeg"),
    (".mov", "prores_ks"),
    (".mkv", "libx265"),
    (".webm", "libsvtav1"),
    (".webm", "libvpx-vp9"),
]
# FFmpeg reads but does not write files of these names.
OTHER_NAMES = {".qt": ".mov", ".divx": ".avi", ".mpe": ".mpg"}


def large(length: int) -> np.ndarray:
    """Returns a moving texture of a size that all encoders know, uint8 [length, 144, 176, 3]."""
    return np.repeat(np.repeat(scene(length), 3, 1), 3, 2)[:, :144, :176]


def written(folder: Path, suffix: str, codec: str, frames: np.ndarray) -> Path:
    path = write_video(folder / f"a{OTHER_NAMES.get(suffix, suffix)}", frames, codec=codec)
    return path.rename(folder / f"a{suffix}")


@pytest.mark.parametrize(("suffix", "codec"), KINDS)
def test_every_frame_is_read_from_every_kind_of_file(tmp_path, suffix, codec):
    path = written(tmp_path, suffix, codec, large(60))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        expected = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video)])
        aspect = video.sample_aspect_ratio or 1
    assert len(expected) == 60
    notes = []
    frame_format = FrameFormat(64, 3)
    blocks = read_video(path, path.name, frame_format, note=notes.append)
    np.testing.assert_array_equal(
        np.concatenate(list(blocks)), frame_format.convert(expected, aspect)
    )
    assert ", 25 frames/s)" in notes[0]
    assert not any("in spite of" in note for note in notes)
    taken = read(path, fps=5)
    assert len(taken) == 12
    frames, rate = frames_and_rate(path, through=True)
    assert abs(frames - 60) <= 3  # Approximate: from the length of the longest stream.
    assert rate == 25


@pytest.mark.parametrize(("suffix", "codec"), KINDS)
@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_videos_are_read(tmp_path, suffix, codec, length):
    path = written(tmp_path, suffix, codec, large(length))
    assert len(read(path, size=64)) == length


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_files_joined_as_they_are(tmp_path, codec):
    """A break shows in the counters of the packets, of 4 bits, unless they continue by chance."""
    content = write_video(tmp_path / "a.ts", large(30), codec=codec).read_bytes()
    for jump in range(1, 16):
        joined = content + following(content, jump)
        assert "joined from several files" in fault(joined, "a.ts")
    joined = read(content + following(content, 0), "a.ts")
    np.testing.assert_array_equal(joined, np.tile(read(content, "a.ts"), (2, 1, 1, 1)))


def following(content: bytes, jump: int) -> bytes:
    """Returns a transport stream, its counters `jump` further than if it followed itself."""
    packets = np.frombuffer(content, np.uint8).reshape(-1, 188).copy()
    streams = (packets[:, 1] & 0x1F).astype(int) * 256 + packets[:, 2]
    for stream in np.unique(streams):
        rows = np.flatnonzero(streams == stream)
        counters = packets[rows, 3] & 15
        shift = int(counters[-1]) + 1 - int(counters[0]) + jump
        packets[rows, 3] = packets[rows, 3] & 0xF0 | (counters + shift) & 15
    return packets.tobytes()


def test_all_suffixes_are_tested():
    tested = {suffix for suffix, _ in KINDS} | {".mp4", ".avi", ".gif", ".apng"}
    assert set(SUFFIXES) - set(ARRAY_SUFFIXES) == tested


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".wmv", "wmv2"), (".flv", "flv"), (".ogv", "libvpx")]
)
def test_truncated_files_of_other_kinds(tmp_path, suffix, codec):
    content = write_video(tmp_path / f"a{suffix}", large(60), codec=codec).read_bytes()
    for percent in range(10, 100, 5):
        words = fault(content[: len(content) * percent // 100], f"a{suffix}")
        assert words.startswith(("is cut short", "is damaged or cut short", "cannot be opened"))


@pytest.mark.parametrize("suffix", [".mpg", ".ts", ".m2ts"])
def test_mpeg_streams_that_end_within_a_packet(tmp_path, suffix):
    """Nothing announces their length."""
    content = write_video(tmp_path / f"a{suffix}", large(60), codec="mpeg2video").read_bytes()
    for cut in (len(content) // 2 + 77, len(content) * 3 // 4 + 13):
        words = fault(content[:cut], f"a{suffix}")
        assert words.startswith(("is damaged", "is damaged or cut short", "is cut short"))


def test_an_flv_with_sound_that_is_longer(tmp_path):
    path = tmp_path / "a.flv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("flv", rate=25)
        video.width, video.height, video.pix_fmt = 176, 144, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=44100)
        for frame in large(50):
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(frame).reformat(format="yuv420p"))
            )
        container.mux(video.encode())
        for _ in range(50):  # 5 seconds.
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.int16), layout="mono")
            silence.sample_rate = 44100
            container.mux(audio.encode(silence))
    assert len(read(path)) == 50


def streams(path, *films: tuple[str, np.ndarray]):
    """Writes several video streams, given an encoder and frames, to one file."""
    with av.open(str(path), "w") as container:
        outputs = []
        for codec, frames in films:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = av.Codec(codec, "w").video_formats[0].name
            outputs.append(stream)
        for stream, (_, frames) in zip(outputs, films, strict=True):
            for t, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array))
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = t, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "cover"), [(".mkv", "mjpeg"), (".mp4", "mjpeg"), (".mp4", "png"), (".avi", "png")]
)
def test_a_cover_is_not_taken_for_the_film(tmp_path, suffix, cover):
    film = large(30)
    path = streams(tmp_path / f"a{suffix}", (cover, film[:1, ::-1]), ("mpeg4", film))
    notes = []
    assert len(read(path, note=notes.append)) == 30
    assert "video stream 2 of 2 is used, the others are not" in notes
    assert abs(frames_and_rate(path)[0] - 30) <= 1


def test_the_first_of_several_films_is_read(tmp_path):
    path = streams(tmp_path / "a.mp4", ("mjpeg", large(20)), ("mpeg4", large(30)))
    notes = []
    assert len(read(path, note=notes.append)) == 20
    assert "video stream 1 of 2 is used, the others are not" in notes


def test_a_picture_is_not_taken_for_one_of_several_films(tmp_path):
    path = streams(tmp_path / "a.mkv", ("mjpeg", large(1)), ("mjpeg", large(30)))
    assert "the first is a single picture" in fault(path, path.name)


@pytest.mark.parametrize("number", [0, 1, 10, 30])
def test_first_frames_without_a_timestamp_take_their_time(tmp_path, number):
    path = write_video(tmp_path / "a.ts", 4 * counting(60), codec="libx264", options={})
    content = bytearray(path.read_bytes())
    for start in [m.start() for m in re.finditer(rb"\x00\x00\x01\xe0", bytes(content))][:number]:
        content[start + 7] &= 0x3F
    with av.open(io.BytesIO(bytes(content))) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert times.count(None) == number
    taken = read(bytes(content), "a.ts", fps=5)[:, 0, 0, 0]
    np.testing.assert_allclose(taken, 4 * np.arange(0, 60, 5), atol=2)


def test_a_video_whose_times_start_again(tmp_path):
    """As in two recordings that were appended."""
    path = write_video(tmp_path / "a.mpg", 4 * counting(30), codec="mpeg2video")
    notes = []
    taken = read(2 * path.read_bytes(), "a.mpg", fps=5, note=notes.append)[:, 0, 0, 0]
    np.testing.assert_allclose(taken, 4 * np.tile(np.arange(0, 30, 5), 2), atol=4)
    assert "frame 30 has an earlier time than the one before it" in notes


def raw(codec: str, kind: str, height: int, width: int, length: int) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.thread_count = 1
        texture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
        for t in range(length):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 2 * t, 1))
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode())
    return stream.getvalue()


def test_an_mpeg_stream_without_a_container(tmp_path):
    content = raw("mpeg2video", "mpeg2video", 96, 128, 50)
    assert len(read(content, "a.mpg")) == 50
    np.testing.assert_array_equal(read(content, "a.mpg", fps=5), read(content, "a.mpg")[::5])


@pytest.mark.parametrize(
    ("codec", "kind", "lost"),
    [("libx264", "h264", 0), ("mpeg4", "m4v", 0), ("mpeg2video", "mpeg2video", 1)],
)
def test_a_video_that_changes_its_size(tmp_path, codec, kind, lost):
    """FFmpeg may drop the frames that its decoder holds back."""
    both = raw(codec, kind, 96, 128, 25) + raw(codec, kind, 160, 192, 25)
    path = tmp_path / "a.mkv"
    with av.open(io.BytesIO(both), format=kind) as source, av.open(str(path), "w") as sink:
        video = source.streams.video[0]
        stream = sink.add_stream_from_template(video)
        for t, packet in enumerate(p for p in source.demux(video) if p.size):
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = t
            sink.mux(packet)
    if lost:
        words = f"{lost} frames are lost where the size changes, at about frame 24"
        assert fault(path, path.name).startswith(words)
    else:
        notes = []
        assert len(read(path, note=notes.append)) == 50
        assert any(note.startswith("from frame 25 on 192x160 RGB") for note in notes)


def test_absurd_lengths_do_not_make_absurd_estimates(tmp_path):
    path = write_video(tmp_path / "a.avi", scene(30))
    content = bytearray(path.read_bytes())
    for field in (content.index(b"strh") + 40, content.index(b"avih") + 24):
        assert struct.unpack_from("<I", content, field) == (30,)
        struct.pack_into("<I", content, field, 0x7FFFFFFF)
    path.write_bytes(content)
    assert frames_and_rate(path) == (30, 25)
    path = write_video(tmp_path / "a.mkv", scene(30), times=[*range(29), 60 * 86400 * 25])
    assert frames_and_rate(path) == (30, 25)
    assert len(read(path)) == 30


def test_an_avi_whose_header_is_wrong_by_one(tmp_path):
    path = write_video(tmp_path / "a.avi", scene(30))
    content = bytearray(path.read_bytes())
    field = content.index(b"strh") + 40
    struct.pack_into("<I", content, field, 31)
    notes = []
    assert len(read(bytes(content), "a.avi", note=notes.append)) == 30
    assert "its header announces 31 frames, 30 are there" in notes
    struct.pack_into("<I", content, field, 33)
    assert fault(bytes(content), "a.avi") == "is cut short: 30 of 33 frames can be read"


def test_an_avi_that_lost_the_header_of_a_frame(tmp_path):
    content = bytearray(write_video(tmp_path / "a.avi", scene(30), codec="mjpeg").read_bytes())
    starts = [m.start() for m in re.finditer(b"00dc", content[: content.index(b"idx1")])]
    content[starts[9] : starts[9] + 4] = b"JUNK"
    assert fault(bytes(content), "a.avi").startswith("is damaged: ")


def test_an_avi_that_skips_frames(tmp_path):
    times = [*range(10), *range(15, 25)]
    path = write_video(tmp_path / "a.avi", scene(20), codec="mjpeg", times=times)
    notes = []
    assert len(read(path, note=notes.append)) == 20
    assert "empty frames, which repeat the one before, are skipped: 5" in notes
    assert "frames are shown for 0.04 to 0.24 seconds" in notes


def test_a_webm_whose_frame_names_no_track(tmp_path):
    path = write_video(tmp_path / "a.webm", large(60), codec="libvpx")
    with av.open(str(path)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 20)
        start = bytes(packet)[:8]
    content = bytearray(path.read_bytes())
    content[content.index(start) - 4] = 0xFE  # FFmpeg passes over the rest of the cluster.
    assert fault(bytes(content), "a.webm") == "is damaged: only 20 frames can be read"


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".ogv", "libvpx"), (".flv", "flv"), (".webm", "libvpx")]
)
def test_no_damage_loses_frames_silently(tmp_path, suffix, codec):
    content = write_video(tmp_path / f"a{suffix}", large(60), codec=codec).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        at = rng.integers(len(content) - 40)
        damaged[at : at + 40] = rng.bytes(40)
        notes = []
        try:
            frames = len(read(bytes(damaged), f"a{suffix}", note=notes.append))
        except BadVideo:
            continue
        assert frames == 60 or any("shown for" in note or "packets" in note for note in notes)


def test_an_avi_without_its_last_frame(tmp_path):
    content = write_video(tmp_path / "a.avi", scene(30), codec="mjpeg").read_bytes()
    last = [m.start() for m in re.finditer(b"00dc", content[: content.index(b"idx1")])][-1]
    assert fault(content[:last], "a.avi") == "is cut short: 29 of 30 frames can be read"


def test_a_matroska_tag_is_compared(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        video.metadata["NUMBER_OF_FRAMES"] = "12"
        for frame in scene(10):
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(frame).reformat(format="yuvj420p"))
            )
        container.mux(video.encode())
    notes = []
    assert len(read(path, note=notes.append)) == 10
    assert "its tags announce 12 frames, 10 are there" in notes


def edited(content: bytes, start: int, duration: int) -> bytes:
    """Returns an mp4 with an edit list of one entry, in units of the track and the movie."""
    field = content.index(b"elst") + 12
    return content[:field] + struct.pack(">Ii", duration, start) + content[field + 8 :]


def test_frames_that_an_edit_list_hides(tmp_path):
    content = write_video(tmp_path / "a.mp4", counting(50)).read_bytes()
    with av.open(io.BytesIO(content)) as container:
        ticks = 1 / container.streams.video[0].time_base / 25
    notes = []
    frames = read(edited(content, int(14 * ticks), 36 * 40), "a.mp4", note=notes.append)
    np.testing.assert_array_equal(frames[:, 0, 0, 0], np.arange(14, 50))
    assert "14 of 50 frames are hidden by the file's edit list" in notes


def test_an_mp4_that_announces_more_frames_than_it_has_bytes(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mp4", scene(20)).read_bytes())
    field = content.index(b"stts") + 12
    assert struct.unpack_from(">I", content, field) == (20,)
    struct.pack_into(">I", content, field, 0x70000000)
    notes = []
    assert len(read(bytes(content), "a.mp4", note=notes.append)) == 20
    assert "its header announces 1879048192 frames, 20 are there" in notes
    assert not any("edit list" in note for note in notes)


def test_empty_frames_are_told(tmp_path):
    content = bytearray(write_video(tmp_path / "a.mp4", scene(20), codec="mjpeg").read_bytes())
    last_size = content.index(b"stsz") + 16 + 4 * 19
    content[last_size : last_size + 4] = bytes(4)
    notes = []
    assert len(read(bytes(content), "a.mp4", note=notes.append)) == 19
    assert "empty frames, which repeat the one before, are skipped: 1" in notes


def test_frames_that_a_decoder_passes_over_are_not_lost_silently(tmp_path):
    path = write_video(tmp_path / "a.mp4", large(30), codec="libx265")
    with av.open(str(path)) as container:
        packet = next(p for i, p in enumerate(container.demux(video=0)) if i == 12)
    content = bytearray(path.read_bytes())
    content[packet.pos + 4] = 48 << 1  # A kind of data that a decoder ignores.
    assert fault(bytes(content), "a.mp4").startswith("is damaged: ")


def test_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.mp4").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for i, target in enumerate((tmp_path / "pipe", tmp_path / "socket", "/dev/zero", "/dev/null")):
        link = tmp_path / f"{i}.mp4"
        link.symlink_to(target)
        assert fault(link, link.name) == "is not a regular file"
        assert frames_and_rate(link) is None
    assert fault(tmp_path / "folder.mp4", "a.mp4") == "is not a regular file"


class Failing(io.BytesIO):
    """A file on a network that fails after some bytes."""

    def read(self, size: int = -1) -> bytes:
        if self.tell() > 20_000:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".gif", ".mp4"])
def test_a_file_that_the_system_cannot_read(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    content = write_video(tmp_path / f"a{suffix}", scene(100), options=options).read_bytes()
    with pytest.raises(UnreadableVideo, match=r"cannot be read: .*Input/output error"):
        list(read_video(Failing(content), f"a{suffix}", FrameFormat(16, 1)))
    with pytest.raises(UnreadableVideo, match="No such file"):
        list(read_video(tmp_path / f"b{suffix}", f"b{suffix}", FrameFormat(16, 1)))
