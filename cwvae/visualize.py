"""Pictures of predictions: grids and animations of videos, film strips, curves of metrics.

A clip is [T, H, W, C] with C = 1 (gray) or 3 (RGB), as uint8 or as floats in [0, 1]. Functions
that draw frames return uint8 RGB. Functions named `save_` write a file and create no folder.

T: frames, H, W: height and width, C: channels.
"""

import fractions
import functools
import io
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from cwvae.run import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any form of colour blindness can tell apart.
CONTEXT_COLOR = (0, 114, 178)
PREDICTION_COLOR = (213, 94, 0)
PREDICTION_TEXT = (176, 76, 0)  # Darker: text on white needs a contrast of 4.5.
CURVE_COLORS = ("#0072B2", "#D55E00", "#666666", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CURVE_STYLES = ("-", "--", ":", "-.")
AXIS_COLOR, GRID_COLOR = "#4d4d4d", "#d9d9d9"  # text; grid lines
# Reddish purple and yellow of the same palette; segments alternate between them.
SEGMENT_COLORS = ((204, 121, 167), (240, 228, 66))
BOUNDARY_COLOR = SEGMENT_COLORS[0]

# Neither black nor white: frames of digits end in black, skies in white.
GAP_COLOR = (96, 96, 96)
PAPER = (255, 255, 255)
INK = (32, 32, 32)
MARGIN = 6  # pixels between text and the object it labels
SPACE = 3  # pixels between the frames of a film strip
DIVIDER = 12  # extra pixels between context and prediction
MARK = 4  # extra pixels between frames where the start of a segment is marked

# Errors of 3 of 255 on average in frames full of texture. One thread: equal frames, equal bytes.
_H264 = {"crf": "20", "preset": "veryfast", "threads": "1"}

# Figures of curves.
_PANELS_PER_ROW = 3
_PANEL_WIDTH = 4.2  # inches
_CHARACTERS_PER_INCH = 13  # of the legend
_MARKED = 40  # Only curves with at most this many points have markers.


def to_uint8(frames: ArrayLike) -> np.ndarray:
    """Returns frames of any shape as uint8. Floats are clipped to [0, 1]; NaN becomes black.

    Raises ValueError if they are neither floats nor uint8.
    """
    frames = np.asarray(frames)
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
        raise ValueError(f"frames must be floats in [0, 1] or uint8, got {frames.dtype}.")
    frames = np.nan_to_num(frames.astype(np.float32), nan=0.0)
    return np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)


def error_frames(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Returns the absolute error of frames as uint8; raises ValueError if the shapes differ."""
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}."
        )
    return np.maximum(truth, prediction) - np.minimum(truth, prediction)


def grid(rows: Sequence[Sequence[ArrayLike]], gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns one video that shows many clips side by side.

    Args:
      rows: Rows of equally many clips, of the same [T, H, W]. Gray and RGB may be mixed.
      gap: Pixels between neighbours.
      scale: Integer factor by which frames are enlarged, without smoothing.

    Returns:
      uint8 [T, H', W', 3].

    Raises:
      ValueError: No clips, rows of different lengths, or clips of different sizes.
    """
    cells = [[_enlarged(_as_rgb(clip), scale) for clip in row] for row in rows]
    lengths = {len(row) for row in cells}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"rows must hold equally many clips, got {[len(row) for row in cells]}.")
    shapes = sorted({clip.shape[:3] for row in cells for clip in row})
    if len(shapes) != 1:
        raise ValueError(f"clips in a grid must agree in [T, H, W], got {shapes}.")
    return _joined([_joined(row, 2, gap) for row in cells], 1, gap)


def mark_context(video: ArrayLike, context: int, width: int = 3) -> np.ndarray:
    """Draws a border around a clip or grid: blue for `context` frames, then vermilion.

    Returns uint8 [T, H + 2 width, W + 2 width, 3].
    """
    video = _as_rgb(video)
    marked = np.pad(video, [(0, 0), (width, width), (width, width), (0, 0)])
    marked[:context] = CONTEXT_COLOR
    marked[context:] = PREDICTION_COLOR
    marked[:, width : width + video.shape[1], width : width + video.shape[2]] = video
    return marked


def time_bar(
    video: ArrayLike, context: int, height: int = 4, first: int = 0, length: int | None = None
) -> np.ndarray:
    """Draws a bar below a video that fills as it plays: blue for `context` frames, then vermilion.

    Args:
      video: A clip, or the part of one that begins at frame `first`.
      context: Number of context frames of the whole clip.
      height: Height of the bar in pixels.
      first: Number of the first frame of a part, from 0.
      length: Frames of the whole clip; those of `video` by default.

    Returns:
      uint8 [T, H + height, W, 3].
    """
    video = _as_rgb(video)
    num_frames, _, width, _ = video.shape
    # The frame that fills each column.
    frame_of = np.arange(width) * (num_frames if length is None else length) // width
    color = np.where((frame_of < context)[:, None], CONTEXT_COLOR, PREDICTION_COLOR)
    filled = frame_of <= first + np.arange(num_frames)[:, None]  # [T, W]
    bar = np.where(filled[..., None], color, GAP_COLOR).astype(np.uint8)[:, None]
    bar = np.broadcast_to(bar, (num_frames, height, width, 3))
    return np.concatenate([video, bar], axis=1)


def mark_segments(
    rows: Sequence[Sequence[ArrayLike]],
    boundaries: Sequence[Sequence[ArrayLike] | None],
    span: int = 16,
) -> Sequence[Sequence[ArrayLike]]:
    """Draws a track below each clip that shows its latest segments and scrolls as it plays.

    The right end of a track is the current frame, the left end the frame `span` - 1 before it.
    Segments alternate between the two `SEGMENT_COLORS`.

    Args:
      rows: Rows of clips, as for `grid`.
      boundaries: For each row, the frames that begin a segment, a bool [T] per clip; None for empty
        tracks.
      span: Number of frames that a track shows.

    Returns:
      Rows for `grid`; the given rows if none has segments.

    Raises:
      ValueError: Boundaries that do not have one value per frame of each clip.
    """
    if all(flags is None for flags in boundaries):
        return rows
    return [
        [
            _with_track(_as_rgb(clip), None if flags is None else flags[i], span)
            for i, clip in enumerate(row)
        ]
        for row, flags in zip(rows, boundaries, strict=True)
    ]


def label_rows(video: ArrayLike, labels: Sequence[str], font_size: int = 13) -> np.ndarray:
    """Writes the names of a grid's rows, which have equal heights, on its left.

    Returns uint8 [T, H, W + width of the text, 3]. Raises ValueError without labels.
    """
    video = _as_rgb(video)
    if not labels:
        raise ValueError("label_rows needs one label per row, got none.")
    font = ImageFont.load_default(size=font_size)
    height = video.shape[1]
    panel = Image.new("RGB", (_text_width(labels, font) + 2 * MARGIN, height), PAPER)
    draw = ImageDraw.Draw(panel)
    for row, label in enumerate(labels):
        middle = (row + 0.5) * height / len(labels)
        draw.text((panel.width - MARGIN, middle), label, INK, font, anchor="rm")
    panel = np.broadcast_to(np.asarray(panel), (len(video), height, panel.width, 3))
    return np.concatenate([panel, video], axis=2)


def filmstrip(
    clips: Sequence[ArrayLike],
    times: Sequence[int],
    labels: Sequence[str],
    context: int,
    scale: int | None = None,
    font_size: int = 15,
    boundaries: Sequence[ArrayLike | None] | None = None,
) -> np.ndarray:
    """Returns a still picture: a row per clip, a column per chosen time step.

    A line separates context from prediction, and so does the colour of the time steps. A purple
    corner above and to the left of a frame marks the start of a segment.

    Args:
      clips: The chosen frames of each clip, [len(times), H, W, C].
      times: Increasing time steps of these frames; the first context frame is 0.
      labels: One per clip.
      context: Number of context frames.
      scale: Integer factor by which frames are enlarged; by default to about 96 pixels.
      font_size: Pixels.
      boundaries: For each clip, the frames that begin a segment, bool [len(times)], or None.

    Returns:
      uint8 [H', W', 3].

    Raises:
      ValueError: Nothing to draw, or clips, times, labels and boundaries that do not match.
    """
    clips = [_as_rgb(clip) for clip in clips]
    boundaries = boundaries or [None] * len(clips)
    _check_filmstrip(clips, times, labels, boundaries)
    height, width = clips[0].shape[1:3]
    scale = scale or max(1, round(96 / height))
    height, width = scale * height, scale * width
    font = ImageFont.load_default(size=font_size)
    names = [f"t={time}" for time in times]
    column_width = max(width, _text_width(names, font))
    label_width = _text_width(labels, font) + 2 * MARGIN
    space = SPACE if all(flags is None for flags in boundaries) else SPACE + MARK
    seen = sum(time < context for time in times)
    lefts = [
        label_width + i * (column_width + space) + DIVIDER * (0 < seen <= i)
        for i in range(len(times))
    ]
    tops = [font_size + 2 * MARGIN + row * (height + space) for row in range(len(clips))]
    size = (lefts[-1] + column_width + MARGIN, tops[-1] + height + MARGIN)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)

    for column, (name, left) in enumerate(zip(names, lefts, strict=True)):
        color = CONTEXT_COLOR if column < seen else PREDICTION_TEXT
        draw.text((left + width / 2, tops[0] - MARGIN), name, color, font, anchor="mb")
    if 0 < seen < len(times):
        x = lefts[seen] - DIVIDER + (DIVIDER - SPACE) // 2
        draw.line((x, 0, x, page.height), INK, width=2)
    for clip, label, flags, top in zip(clips, labels, boundaries, tops, strict=True):
        draw.text((lefts[0] - MARGIN, top + height / 2), label, INK, font, anchor="rm")
        for left, frame in zip(lefts, _enlarged(clip, scale), strict=True):
            page.paste(Image.fromarray(frame), (left, top))
        for left in () if flags is None else np.array(lefts)[np.asarray(flags, bool)].tolist():
            # The corner surrounds the frame and hides none of it.
            draw.rectangle((left - MARK, top - MARK, left - 1, top + height - 1), BOUNDARY_COLOR)
            draw.rectangle((left, top - MARK, left + width - 1, top - 1), BOUNDARY_COLOR)
    return np.asarray(page)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures [H, W, 3] stacked on white paper, aligned on the left."""
    width = max(picture.shape[1] for picture in pictures)
    missing = [[(0, 0), (0, width - picture.shape[1]), (0, 0)] for picture in pictures]
    padded = map(functools.partial(np.pad, constant_values=PAPER[0]), pictures, missing)
    return np.concatenate(list(padded))


def gif_bytes(video: ArrayLike, fps: float = 10) -> bytes:
    """Encodes a clip as a GIF that loops forever.

    Each frame has its own palette of 256 colours: gray levels are off by at most 1 of 255, colours
    are approximate. Identical consecutive frames are stored once, with their total duration.
    1 / `fps` is rounded to hundredths of a second. Browsers slow down anything above 50.

    Raises:
      ValueError: No frames, or fps outside (0, 100].
    """
    if not 0 < fps <= 100:
        raise ValueError(f"fps must be in (0, 100], got {fps}.")
    options = {"extension": ".gif", "plugin": "pillow", "is_batch": True, "loop": 0}
    duration = 10 * round(100 / fps)
    return iio.imwrite("<bytes>", _at_least_one(video), duration=duration, **options)


def mp4_bytes(video: ArrayLike, fps: float = 10) -> bytes:
    """Encodes a clip as H.264 in MP4, which every browser plays: lossy, a tenth of a GIF's size.

    Colour has half the resolution of brightness, so frames should be enlarged by an even factor.
    An odd height or width grows by one pixel. Raises ValueError without frames.
    """
    return mp4_of_parts([_at_least_one(video)], fps)


def mp4_of_parts(parts: Iterable[ArrayLike], fps: float = 10) -> bytes:
    """Encodes as `mp4_bytes` the clip whose consecutive parts are given, without holding it."""
    import av  # Slow to import.

    rate = fractions.Fraction(fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.mp4"
        # The index comes first, so that browsers play the file while they load it. To move it
        # there, FFmpeg reads the file once more, so it cannot be in memory.
        with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
            stream = None
            for part in parts:
                part = _as_rgb(part)
                _, height, width, _ = part.shape
                part = np.pad(part, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
                if stream is None:
                    stream = file.add_stream("libx264", rate=rate, options=_H264)
                    stream.height, stream.width = part.shape[1:3]
                    stream.pix_fmt = "yuv420p"
                    stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
                for frame in part:
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                    file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path.read_bytes()


def save_mp4(path: str | os.PathLike, video: ArrayLike, fps: float = 10) -> None:
    """Writes a clip as `mp4_bytes` encodes it."""
    files.write(path, mp4_bytes(video, fps))


def save_gif(path: str | os.PathLike, video: ArrayLike, fps: float = 10) -> None:
    """Writes a clip as `gif_bytes` encodes it."""
    files.write(path, gif_bytes(video, fps))


def png_bytes(image: ArrayLike) -> bytes:
    """Encodes an image [H, W, C], gray or RGB, floats in [0, 1] or uint8, without loss."""
    image = _as_rgb(np.asarray(image)[None])[0]
    return iio.imwrite("<bytes>", image, extension=".png", plugin="pillow")


def save_png(path: str | os.PathLike, image: ArrayLike) -> None:
    """Writes an image as `png_bytes` encodes it."""
    files.write(path, png_bytes(image))


class Panel(NamedTuple):
    """One panel of a figure: its curves {name: (x, y)}, the labels of its axes, and its title."""

    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    xlabel: str
    ylabel: str = ""
    title: str = ""


def by_frame(values: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the frame numbers, from 1, and values of a curve, without missing values."""
    values = np.asarray(values, float)
    there = np.flatnonzero(np.isfinite(values))
    return there + 1, values[there]


def curve_style(index: int) -> dict[str, str]:
    """Returns colour and line style of a figure's n-th curve."""
    return {
        "color": CURVE_COLORS[index % len(CURVE_COLORS)],
        "linestyle": CURVE_STYLES[index % len(CURVE_STYLES)],
    }


def draw_curves(
    panels: Sequence[Panel], styles: Mapping[str, Mapping] | None = None, legend: bool = True
) -> "Figure":
    """Draws a figure of curves, three panels in a row, with one legend below them.

    Args:
      panels: Panels from left to right, then down. A name has the same style in all of them.
      styles: {name: properties of a Matplotlib line}, in the order of the legend; by default
        `curve_style` by order of appearance.
      legend: Whether to draw the legend.
    """
    # Imported late because it is slow and few commands need it. The class `Figure` needs neither
    # a display nor pyplot's global state.
    from matplotlib.figure import Figure

    shown = dict.fromkeys(name for panel in panels for name in panel.curves)
    styles = styles or {name: curve_style(i) for i, name in enumerate(shown)}
    names = [name for name in styles if name in shown]
    across = min(_PANELS_PER_ROW, len(panels))
    down = -(-len(panels) // across)
    width = _PANEL_WIDTH * across
    longest = max(map(len, names), default=0) + 6  # The legend draws a line before each name.
    columns = max(1, min(len(names), int(width * _CHARACTERS_PER_INCH / longest)))
    height = 2.7 * down + legend * 0.22 * -(-len(names) // columns)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    all_axes = figure.subplots(down, across, squeeze=False).ravel()
    lines = {}
    for axes, panel in zip(all_axes, panels, strict=False):
        for name in (name for name in names if name in panel.curves):
            x, y = panel.curves[name]
            # A single point has no line, and markers show which frames were measured.
            sparse = len(x) < 2 or np.diff(x).max() > 1
            marker = "o" if sparse and len(x) <= _MARKED else None
            look = {"gid": f"curve {name}", "marker": marker, "markersize": 3, "linewidth": 1.6}
            # With clipping, half of a line at the edge would be cut off.
            look |= {"clip_on": False} | styles[name]
            (lines[name],) = axes.plot(x, y, **look)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.xlabel, color=AXIS_COLOR)
        axes.set_ylabel(panel.ylabel, color=AXIS_COLOR)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(length=0, labelcolor=AXIS_COLOR)
        axes.grid(axis="y", color=GRID_COLOR, clip_on=False)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        axes.margins(x=0.01)
    for axes in all_axes[len(panels) :]:
        axes.remove()
    if legend:
        handles = [lines[name] for name in names]
        place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        figure.legend(handles, list(map(plain_text, names)), **place)
    return figure


def plain_text(text: str) -> str:
    """Escapes text for Matplotlib, which reads what is between dollar signs as a formula."""
    return text.replace("$", r"\$")


def figure_bytes(figure: "Figure", kind: str) -> bytes:
    """Encodes a figure as "png", "pdf" or "svg" without background; equal figures, equal bytes."""
    from matplotlib import rc_context

    # Journals refuse fonts of type 3. Text in an SVG stays text.
    settings = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "cwvae"}
    options = {
        "pdf": {"metadata": {"CreationDate": None}},
        "svg": {"metadata": {"Date": None}, "facecolor": "none"},
    }
    buffer = io.BytesIO()
    with rc_context(settings):
        figure.savefig(buffer, format=kind, **options.get(kind, {}))
    return buffer.getvalue()


def _at_least_one(video):
    """Returns a clip as uint8 [T, H, W, 3], or raises ValueError if it has no frames."""
    video = _as_rgb(video)
    if len(video) == 0:
        raise ValueError("an animation needs at least one frame, got none.")
    return video


def _as_rgb(clip):
    """Returns a clip as uint8 [T, H, W, 3], or raises ValueError."""
    clip = to_uint8(clip)
    if clip.ndim != 4 or clip.shape[-1] not in (1, 3):
        raise ValueError(f"expected a clip [T, H, W, 1 or 3], got shape {clip.shape}.")
    return np.broadcast_to(clip, (*clip.shape[:3], 3))


def _with_track(clip, boundaries, span):
    """Draws the track of `mark_segments` below an RGB clip, a gap between them."""
    num_frames, frame_height, width, _ = clip.shape
    gap, height = max(1, frame_height // 32), max(3, frame_height // 10)
    below = np.full((num_frames, gap + height, width, 3), GAP_COLOR, np.uint8)
    if boundaries is not None:
        if np.shape(boundaries) != (num_frames,):
            raise ValueError(f"{num_frames} frames, but boundaries {np.shape(boundaries)}.")
        color = np.array(SEGMENT_COLORS, np.uint8)[np.cumsum(boundaries) % 2]  # [T, 3]
        frame_of = np.arange(width) * span // width - (span - 1)  # counted from the one shown
        frame_of = frame_of + np.arange(num_frames)[:, None]
        track = np.where((frame_of < 0)[..., None], below[:, 0], color[np.maximum(frame_of, 0)])
        below[:, gap:] = track[:, None]
    return np.concatenate([clip, below], axis=1)


def _enlarged(clip, scale):
    """Enlarges an RGB clip by an integer factor, without smoothing."""
    num_frames, height, width, _ = clip.shape
    # Bytes of whole rows: NumPy is slow at repeating pixels of three bytes.
    columns = np.arange(3 * width).reshape(width, 1, 3).repeat(scale, 1).ravel()
    rows = clip.reshape(num_frames, height, 3 * width).take(columns, -1).repeat(scale, 1)
    return rows.reshape(num_frames, scale * height, scale * width, 3)


def _joined(clips, axis, gap):
    """Concatenates equally large RGB clips with a gap between neighbours."""
    shape = list(clips[0].shape)
    shape[axis] = gap
    space = np.broadcast_to(np.array(GAP_COLOR, np.uint8), shape)
    return np.concatenate([part for clip in clips for part in (space, clip)][1:], axis=axis)


def _text_width(texts, font):
    return max(int(np.ceil(font.getlength(text))) for text in texts)


def _check_filmstrip(clips, times, labels, boundaries):
    sizes = sorted({clip.shape[1:3] for clip in clips})
    lengths = sorted({len(clip) for clip in clips})
    shapes = [np.shape(flags) for flags in boundaries if flags is not None]
    if not clips or not times:
        raise ValueError(f"nothing to draw: {len(clips)} clips, {len(times)} times.")
    if len(clips) != len(labels):
        raise ValueError(f"{len(clips)} clips but {len(labels)} labels.")
    if len(sizes) != 1:
        raise ValueError(f"clips in a film strip must agree in [H, W], got {sizes}.")
    if lengths != [len(times)]:
        raise ValueError(f"{len(times)} times, but clips of {lengths} frames.")
    if len(boundaries) != len(clips) or not {*shapes} <= {(len(times),)}:
        raise ValueError(
            f"{len(clips)} clips of {len(times)} frames, but {len(boundaries)} boundaries of shapes"
            f" {shapes}."
        )
