"""Tests of pictures of predictions: their content, and the memory that they need."""

import functools
import io
import tracemalloc

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny
from helpers.oracle import Oracle
from PIL import Image

from cwvae import factory, visualize
from cwvae.evaluation import pictures
from cwvae.video_model import Rollout

CELL, GAP, BORDER = 128, 2, 4  # in animations of 32x32 frames
GIF_BORDER = 3


class Levelled(Oracle):
    """An oracle with levels that records which of them see the context."""

    levels = 3

    def __init__(self, data):
        super().__init__(data, (0.1, 0.2, 0.3))
        self.asked = []

    def predict_chunks(self, context, horizon, seed, row, observe_levels=None):
        self.asked.append(observe_levels)
        yield from super().predict_chunks(context, horizon, seed, row, observe_levels)


class Cuts(tiny.Squares):
    """Clips with a pixel set in every fifth frame, where a segment begins."""

    def clip(self, i, start=0, length=None):
        video = super().clip(i, start, length)
        video[:, 0, 0] = np.where((np.arange(len(video)) + start + i) % 5 == 0, 255, 0)[:, None]
        return video


class Segmented(Oracle):
    """An oracle that finds the segments of `Cuts`, but errs in two frames at each end of its input.

    In predictions of clip i a segment begins i frames after the context, and every third frame from
    there.
    """

    def boundaries(self, video, seed):
        begins = np.asarray(video)[:, :, 0, 0, 0] > 127
        begins[:, :2] = begins[:, -2:] = True
        return tf.constant(begins)

    def predict_chunks(self, context, horizon, seed, row, observe_levels=None):
        clips, start = [self._which(clip) for clip in np.asarray(context)], 0
        for rollout in super().predict_chunks(context, horizon, seed, row, observe_levels):
            times = np.arange(start, start + rollout.frames.shape[1])
            begins = np.stack([(times - clip) % 3 == 0 for clip in clips])
            yield Rollout(rollout.frames, tf.constant(begins))
            start += len(times)


@functools.cache
def decoded(animation: bytes) -> np.ndarray:
    """Returns the frames of a GIF or an MP4."""
    plugin = "pillow" if animation.startswith(b"GIF") else "pyav"
    return iio.imread(animation, plugin=plugin, index=None if plugin == "pillow" else ...).astype(
        int
    )


def cell(animation: pictures.Animation, number: int, row: int, column: int) -> np.ndarray:
    top, left = (BORDER + place * (CELL + GAP) for place in (row, column))
    shown = decoded(animation.video)[number]
    return shown[top : top + CELL : 4, left : left + CELL : 4]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("pictures"), tiny.Squares(40)
    options = tiny.settings("evaluation.horizon=12").evaluation
    model = Oracle(data, (0.0, 0.25, 0.5))
    return folder, data, pictures.samples(folder, options, model, data)()


def test_samples_are_written_and_returned(made):
    folder, _, samples = made
    assert Image.open(folder / "samples.gif").n_frames == 5 + 12
    assert (folder / "samples.png").read_bytes() == samples.strip
    assert Image.open(folder / "samples.png").width > 300
    assert (len(samples.clips), samples.count, samples.frames) == (3, 3, range(17))
    assert [len(decoded(clip.video)) for clip in samples.clips] == [17] * 3


@pytest.mark.parametrize("clip", [0, 2])
@pytest.mark.parametrize("time", [2, 16])
def test_a_clip_shows_truth_predictions_and_their_errors(made, clip, time):
    _, data, samples = made
    truth = np.broadcast_to(data.clip(clip, time, 1)[0].astype(int), (32, 32, 3))
    for column, error in enumerate((0.0, 0.0, 0.25, 0.5)):
        error = error if time >= 5 else 0  # the context is the truth
        shown = cell(samples.clips[clip], time, 0, column)
        assert np.abs(shown - truth * (1 - error)).mean() < 4
        if column:
            shown = cell(samples.clips[clip], time, 1, column)
            assert np.abs(shown - truth * error).mean() < 4
    nothing = cell(samples.clips[clip], time, 1, 0)
    assert np.abs(nothing - visualize.GAP_COLOR).mean() < 4
    color = visualize.CONTEXT_COLOR if time < 5 else visualize.PREDICTION_COLOR
    assert np.abs(decoded(samples.clips[clip].video)[time][:, 0] - color).mean() < 25


def test_a_long_context_is_shown_in_part(tmp_path):
    settings = tiny.settings(
        "data.train_length=600",
        "data.test_length=600",
        "evaluation.context=580",
        "evaluation.num_videos=1",
        "training.video_length=590",
    )
    data = tiny.Squares(600)
    samples = pictures.samples(tmp_path, settings.evaluation, Oracle(data), data)()
    assert Image.open(tmp_path / "samples.gif").n_frames == 50 + 9
    assert samples.frames == range(530, 589)


def test_a_film_strip_reaches_from_the_first_frame_to_the_last():
    for context, horizon in [(1, 1), (1, 9), (2, 3), (36, 964), (600, 100)]:
        times = pictures.strip_times(context, horizon)
        assert times[0] == 0
        assert times[-1] == context + horizon - 1
        assert np.all(np.diff(times) > 0)
        assert context in times
        assert len(times) <= 12


@pytest.mark.parametrize("observed", [None, "TTF"])
def test_each_level_in_turn_samples_from_its_prior(tmp_path, observed):
    data = tiny.Squares(40)
    model = Levelled(data)
    overrides = [f"evaluation.observe_levels={observed}"] if observed else []
    options = tiny.settings("model.levels=3", *overrides).evaluation
    levels = pictures.levels(tmp_path, options, model, data)()
    first = (True, True, False) if observed else None
    unseen = [(True, True, False), (True, False, True), (False, True, True)]
    assert model.asked == [first, *unseen]
    assert levels.rows == (
        "truth, then predictions" + (" (TTF)" if observed else ""),
        "level 3 (slowest) from its prior",
        "level 2 from its prior",
        "level 1 (fastest) from its prior",
    )
    assert (tmp_path / "levels.png").read_bytes() == levels.strip
    assert len(decoded(levels.animation.video)) == len(levels.frames) == 5 + 9
    # Truth and prediction, then three samples for each level.
    height = Image.open(tmp_path / "levels.png").height
    assert (2 + 3 * 3) * 96 < height < (2 + 3 * 3) * 100 + 40
    # The oracle's error changes from call to call, and is the same for all samples of a call.
    truth = data.clip(0, 13, 1)[0].astype(int)
    for row, column, error in [(0, 0, 0.0), (0, 1, 0.1), (1, 0, 0.2), (1, 2, 0.2), (3, 1, 0.1)]:
        shown = cell(levels.animation, 13, row, column)
        assert np.abs(shown - truth * (1 - error)).mean() < 4


def test_the_samples_of_a_level_differ(tmp_path, monkeypatch):
    settings = tiny.settings()
    drawn, filmstrip = {}, visualize.filmstrip

    def remember(clips, times, labels, context):
        drawn.update(zip(labels, clips, strict=True))
        return filmstrip(clips, times, labels, context)

    monkeypatch.setattr(visualize, "filmstrip", remember)
    model = factory.build(settings, 0)
    for variable in model.cells[0].trainable_variables:
        variable.assign(3 * variable)  # An untrained model's samples are nearly the same gray.
    pictures.levels(tmp_path, settings.evaluation, model, tiny.Squares(40))()
    assert len(drawn) == 2 + 2 * 3
    assert "level 2 (slowest) from its prior, sample 1" in drawn
    predicted = [clip[-1] for label, clip in drawn.items() if label != "truth"]
    assert len({image.tobytes() for image in predicted}) == 1 + 2 * 3


@pytest.mark.parametrize("levels", [1, None])
def test_without_several_levels_there_is_no_panel(tmp_path, levels):
    data = tiny.Squares(40)
    model = Oracle(data)
    if levels:
        model.levels = levels
    assert pictures.levels(tmp_path, tiny.settings().evaluation, model, data)() is None
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_horizon(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_FRAMES", 40)  # fewer, so that the test is fast

    def peak(horizon):
        settings = tiny.settings(
            "data.test_length=2000", f"evaluation.horizon={horizon}", "evaluation.num_videos=2"
        )
        data = Cuts(2000)
        model = Segmented(data, chunk=50)
        model.levels = 2
        tracemalloc.start()
        pictures.samples(tmp_path, settings.evaluation, model, data)()
        pictures.levels(tmp_path, settings.evaluation, model, data)()
        pictures.boundaries(tmp_path, settings.evaluation, model, data)()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(100)  # warm up
    # Keeping 1,800 more frames of two clips would take 4 MB as bytes and 15 MB as floats.
    assert peak(1900) < peak(100) + 1_000_000


# Models with segments.

CONTEXT, HORIZON = 24, 50


def truth_begins(clip, end):
    begins = (np.arange(end) + clip) % 5 == 0
    begins[:2] = begins[-2:] = True
    return begins


def predicted_begins(clip):
    """Returns the segments of a prediction, which starts with the model's view of the context."""
    prior = (np.arange(HORIZON) - clip) % 3 == 0
    return np.concatenate([truth_begins(clip, CONTEXT), prior])


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("segmented"), Cuts(CONTEXT + HORIZON + 6)
    overrides = (f"evaluation.context={CONTEXT}", f"evaluation.horizon={HORIZON}")
    overrides += ("evaluation.num_videos=2", "training.video_length=30")
    overrides += ("data.train_length=100", "data.test_length=100")
    options, model = tiny.settings(*overrides).evaluation, Segmented(data, (0.0, 0.25, 0.5))
    samples = pictures.samples(folder, options, model, data)()
    return folder, data, samples, pictures.boundaries(folder, options, model, data)()


def test_samples_show_where_segments_begin(segmented):
    folder, data, samples, _ = segmented
    assert samples.segments
    end = CONTEXT + HORIZON
    times = pictures.strip_times(CONTEXT, HORIZON)
    strips = [np.concatenate([data.clip(0, int(t), 1) for t in times])]
    for error in (0.0, 0.25, 0.5):
        floats = strips[0].astype(np.float32) / 255
        floats[times >= CONTEXT] *= 1 - error
        strips.append(visualize.to_uint8(floats))
    begins = [truth_begins(0, end)[times], *[predicted_begins(0)[times]] * 3]
    labels = ["truth", "sample 1", "sample 2", "sample 3"]
    expected = visualize.filmstrip(strips, times.tolist(), labels, CONTEXT, boundaries=begins)
    assert np.array_equal(np.asarray(Image.open(folder / "samples.png")), expected)


def color_changes(video, top, left):
    """Returns when a track, given by a pixel of its right end, changes its colour."""
    distances = [np.abs(video[:, top, left] - color).sum(1) for color in visualize.SEGMENT_COLORS]
    assert np.min(distances, 0).max() < 60
    return np.flatnonzero(np.diff(np.argmin(distances, 0))) + 1


def begun(begins):
    return np.flatnonzero(begins[1:]) + 1


def test_tracks_change_colour_where_segments_begin(segmented):
    folder, _, samples, _ = segmented
    truth = [truth_begins(clip, CONTEXT + HORIZON) for clip in range(2)]
    # samples.gif: truth and three samples, each of two clips.
    video = decoded((folder / "samples.gif").read_bytes())
    assert len(video) == CONTEXT + HORIZON
    for row in range(4):
        for clip in range(2):
            begins = predicted_begins(clip) if row else truth[clip]
            top = GIF_BORDER + row * (36 * 3 + GAP) + 34 * 3
            left = GIF_BORDER + clip * (96 + GAP) + 94 - (2 * 96 + GAP + 2 * GIF_BORDER)
            assert np.array_equal(color_changes(video, top, left), begun(begins))
    # The report has truth, three samples, and errors without segments.
    for clip, animation in enumerate(samples.clips):
        video = decoded(animation.video)
        for column in range(4):
            begins = predicted_begins(clip) if column else truth[clip]
            top, left = BORDER + 138, BORDER + column * (CELL + GAP) + CELL - 2
            assert np.array_equal(color_changes(video, top, left), begun(begins))
            empty = video[:, top + 144 + GAP, left]
            assert np.abs(empty - visualize.GAP_COLOR).max() < 25


def test_boundaries_are_shown_frame_by_frame_around_the_end_of_the_context(segmented):
    folder, data, _, segments = segmented
    assert segments.frames == range(CONTEXT - 16, CONTEXT + 48)
    assert (folder / "boundaries.png").read_bytes() == segments.strip
    lines = []
    for start in range(CONTEXT - 16, CONTEXT + 48, 16):
        times = slice(start, start + 16)
        begins = [truth_begins(0, CONTEXT + HORIZON)[times], predicted_begins(0)[times]]
        clips, labels = [data.clip(0, start, 16)] * 2, ["truth", "prediction"]
        numbers = range(start, start + 16)
        lines.append(visualize.filmstrip(clips, numbers, labels, CONTEXT, 2, boundaries=begins))
    expected = visualize.stacked(lines)
    assert np.array_equal(np.asarray(Image.open(folder / "boundaries.png")), expected)


def test_few_frames_also_have_boundaries(tmp_path):
    data = Cuts(40)
    options = tiny.settings("evaluation.num_videos=1").evaluation
    segments = pictures.boundaries(tmp_path, options, Segmented(data), data)()
    assert segments.frames == range(5 + 9)
    assert pictures.samples(tmp_path, options, Segmented(data), data)().segments


def test_pictures_without_segments_are_unchanged(tmp_path):
    data, options = tiny.Squares(40), tiny.settings().evaluation
    model = Oracle(data)
    assert pictures.boundaries(tmp_path, options, model, data)() is None
    assert list(tmp_path.iterdir()) == []
    samples = pictures.samples(tmp_path, options, model, data)()
    assert not samples.segments
    rows = [[data.clip(i, 0, 14) for i in range(3)]] * 4
    labels = ["truth", "sample 1", "sample 2", "sample 3"]
    grid = visualize.mark_context(visualize.grid(rows, scale=3), 5)
    gif = visualize.gif_bytes(visualize.label_rows(grid, labels))
    assert (tmp_path / "samples.gif").read_bytes() == gif
    times = pictures.strip_times(5, 9)
    strip = visualize.filmstrip([rows[0][0][times]] * 4, times.tolist(), labels, 5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "samples.png")), strip)


# Functions of cwvae.visualize for the report.


def test_the_still_picture_is_the_first_predicted_frame(made):
    _, _, samples = made
    for clip in samples.clips:
        still = np.asarray(Image.open(io.BytesIO(clip.still))).astype(int)
        video = decoded(clip.video)
        assert still.shape == video.shape[1:]
        assert (still[:200, 0] == visualize.PREDICTION_COLOR).all()
        errors = [np.abs(still - frame).mean() for frame in video]
        assert np.argmin(errors) == 5  # There are five frames of context.
        assert errors[5] < 4


def test_an_mp4_holds_every_frame_in_its_colours():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    video = video[:, :, :49]
    data = visualize.mp4_bytes(video, fps=5)
    assert visualize.mp4_bytes(video, fps=5) == data
    about = iio.improps(data, plugin="pyav")
    assert about.shape == (7, 40, 50, 3)  # Even, as H.264 requires.
    assert iio.immeta(data, plugin="pyav")["duration"] == 7 / 5
    assert np.abs(decoded(data)[:, :, :49] - video).mean() < 8
    flat = np.broadcast_to(np.array(visualize.PREDICTION_COLOR, np.uint8), (3, 32, 32, 3))
    assert np.abs(decoded(visualize.mp4_bytes(flat)) - visualize.PREDICTION_COLOR).max() <= 2
    with pytest.raises(ValueError, match="at least one frame"):
        visualize.mp4_bytes(video[:0])


def test_a_time_bar_fills_in_the_colours_of_context_and_prediction():
    video = np.full((10, 3, 20, 1), 7, np.uint8)
    barred = visualize.time_bar(video, context=4, height=2)
    assert barred.shape == (10, 5, 20, 3)
    assert (barred[:, :3] == 7).all()
    for number, bar in enumerate(barred[:, 3:]):
        colors = [visualize.CONTEXT_COLOR] * 8 + [visualize.PREDICTION_COLOR] * 12
        colors[2 * number + 2 :] = [visualize.GAP_COLOR] * (18 - 2 * number)
        assert (bar == np.array(colors)).all()
