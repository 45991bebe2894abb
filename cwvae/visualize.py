"""Pictures of predictions: grids and GIFs of videos, film strips for print, curves of metrics.

A clip is [T, H, W, C] with C = 1 (gray) or 3 (RGB), as uint8 or as floats in [0, 1]. Functions
that draw return uint8 RGB; those named `save_` write a file and create no folder.

T: frames, H, W: height and width, C: channels.
"""

import io
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

# Blue and vermilion of Okabe and Ito's palette: told apart with every form of colour blindness.
CONTEXT_COLOR = (0, 114, 178)
PREDICTION_COLOR = (213, 94, 0)
CURVE_COLORS = ("#0072B2", "#D55E00", "#666666", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CURVE_STYLES = ("-", "--", ":", "-.")
# Reddish purple and yellow, of the same palette: by turns, a segment each.
SEGMENT_COLORS = ((204, 121, 167), (240, 228, 66))
BOUNDARY_COLOR = SEGMENT_COLORS[0]

# Neither black nor white: digits end in black, skies in white.
GAP_COLOR = (96, 96, 96)
PAPER = (255, 255, 255)
INK = (32, 32, 32)
MARGIN = 6  # pixels between text and what it labels
SPACE = 3  # pixels between the frames of a film strip
DIVIDER = 12  # pixels added to it between context and prediction
MARK = 4  # pixels added to it for marks of the frames that begin a segment


def to_uint8(frames: ArrayLike) -> np.ndarray:
    """Returns frames as uint8.

    Args:
      frames: Floats in [0, 1] of any shape (clipped; NaN is drawn black), or uint8 as it is.

    Raises:
      ValueError: frames are neither floats nor uint8.
    """
    frames = np.asarray(frames)
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind in "biu":  # not `!= "f"`: bfloat16 arrays have kind "V"
        raise ValueError(f"frames must be floats in [0, 1] or uint8, got {frames.dtype}.")
    frames = np.nan_to_num(frames.astype(np.float32), nan=0.0)
    return np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)


def error_frames(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Returns the absolute error as frames: black where the prediction is right.

    Args:
      truth: Frames of any shape, floats in [0, 1] or uint8.
      prediction: Frames of the same shape.

    Returns:
      uint8, the same shape.

    Raises:
      ValueError: The shapes differ.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth and prediction differ in shape: {truth.shape} and {prediction.shape}."
        )
    return np.maximum(truth, prediction) - np.minimum(truth, prediction)


def grid(rows: Sequence[Sequence[ArrayLike]], gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns one video that shows many clips side by side.

    Args:
      rows: Top to bottom, each a sequence of clips from left to right. Gray and RGB may be mixed;
        the clips agree in T, H and W, and the rows in length.
      gap: Pixels between neighbours.
      scale: Whole number by which frames are enlarged, without smoothing.

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
    """Frames a clip or a whole grid: blue while it is context, vermilion once it is predicted.

    Args:
      video: Clip.
      context: Number of frames seen; from frame `context` on they are predicted.
      width: Of the border, in pixels. It goes around the video and hides none of it.

    Returns:
      uint8 [T, H + 2 width, W + 2 width, 3].
    """
    video = _as_rgb(video)
    num_frames, height, width_inside, _ = video.shape
    marked = np.empty((num_frames, height + 2 * width, width_inside + 2 * width, 3), np.uint8)
    marked[:context] = CONTEXT_COLOR
    marked[context:] = PREDICTION_COLOR
    marked[:, width : width + height, width : width + width_inside] = video
    return marked


def time_bar(video: ArrayLike, context: int, height: int = 4) -> np.ndarray:
    """Draws a bar below a video that fills as it plays: blue for context, vermilion for predicted.

    Args:
      video: Clip.
      context: Number of frames seen.
      height: Of the bar, in pixels.

    Returns:
      uint8 [T, H + height, W, 3].
    """
    video = _as_rgb(video)
    num_frames, _, width, _ = video.shape
    frame_of = np.arange(width) * num_frames // width  # that fills each column
    color = np.where((frame_of < context)[:, None], CONTEXT_COLOR, PREDICTION_COLOR)
    filled = frame_of <= np.arange(num_frames)[:, None]  # [T, W]
    bar = np.where(filled[..., None], color, GAP_COLOR).astype(np.uint8)[:, None]
    bar = np.broadcast_to(bar, (num_frames, height, width, 3))
    return np.concatenate([video, bar], axis=1)


def mark_segments(
    rows: Sequence[Sequence[ArrayLike]],
    boundaries: Sequence[Sequence[ArrayLike] | None],
    span: int = 16,
) -> Sequence[Sequence[ArrayLike]]:
    """Draws a track below each clip that scrolls as it plays, in stretches as long as segments.

    Its right end is the frame that is shown, its left end the one `span` frames before. Each
    segment has the other of `SEGMENT_COLORS` than the one before it.

    Args:
      rows: Rows of clips, as `grid` takes them.
      boundaries: A row per row of clips: for each clip, which frames begin a segment, bool [T].
        None for a row without segments, whose tracks stay empty.
      span: Frames that a track shows.

    Returns:
      Rows for `grid`; those that were given, if no row has segments.

    Raises:
      ValueError: Boundaries that are not one for each frame of each clip.
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
    """Writes the name of each row of a grid on its left.

    Args:
      video: Clip [T, H, W, C] whose height divides into len(labels) equal rows.
      labels: Names, top to bottom.
      font_size: In pixels.

    Returns:
      uint8 [T, H, W + width of the text, 3].

    Raises:
      ValueError: No labels.
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

    A line, and the colour of the time steps, part context from prediction. A purple corner, left
    of a frame and above it, marks one that begins a segment.

    Args:
      clips: Clips of the chosen frames only, [len(times), H, W, C].
      times: When those frames are, counted from 0 at the first context frame.
      labels: One per clip.
      context: Number of context frames.
      scale: Whole number by which frames are enlarged; by default to about 96 pixels.
      font_size: In pixels.
      boundaries: One per clip: which of its frames begin a segment, bool [len(times)], or None.

    Returns:
      uint8 [H', W', 3].

    Raises:
      ValueError: Nothing to draw, clips and labels differ in number, or clips in shape, or they
        or boundaries have not one frame per time.
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
    lefts, dividers = _columns(times, context, label_width, column_width, space)
    tops = [font_size + 2 * MARGIN + row * (height + space) for row in range(len(clips))]
    size = (lefts[-1] + column_width + MARGIN, tops[-1] + height + MARGIN)
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)

    for column, (name, left) in enumerate(zip(names, lefts, strict=True)):
        color = CONTEXT_COLOR if times[column] < context else PREDICTION_COLOR
        draw.text((left + width / 2, tops[0] - MARGIN), name, color, font, anchor="mb")
        for clip, top in zip(clips, tops, strict=True):
            frame = _enlarged(clip[column : column + 1], scale)[0]
            page.paste(Image.fromarray(frame), (left, top))
    for label, top in zip(labels, tops, strict=True):
        draw.text((lefts[0] - MARGIN, top + height / 2), label, INK, font, anchor="rm")
    for x in dividers:
        draw.line((x, 0, x, page.height), INK, width=2)
    for flags, top in zip(boundaries, tops, strict=True):
        for column in np.flatnonzero(flags) if flags is not None else ():
            _draw_corner(draw, lefts[column], top, width, height)
    return np.asarray(page)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures [H, W, 3] below one another, flush left on paper: the lines of a strip."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [
            np.pad(
                picture, [(0, 0), (0, width - picture.shape[1]), (0, 0)], constant_values=PAPER[0]
            )
            for picture in pictures
        ]
    )


def gif_bytes(video: ArrayLike, fps: float = 10) -> bytes:
    """Encodes a GIF that loops for ever.

    Every frame has its own palette of 256 colours: gray levels survive within 1 of 255, colours
    approximately. Runs of identical frames are stored once and shown for as long as the run lasts.

    Args:
      video: Clip.
      fps: Frames per second. GIF counts in hundredths of a second, to which 1 / fps is rounded;
        browsers slow down anything above 50.

    Raises:
      ValueError: No frames, or fps not in (0, 100].
    """
    video = _as_rgb(video)
    if len(video) == 0:
        raise ValueError("a GIF needs at least one frame, got none.")
    if not 0 < fps <= 100:
        raise ValueError(f"fps must be in (0, 100], got {fps}.")
    # Dithering would flicker from frame to frame, and compresses badly.
    first, *rest = (
        Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in video
    )
    buffer = io.BytesIO()
    milliseconds = 10 * round(100 / fps)
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return buffer.getvalue()


def save_gif(path: str | os.PathLike, video: ArrayLike, fps: float = 10) -> None:
    """Writes a clip as `gif_bytes` encodes it."""
    data = gif_bytes(video, fps)
    with open(path, "wb") as file:
        file.write(data)


def avif_bytes(video: ArrayLike, fps: float = 10, quality: int = 65) -> bytes:
    """Encodes an animated AVIF that loops for ever: a tenth of a GIF's size, in full colour, lossy.

    Browsers play it from Chrome 85, Firefox 113 and Safari 16.4 on.

    Args:
      video: Clip.
      fps: Frames per second; 1 / fps is rounded to milliseconds.
      quality: 0 to 100.

    Raises:
      ValueError: No frames.
    """
    video = _as_rgb(video)
    if len(video) == 0:
        raise ValueError("an animation needs at least one frame, got none.")
    first, *rest = (Image.fromarray(frame) for frame in video)
    buffer = io.BytesIO()
    first.save(
        buffer,
        "AVIF",
        save_all=True,
        append_images=rest,
        duration=round(1000 / fps),
        quality=quality,
        subsampling="4:4:4",  # Each pixel keeps its own colour: frames are small, and enlarged.
        speed=8,
    )
    return buffer.getvalue()


def save_png(path: str | os.PathLike, image: ArrayLike) -> None:
    """Writes an image [H, W, C], gray or RGB, floats in [0, 1] or uint8."""
    Image.fromarray(_as_rgb(np.asarray(image)[None])[0]).save(path, "PNG")


def save_curves(
    path: str | os.PathLike, curves: Mapping[str, Mapping[str, ArrayLike]], dpi: int = 150
) -> None:
    """Draws metrics against the number of frames predicted, one panel per metric, as a PNG.

    Three panels stand in a row.

    Args:
      path: File to write.
      curves: {label of a metric, with its unit: {name of a series: values [T]}}. A series of the
        same name has the same colour in all panels. A line joins the values that are finite.
      dpi: Dots per inch.

    Raises:
      ValueError: No metric, no series, or a series that is not [T].
    """
    # Imported here, because it takes longer than all else and only this function needs it. The
    # Figure class draws without pyplot: no display, no global state.
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for series in curves.values() for name in series))
    if not names:
        raise ValueError("save_curves needs at least one series, got none.")
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    figure = Figure(figsize=(4.2 * across, 3.2 * down), dpi=dpi, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel in panels[len(curves) :]:
        panel.remove()
    lines = {}
    for panel, (metric, series) in zip(panels, curves.items(), strict=False):
        for name, values in series.items():
            values = np.asarray(values)
            if values.ndim != 1:
                raise ValueError(f"{metric}, {name}: expected values [T], got {values.shape}.")
            index = names.index(name)
            color = CURVE_COLORS[index % len(CURVE_COLORS)]
            style = CURVE_STYLES[index % len(CURVE_STYLES)]
            there = np.flatnonzero(np.isfinite(values.astype(float)))
            lines[name] = panel.plot(there + 1, values[there], color=color, linestyle=style)[0]
        panel.set_xlabel("frames predicted")
        panel.set_ylabel(metric)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    # Two names fit under one panel; more columns would be cut off at the figure's edge.
    columns = min(len(lines), 2 * across)
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
    figure.savefig(path, format="png")


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


def _draw_corner(draw, left, top, width, height):
    """Marks the frame that fills a rectangle as one that begins a segment, and hides none of it."""
    draw.rectangle((left - MARK, top - MARK, left - 1, top + height - 1), BOUNDARY_COLOR)
    draw.rectangle((left, top - MARK, left + width - 1, top - 1), BOUNDARY_COLOR)


def _enlarged(clip, scale):
    return clip.repeat(scale, axis=1).repeat(scale, axis=2)


def _joined(clips, axis, gap):
    """Concatenates equally large RGB clips with a gap between neighbours."""
    shape = list(clips[0].shape)
    shape[axis] = gap
    space = np.broadcast_to(np.array(GAP_COLOR, np.uint8), shape)
    parts = [clips[0]]
    for clip in clips[1:]:
        parts += [space, clip]
    return np.concatenate(parts, axis=axis)


def _text_width(texts, font):
    return max(int(np.ceil(font.getlength(text))) for text in texts)


def _columns(times, context, start, width, space):
    """Returns the left edges of a film strip's columns, and of the lines where context ends."""
    lefts, dividers = [start], []
    for before, time in itertools.pairwise(times):
        left = lefts[-1] + width + space
        if (before < context) != (time < context):
            dividers.append(left + (DIVIDER - SPACE) // 2)
            left += DIVIDER
        lefts.append(left)
    return lefts, dividers


def _check_filmstrip(clips, times, labels, boundaries):
    if not clips or not times:
        raise ValueError(f"nothing to draw: {len(clips)} clips, {len(times)} times.")
    if len(clips) != len(labels):
        raise ValueError(f"{len(clips)} clips but {len(labels)} labels.")
    sizes = sorted({clip.shape[1:3] for clip in clips})
    if len(sizes) != 1:
        raise ValueError(f"clips in a film strip must agree in [H, W], got {sizes}.")
    lengths = sorted({len(clip) for clip in clips})
    if lengths != [len(times)]:
        raise ValueError(f"{len(times)} times, but clips of {lengths} frames.")
    shapes = [np.shape(flags) for flags in boundaries if flags is not None]
    if len(boundaries) != len(clips) or not {*shapes} <= {(len(times),)}:
        raise ValueError(
            f"{len(clips)} clips of {len(times)} frames, but {len(boundaries)} boundaries of"
            f" shapes {shapes}."
        )
