"""Tests of animated pictures: GIF, WebP and APNG."""

import io
import struct
import tracemalloc
import zlib

import imageio
import numpy as np
import pytest
from helpers.video_files import counting, fault, read, scene, write_video
from PIL import Image, ImageSequence

from data_loaders.sources import BadVideo
from data_loaders.video.frames import FrameFormat, frames_and_rate, read_video

RED, GREEN, BLUE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)
PALETTE = (RED, GREEN, BLUE, GRAY)
WHITE = (255, 255, 255)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def animation(frames: np.ndarray, kind: str, **options: object) -> bytes:
    """Returns an animated picture by Pillow, without loss unless it is a GIF."""
    stream = io.BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    if kind == "WEBP":
        options["lossless"] = True
    first.save(stream, kind, save_all=True, append_images=others, **options)
    return stream.getvalue()


def as_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("shape", [(30, 24, 24, 3), (30, 24, 24)])
def test_no_frame_of_a_gif_without_durations_is_lost(shape):
    content = animation(noise(*shape), "GIF")
    assert b"\x21\xf9" not in content[:900]  # No duration.
    expected = as_pillow(content)
    assert len(expected) == 30
    np.testing.assert_array_equal(read(content, "a.gif", 24, channels=3), expected)


def test_no_frame_of_a_gif_by_imageio_is_lost(tmp_path):
    path = tmp_path / "a.gif"
    row = np.linspace(0, 255, 64 + 36).astype(np.uint8)
    frames = np.stack([np.tile(row[t : t + 64, None], (64, 1, 3)) for t in range(36)])
    frames[..., 1] = frames[..., 1].swapaxes(1, 2)
    imageio.mimsave(path, frames)
    assert len(read(path, size=64)) == 36
    assert frames_and_rate(path) == (36, 10)


def gif(*pictures: tuple, screen: tuple[int, int] = (4, 4)) -> bytes:
    """Returns a GIF of boxes of one color.

    Args:
      pictures: Each one's left, top, width, height, color, transparent color, disposal, and
        duration in hundredths of a second.
      screen: Width and height.
    """
    parts = [struct.pack("<6sHHBBB", b"GIF89a", *screen, 0x81, 0, 0), bytes(sum(PALETTE, ()))]
    for *box, color, transparent, disposal, duration in pictures:
        flags = disposal << 2 | (transparent is not None)
        parts.append(b"\x21\xf9" + struct.pack("<BBHBB", 4, flags, duration, transparent or 0, 0))
        parts.append(b"," + struct.pack("<HHHHB", *box, 0))
        # Not compressed: a code of 3 bits per pixel, and a "clear" before each.
        codes = [code for _ in range(box[2] * box[3]) for code in (4, color)] + [5]
        bits = "".join(f"{code:03b}" for code in reversed(codes))
        data = int(bits, 2).to_bytes((len(bits) + 7) // 8, "little")
        parts.append(bytes([2, len(data)]) + data + b"\0")
    return b"".join(parts) + b";"


def corners(content: bytes) -> list[list[tuple]]:
    """Returns the colors on the diagonal of each 4x4 frame."""
    frames = read(content, "a.gif", 4, channels=3)
    return [[tuple(frame[i, i].tolist()) for i in range(4)] for frame in frames]


def test_areas_without_a_picture():
    first = 1, 1, 2, 2, 1
    second = 0, 0, 1, 1, 2
    opaque = gif((*first, None, 0, 5), (*second, None, 0, 5))
    assert corners(opaque) == [[RED, GREEN, GREEN, RED], [BLUE, GREEN, GREEN, RED]]
    transparent = gif((*first, 3, 0, 5), (*second, 3, 0, 5))
    assert corners(transparent) == [[WHITE, GREEN, GREEN, WHITE], [BLUE, GREEN, GREEN, WHITE]]


@pytest.mark.parametrize(
    ("disposal", "transparent", "after"),
    [(0, None, BLUE), (1, 3, BLUE), (2, None, RED), (2, 3, WHITE), (3, None, GREEN), (3, 3, GREEN)],
)
def test_what_remains_of_a_picture(disposal, transparent, after):
    """Pillow forgets the transparency if the first frame has none."""
    content = gif(
        (0, 0, 4, 4, 1, None, 1, 5),
        (1, 1, 2, 2, 2, transparent, disposal, 5),
        (3, 3, 1, 1, 0, transparent, 1, 5),
    )
    assert corners(content) == [
        [GREEN] * 4,
        [GREEN, BLUE, BLUE, GREEN],
        [GREEN, after, after, RED],
    ]


def test_pictures_that_reach_beyond_the_screen_are_cut():
    content = gif((0, 0, 4, 4, 1, None, 1, 5), (3, 2, 4, 9, 2, None, 1, 5))
    assert corners(content)[1] == [GREEN, GREEN, GREEN, BLUE]
    assert "frame 1 is outside" in fault(
        gif((0, 0, 4, 4, 1, None, 1, 5), (4, 0, 1, 1, 1, None, 1, 5)), "a.gif"
    )


def test_interlaced_gifs():
    frames = scene(3, 1)
    contents = []
    for interlace in (0, 1):
        stream = io.BytesIO()
        Image.fromarray(frames[0]).save(stream, "GIF", interlace=interlace)
        contents.append(stream.getvalue())
    assert contents[0] != contents[1]
    np.testing.assert_array_equal(read(contents[0], "a.gif"), read(contents[1], "a.gif"))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_other_animations_whatever_their_name(kind, name):
    frames = scene(20)[:, :, :48]
    content = animation(frames, kind, duration=40)
    notes = []
    np.testing.assert_array_equal(read(content, name, 48, channels=3, note=notes.append), frames)
    label = {"WEBP": "webp", "PNG": "apng"}[kind]
    assert f"{label} (20 frames, 25 frames/s on average)" in notes
    assert (f"is {label}, in spite of its name" in notes) == (name == "a.mp4")
    taken = read(content, name, 48, channels=3, fps=12.5)
    np.testing.assert_array_equal(taken, frames[::2])
    for cut in np.random.default_rng(0).integers(100, len(content) - 1, 20):
        assert "is cut short: " in fault(content[:cut], name)


def test_an_animated_avif_is_read_without_its_cover():
    content = animation(np.repeat(counting(6)[..., None] * 30, 3, -1), "AVIF", duration=100)
    frames = read(content, "a.gif", 16)
    np.testing.assert_allclose(frames[:, 8, 8, 0], 30 * np.arange(6), atol=3)


def test_transparent_areas_of_other_animations_are_white():
    frames = np.zeros((4, 16, 16, 4), np.uint8)
    frames[:, :, :, 0] = 200
    frames[:, 4:8, :, 3] = 255
    frames[:, 8:12, :, 3] = 51  # A fifth.
    frames[:, 0, 0] = [(50 * t, 0, 0, 255) for t in range(4)]
    for kind in ("WEBP", "PNG"):
        notes = []
        decoded = read(animation(frames, kind), "a.gif", 16, channels=3, note=notes.append)
        assert decoded[2, [1, 5, 9], 5].tolist() == [[255] * 3, [200, 0, 0], [244, 204, 204]]
        assert "transparent areas are white" in notes


def test_a_picture_for_viewers_without_animation_is_not_a_frame():
    frames = scene(5)[:, :, :48]
    content = animation(frames, "PNG", default_image=True)
    np.testing.assert_array_equal(read(content, "a.gif", 48, channels=3), frames[1:])


def test_a_gif_called_mp4_and_an_mp4_called_gif(tmp_path):
    frames = counting(20)
    notes = []
    content = write_video(tmp_path / "a.gif", frames).read_bytes()
    np.testing.assert_array_equal(read(content, "a.mp4", note=notes.append)[:, 0, 0, 0], range(20))
    assert "is gif, in spite of its name" in notes
    content = write_video(tmp_path / "a.mp4", frames).read_bytes()
    np.testing.assert_array_equal(read(content, "a.gif", note=notes.append)[:, 0, 0, 0], range(20))
    assert "is mp4, in spite of its name" in notes


def test_the_durations_of_a_gif():
    """The last frame's counts, too; 0 is 0.1 s."""
    pictures = [(0, 0, 4, 4, t % 4, None, 0, d) for t, d in enumerate([10, 0, 30, 10, 20])]
    content = gif(*pictures)
    notes = []
    taken = read(content, "a.gif", 4, channels=3, fps=5, note=notes.append)[:, 0, 0]
    assert taken.tolist() == [list(c) for c in (RED, BLUE, BLUE, RED)]
    assert "frames without a duration are shown for 0.1 seconds, as players do" in notes
    assert "frames are shown for 0.1 to 0.3 seconds" in notes
    assert fault(b"RIFF\0\0\0\0WEBPVP8X", "a.gif").startswith("cannot be opened")
    assert "fewer than data.fps = 20" in fault(content, "a.gif", fps=20)


def outcome(content: bytes) -> int | str:
    """Returns the number of frames, or the first words of the problem."""
    try:
        return len(read(content, "a.gif", 24))
    except BadVideo as error:
        return str(error).partition(":")[0]


def test_gifs_that_are_cut_short_or_damaged_never_lose_frames_silently():
    content = animation(noise(12, 24, 24, 3), "GIF", duration=40)
    frames = read(content, "a.gif", 24, channels=3)
    for cut in (*range(15), *range(15, len(content), 97)):
        words = fault(content[:cut], "a.gif")
        assert words.startswith(
            ("is cut short: the end of the GIF", "cannot be opened", "is empty")
        )
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(800, len(content))] ^= 1 << rng.integers(8)
        assert outcome(bytes(damaged)) in (len(frames), "is damaged", "is cut short")


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_damaged_animations(kind):
    content = animation(noise(12, 24, 24, 3), kind, duration=40)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        at = rng.integers(100, len(content))
        damaged[at : at + 8] = rng.bytes(8)
        outcomes.add(outcome(bytes(damaged)))
    assert {"is damaged"} <= outcomes <= {12, "is damaged", "is cut short", "cannot be opened"}


def test_pictures_that_are_too_large():
    content = bytearray(gif((0, 0, 4, 4, 1, None, 1, 5)))
    content[6:10] = struct.pack("<HH", 65535, 65535)
    assert fault(bytes(content), "a.gif") == "frames are 65535x65535 pixels, which is too large"
    content = bytearray(gif((0, 0, 4, 4, 1, None, 1, 5)))
    at = content.index(b",\0\0\0\0\4\0\4\0") + 5
    content[at : at + 4] = struct.pack("<HH", 65535, 65535)
    assert "too large" in fault(bytes(content), "a.gif")
    content = bytearray(animation(counting(2), "PNG"))
    content[16:24] = struct.pack(">II", 65535, 65535)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert fault(bytes(content), "a.gif") == "frames are too large"


def test_only_one_frame_of_a_gif_is_in_memory(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(animation(noise(100, 200, 200), "GIF"))
    blocks = read_video(path, path.name, FrameFormat(16, 1))
    next(blocks)
    tracemalloc.start()
    assert sum(len(block) for block in blocks) == 36
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6
