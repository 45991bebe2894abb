"""Tests of how a video is shown: turned, mirrored, with pixels that are not square, cropped."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.video_files import H, W, fault, filtered, read, scene, write_video
from PIL import Image

from data_loaders.video.frames import FrameFormat

# As in the ISO base media file format: x' = a x + c y and y' = b x + d y.
ORIENTATIONS = {
    (0, 1, -1, 0): ("turned by 90 degrees clockwise", lambda f: np.rot90(f, -1, (1, 2))),
    (0, -1, 1, 0): ("turned by 90 degrees counterclockwise", lambda f: np.rot90(f, 1, (1, 2))),
    (-1, 0, 0, -1): ("turned by 180 degrees", lambda f: f[:, ::-1, ::-1]),
    (-1, 0, 0, 1): ("mirrored left to right", lambda f: f[:, :, ::-1]),
    (1, 0, 0, -1): ("mirrored top to bottom", lambda f: f[:, ::-1]),
    (0, 1, 1, 0): (
        "mirrored at the diagonal from top left to bottom right",
        lambda f: f.swapaxes(1, 2),
    ),
    (0, -1, -1, 0): (
        "mirrored at the diagonal from bottom left to top right",
        lambda f: f[:, ::-1, ::-1].swapaxes(1, 2),
    ),
}


def matrix(a: float, b: float, c: float, d: float) -> bytes:
    entries = [round(entry * 2**16) for entry in (a, b, 0, c, d, 0, 0, 0, 2**14)]
    return struct.pack(">9i", *entries)


def oriented(path: Path, *entries: float) -> bytes:
    """Returns an mp4 with another display matrix."""
    content = path.read_bytes()
    track = content.index(b"tkhd")
    changed = content[track:].replace(matrix(1, 0, 0, 1), matrix(*entries), 1)
    assert changed != content[track:] or entries == (1, 0, 0, 1)
    return content[:track] + changed


@pytest.mark.parametrize("entries", ORIENTATIONS)
def test_phone_videos_are_turned_and_mirrored(tmp_path, entries):
    frames = scene(3)
    content = oriented(write_video(tmp_path / "a.mp4", frames), *entries)
    words, turn = ORIENTATIONS[entries]
    expected = np.ascontiguousarray(turn(frames))
    notes = []
    for fps in (None, 10):
        decoded = read(
            content,
            "a.mp4",
            size=W,
            channels=3,
            exact_size=expected.shape[1:3],
            note=notes.append,
            fps=fps,
        )
        np.testing.assert_array_equal(
            decoded, FrameFormat(W, 3).convert(expected)[:: 1 if fps is None else 2][: len(decoded)]
        )
        assert words in notes


def test_other_turns_are_ignored_and_told(tmp_path):
    path = write_video(tmp_path / "a.mp4", scene(3))
    notes = []
    tilted = read(oriented(path, 0.8, 0.6, -0.6, 0.8), "a.mp4", size=H, note=notes.append)
    np.testing.assert_array_equal(tilted, read(path, size=H))
    assert any(note.endswith("is ignored: only multiples of 90 are applied") for note in notes)


def test_an_upright_video_is_not_turned(tmp_path):
    notes = []
    read(write_video(tmp_path / "a.mp4", scene(3)), note=notes.append)
    assert not any("turned" in note or "mirrored" in note for note in notes)


def test_an_orientation_in_key_frames_is_that_of_all_frames(tmp_path):
    """H.264 tells it in messages, which hold until the next key frame."""
    path = write_video(tmp_path / "a.mkv", scene(6), codec="libx264")
    turned = filtered(
        path, "h264_metadata=display_orientation=insert:rotate=90", tmp_path / "b.mkv"
    )
    with av.open(str(turned)) as container:
        assert [frame.rotation for frame in container.decode(video=0)] == [90, 0, 0, 0, 0, 0]
    upright = read(path, size=H, channels=3)
    np.testing.assert_array_equal(
        read(turned, size=H, channels=3), np.rot90(upright, 1, axes=(1, 2))
    )


@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "aspect", "words"),
    [
        (48, 64, Fraction(2), "pixels are 2:1 wide: stretched from 64x48 to 128x48"),
        (48, 64, Fraction(16, 11), "pixels are 16:11 wide: stretched from 64x48 to 93x48"),
        (48, 64, Fraction(1, 2), "pixels are 1:2 wide: stretched from 64x48 to 32x48"),
        (48, 64, Fraction(3, 4), "pixels are 3:4 wide: stretched from 64x48 to 48x48"),
        (64, 48, Fraction(4, 3), "pixels are 4:3 wide: stretched from 48x64 to 64x64"),
    ],
)
def test_a_crop_is_a_square_as_it_is_shown(tmp_path, height, width, aspect, words, resize):
    y, x = np.mgrid[:height, :width] + 0.5
    # As shown, rings around the middle.
    radius = np.hypot(y - height / 2, (x - width / 2) * float(aspect))
    frame = np.rint(127 + 120 * np.cos(radius / 6)).astype(np.uint8)
    frames = np.repeat(np.repeat(frame[None, ..., None], 3, -1), 3, 0)
    path = write_video(tmp_path / "a.mp4", frames, aspect=aspect)
    frame_format = FrameFormat(16, 3, "crop", resize)
    notes = []
    decoded = read(path, channels=3, exact_size=(height, width), note=notes.append)
    assert any(words in note for note in notes)
    np.testing.assert_allclose(decoded[0], decoded[0].swapaxes(0, 1), atol=16)  # Rings.
    shown = Image.fromarray(frames[0]).resize((round(width * aspect), height), Image.BILINEAR)
    expected = frame_format.convert(np.asarray(shown)[None])
    np.testing.assert_allclose(frame_format.convert(frames, aspect)[:1], expected, atol=16)


def test_a_squeeze_does_not_depend_on_the_shape_of_pixels():
    frames = scene(2)
    frame_format = FrameFormat(16, 3, "squeeze")
    expected = frame_format.convert(frames)
    np.testing.assert_array_equal(frame_format.convert(frames, Fraction(16, 11)), expected)
    assert frame_format.changes(48, 64, 3, Fraction(16, 11)) == "resized to 16x16 (area)"


def test_a_square_of_long_pixels_is_not_a_square():
    frames = scene(1)[:, :48, :48]
    frame_format = FrameFormat(48, 3)
    converted = frame_format.convert(frames, Fraction(2))
    expected = frame_format.convert(np.repeat(frames, 2, axis=2))
    np.testing.assert_allclose(converted[:, :, 2:-2], expected[:, :, 2:-2], atol=64)
    assert not np.array_equal(converted, frames)


def test_a_turn_by_90_degrees_turns_the_pixels(tmp_path):
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[:, 16:48, :32] = 255
    path = write_video(tmp_path / "a.mp4", frames, aspect=Fraction(1, 2))
    upright = read(path, size=32, channels=3)
    turned = read(oriented(path, 0, 1, -1, 0), "a.mp4", size=32, channels=3)
    np.testing.assert_array_equal(turned, np.rot90(upright, -1, axes=(1, 2)))
    assert turned.mean() == pytest.approx(127.5, abs=1)  # Half of the 32x32 in the middle.


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(400, 401), Fraction(10), Fraction(0)])
def test_shapes_of_pixels_that_mean_nothing(tmp_path, aspect):
    frames = scene(2)
    path = write_video(tmp_path / "a.mp4", frames, aspect=aspect)
    notes = []
    decoded = read(path, size=H, channels=3, note=notes.append)
    np.testing.assert_array_equal(decoded, FrameFormat(H, 3).convert(frames))
    assert any("10:1 wide, which is ignored" in note for note in notes) == (aspect == 10)


def test_pixels_that_change_their_shape(tmp_path):
    """As where a broadcast in 4:3 is followed by one in 16:9."""
    parts = [
        write_video(
            tmp_path / f"{i}.mpg", scene(30), codec="mpeg2video", aspect=aspect
        ).read_bytes()
        for i, aspect in enumerate([Fraction(1), Fraction(4, 3)])
    ]
    words = fault(b"".join(parts), "a.mpg")
    assert words.startswith("has pixels of another shape from about frame 29 on: 1:1, then 4:3")


@pytest.mark.parametrize(("left", "top"), [(2, 2), (6, 4), (18, 0), (32, 8)])
@pytest.mark.parametrize("fit", ["crop", "squeeze"])
def test_a_crop_in_the_stream_is_exact(tmp_path, left, top, fit):
    """FFmpeg would move its left edge to a multiple of 32."""
    frames = np.repeat(np.repeat(scene(3)[:, ::4, ::4], 4, 1), 4, 2)
    path = write_video(tmp_path / "a.mkv", frames, codec="libx264")
    crop = f"h264_metadata=crop_left={left}:crop_top={top}"
    cropped = filtered(path, crop, tmp_path / "b.mkv")
    with av.open(str(path)) as container:
        whole = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    expected = whole[:, top:, left:]
    frame_format = FrameFormat(min(expected.shape[1:3]), 3, "crop")
    decoded = read(cropped, size=frame_format.size, channels=3, exact_size=expected.shape[1:3])
    # Chroma is interpolated at edges.
    difference = np.abs(decoded.astype(int) - frame_format.convert(expected))
    assert difference[:, 4:-4, 4:-4].max() <= 2


def with_element(content: bytes, extra: bytes, *path: str) -> bytes:
    """Adds content to the first of each of the nested Matroska elements of a path."""
    if not path:
        return content + extra
    at, name = 0, b""
    while name.hex() != path[0]:
        before = content[:at]
        name_end = at + 9 - content[at].bit_length()
        start = name_end + 9 - content[name_end].bit_length()
        name = content[at:name_end]
        size = int.from_bytes(content[name_end:start], "big") & (1 << 7 * (start - name_end)) - 1
        at = start + size
    inner = with_element(content[start:at], extra, *path[1:])
    return before + name + struct.pack(">Q", len(inner) | 1 << 56) + inner + content[at:]


def mkv_cropped(content: bytes, *edges: int) -> bytes:
    """Stores what is cut off at the top, bottom, left and right in a live recording."""
    names = ("54bb", "54aa", "54cc", "54dd")
    elements = [
        bytes.fromhex(name) + b"\x82" + struct.pack(">H", edge)
        for name, edge in zip(names, edges, strict=True)
    ]
    element = bytes.fromhex("1654ae6b")
    tracks = content.index(element, content.index(element) + 4)  # An index names it before.
    changed = with_element(content[tracks:], b"".join(elements), "1654ae6b", "ae", "e0")
    return content[:tracks] + changed


def with_box(content: bytes, extra: bytes, *path: bytes) -> bytes:
    """Adds content to the first of each of the nested mp4 boxes of a path."""
    if not path:
        return content + extra
    at, name = 0, b""
    while name != path[0]:
        start = at
        size, name = struct.unpack_from(">I4s", content, at)
        at += size
    head = start + 8 + {b"stsd": 8, b"avc1": 78, b"jpeg": 78}.get(name, 0)
    inner = content[start + 8 : head] + with_box(content[head:at], extra, *path[1:])
    return content[:start] + struct.pack(">I4s", 8 + len(inner), name) + inner + content[at:]


def mp4_cropped(content: bytes, *numbers: int, entry: bytes = b"avc1") -> bytes:
    """Stores w, h, x and y of a crop, each with its denominator, from the middle of a frame."""
    assert content.index(b"mdat") < content.index(b"moov")
    box = struct.pack(">I4s8i", 40, b"clap", *numbers)
    return with_box(content, box, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry)


@pytest.mark.parametrize("edges", [(12, 0, 16, 8), (1, 2, 3, 4), (0, 0, 0, 1), (0, 47, 63, 0)])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_a_crop_in_the_container(tmp_path, suffix, edges):
    """As FFmpeg 7.1 and later, mpv and others apply it."""
    frames = scene(3)
    top, bottom, left, right = edges
    expected = frames[:, top : H - bottom, left : W - right]
    h, w = expected.shape[1:3]
    options = {"live": "1"} if suffix == ".mkv" else {}
    path = write_video(tmp_path / f"a{suffix.replace('mov', 'mp4')}", frames, options=options)
    if suffix == ".mkv":
        content = mkv_cropped(path.read_bytes(), *edges)
    else:
        content = mp4_cropped(path.read_bytes(), 2 * w, 2, h, 1, left - right, 2, top - bottom, 2)
    notes = []
    decoded = read(content, f"a{suffix}", size=20, channels=3, exact_size=(h, w), note=notes.append)
    np.testing.assert_array_equal(decoded, FrameFormat(20, 3).convert(expected))
    assert f"cropped to {w}x{h} at ({left}, {top}) as the container says" in notes


def test_a_crop_precedes_a_turn(tmp_path):
    frames = scene(3)
    path = write_video(tmp_path / "a.mp4", frames)
    path.write_bytes(oriented(path, 0, 1, -1, 0))
    content = mp4_cropped(path.read_bytes(), 40, 1, 36, 1, 4, 1, 6, 1)
    expected = np.ascontiguousarray(np.rot90(frames[:, 12:, 16:56], -1, (1, 2)))
    decoded = read(content, "a.mp4", size=16, channels=3, exact_size=(40, 36))
    np.testing.assert_array_equal(decoded, FrameFormat(16, 3).convert(expected))


@pytest.mark.parametrize(
    "numbers",
    [
        (W, 0, H, 1, 0, 1, 0, 1),
        (W + 2, 1, H, 1, 0, 1, 0, 1),
        (W - 1, 1, H, 1, 0, 1, 0, 1),  # Half a pixel at each side.
        (40, 1, 36, 1, 400, 1, 0, 1),
        (0, 1, H, 1, 0, 1, 0, 1),
        (-40, 1, H, 1, 0, 1, 0, 1),
    ],
)
def test_a_crop_that_makes_no_sense_is_ignored_and_told(tmp_path, numbers):
    frames = scene(3)
    path = write_video(tmp_path / "a.mp4", frames)
    notes = []
    decoded = read(
        mp4_cropped(path.read_bytes(), *numbers), "a.mp4", size=H, channels=3, note=notes.append
    )
    np.testing.assert_array_equal(decoded, FrameFormat(H, 3).convert(frames))
    words = "a crop in the container is ignored: it is not of whole pixels within the frame"
    assert words in notes


def test_a_crop_of_the_whole_frame_is_not_told(tmp_path):
    notes = []
    path = write_video(tmp_path / "a.mp4", scene(3))
    read(mp4_cropped(path.read_bytes(), W, 1, H, 1, 0, 1, 0, 1), "a.mp4", note=notes.append)
    path = write_video(tmp_path / "a.mkv", scene(3), options={"live": "1"})
    read(mkv_cropped(path.read_bytes(), 0, 0, 0, 0), "a.mkv", note=notes.append)
    assert not any("container" in note for note in notes)


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_the_crop_of_another_stream_is_not_applied(tmp_path, suffix):
    path, frames = tmp_path / f"a{suffix}", scene(5)
    options = {"live": "1"} if suffix == ".mkv" else {}
    with av.open(str(path), "w", options=options) as container:
        for codec, pixels in (("mjpeg", "yuvj420p"), ("mpeg4", "yuv420p")):
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = W, H, pixels
        cover, film = container.streams.video
        for stream, length in ((cover, 1), (film, 5)):
            for frame in frames[:length]:
                frame = av.VideoFrame.from_ndarray(frame).reformat(format=stream.pix_fmt)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    content = path.read_bytes()
    if suffix == ".mkv":
        content = mkv_cropped(content, 8, 8, 8, 8)
    else:
        content = mp4_cropped(content, 40, 1, 36, 1, 4, 1, 6, 1, entry=b"jpeg")
    notes = []
    assert len(read(content, path.name, exact_size=(H, W), note=notes.append)) == 5
    assert "video stream 2 of 2 is used, the others are not" in notes


def encoded(path: Path, codec: str, pixels: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = W, H, pixels
        for array in scene(5):
            frame = av.VideoFrame.from_ndarray(array).reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_interlaced_frames_are_told(tmp_path):
    options = {"flags": "+ildct+ilme"}
    path = encoded(tmp_path / "a.mpg", "mpeg2video", "yuv420p", options)
    notes = []
    assert len(read(path, note=notes.append)) == 5
    assert "interlaced: the two fields of a frame are not separated" in notes


def test_transparent_areas_of_videos_are_told(tmp_path):
    notes = []
    read(encoded(tmp_path / "a.mkv", "ffv1", "yuva420p", {}), note=notes.append)
    assert "transparent areas show their hidden color" in notes
