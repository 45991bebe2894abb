"""The report's videos and film strips."""

import base64
from typing import TYPE_CHECKING

from cwvae.evaluation.report import text

if TYPE_CHECKING:
    from cwvae.evaluation.pictures import Animation, Levels, Samples, Segments

_UNPLAYABLE = (
    "This browser cannot play the video (H.264). The picture is its first predicted frame."
)


def of_samples(samples: "Samples", context: int) -> str:
    """Returns the section of predictions of some clips, after `context` frames."""
    frames = _span(samples.frames)
    heads = "".join(
        f"<span>{head}</span>"
        for head in ("truth", *(f"sample {i + 1}" for i in range(samples.count)))
    )
    width = f"{97 / (samples.count + 1):.2f}%"
    clips = ""
    for number, clip in enumerate(samples.clips, 1):
        content = (
            f"Clip {number}, {frames}: the truth and {samples.count} predictions side by side, with"
            " the absolute error below each prediction."
        )
        video, controls = _player(clip, f"clip {number}", content, samples.frames, context)
        clips += (
            f'<figure class="clip"><figcaption>Clip {number} <span>{frames}</span></figcaption>'
            f'<div class="heads" aria-hidden="true">{heads}</div>'
            f'<div class="frame">{video}<span class="empty" style="width:{width}"'
            f' aria-hidden="true">absolute error</span></div>{controls}</figure>'
        )
    tracks = (
        "\n<p>The track below each cell shows its latest frames. Its colour alternates between"
        f" {_color('segment')} purple and {_color('next-segment')} yellow: a new colour is a new"
        " segment.</p>"
    )
    return (
        f"<p>{_color('context')} Blue border: context, which the model sees."
        f" {_color('prediction')} Orange border: predictions, for which it sees no more frames. The"
        " bar at the bottom fills as the clip plays. Errors are black where the prediction is"
        f' right.</p>{tracks if samples.segments else ""}\n<div class="clips">{clips}</div>\n'
        "<h3>One clip to the last frame</h3>\n"
        + _strip(samples.strip, "Film strip of the first clip: the truth and its predictions.")
    )


def of_levels(levels: "Levels", context: int) -> str:
    """Returns the section of predictions with one level from its prior, after `context` frames."""
    rows = "".join(f"<li>{text.escape(row)}</li>" for row in levels.rows)
    content = f"The same clip. Rows: {text.escape('; '.join(levels.rows))}."
    player = _player(levels.animation, "the levels", content, levels.frames, context)
    video, controls = player
    return (
        "<p>Below the truth and a prediction, each level in turn samples from its prior, while the"
        " other levels see the context (Figure 7 of the paper). What still matches the truth is"
        " stored in the levels that see the context. What differs from the truth, and between"
        " samples, is stored in the level that does not.</p>\n"
        + _strip(levels.strip, "Film strip: truth, prediction, and each level from its prior.")
        + f'\n<figure class="clip levels"><div class="rows"><ol aria-hidden="true">{rows}</ol>'
        f"{video}</div>{controls}</figure>"
    )


def of_segments(segments: "Segments") -> str:
    """Returns the section of segment boundaries."""
    frames = _span(segments.frames)
    return (
        f"<p>The first clip, {frames}: the truth above a prediction. A purple corner"
        f" {_color('segment')} marks a frame that begins a segment. In the truth and in the context"
        " the posterior decides, which sees the frames; in predictions the prior does.</p>\n"
        + _strip(segments.strip, f"Film strip of {frames}: truth and prediction, segments marked.")
    )


def _player(
    animation: "Animation", name: str, content: str, frames: range, context: int
) -> tuple[str, str]:
    """Returns a video, and its controls, which player.js shows in place of the browser's."""
    seen = context - frames.start
    video = (
        f'<video src="{_uri("video/mp4", animation.video)}" controls loop muted playsinline'
        f' preload="auto" poster="{_uri("image/png", animation.still)}" aria-label="{content}"'
        f' data-name="{name}" data-first="{frames.start}" data-context="{seen}"></video>'
    )
    controls = (
        f'<div class="controls" hidden><button type="button" aria-label="Play {name}">Play</button>'
        f'<input type="range" min="0" max="{len(frames) - 1}" value="{seen}"'
        f' aria-label="Frame of {name}"><span aria-hidden="true"></span></div>'
        f'<p class="unplayable" hidden>{_UNPLAYABLE}</p>'
    )
    return video, controls


def _span(frames: range) -> str:
    return f"frames {frames.start} to {frames.stop - 1}"


def _strip(png: bytes, content: str) -> str:
    image = f'<img src="{_uri("image/png", png)}" alt="{content}">'
    return text.scrollable(image, content.partition(":")[0], "strip")


def _color(name: str) -> str:
    return f'<span class="key" style="background:var(--{name})"></span>'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
