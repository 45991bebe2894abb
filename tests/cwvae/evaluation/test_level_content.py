"""The content of levels: targets, ticks, bands, planted states, tables, the figure."""

import csv
import io

import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny

import data_loaders
from cwvae import factory, visualize
from cwvae.cell import State
from cwvae.errors import UserError
from cwvae.evaluation import level_content, level_tables
from cwvae.evaluation.level_targets import targets, values_of

BATCHES = ("evaluation.num_videos=3", "evaluation.batch_size=3")  # Equal ones: few traces.
SETTINGS = tiny.settings("data.num_digits=1", "data.digit_size=16", *BATCHES)


def splits(settings=SETTINGS):
    return [data_loaders.load(split=s, **settings.data_options()) for s in ("train", "test")]


def measure(model, settings=SETTINGS, clips=60, data=None):
    options, seq_len = settings.evaluation, settings.training.seq_len
    return level_content.measure(options, model, seq_len, *(data or splits(settings)), clips)


def test_targets_are_the_attributes_of_each_frame():
    data, _ = splits()
    kinds = {"digits": "classes", "positions": "numbers", "velocities": "numbers"}
    assert targets(data) == kinds
    known, values = data.attributes(3, 4, 6), values_of(data, 3, 4, 6)
    assert [values[name].shape for name in kinds] == [(6, 10), (6, 2), (6, 2)]
    np.testing.assert_array_equal(values["digits"], np.eye(10)[np.tile(known["digits"], 6)])
    np.testing.assert_array_equal(values["velocities"], known["velocities"][:, 0])


def test_several_digits_are_counted_and_their_places_averaged():
    data, _ = splits(tiny.settings("data.num_digits=3"))
    known, values = data.attributes(0, 0, 5), values_of(data, 0, 0, 5)
    counts = np.bincount(known["digits"], minlength=10)
    np.testing.assert_array_equal(values["digits"], np.tile(counts, (5, 1)))
    np.testing.assert_allclose(values["velocities"], known["velocities"].mean(1), rtol=1e-6)


def test_unreadable_classes_are_unknown():
    pytest.importorskip("labmaze")
    from data_loaders.generated.procedural_mazes import ProceduralMazes

    mazes = ProceduralMazes(frame_size=32, train_length=200)

    class Mazes(tiny.Squares):
        def attributes(self, i, start=0, length=None):
            return mazes.attributes("train", "000000", start, start + length)

        def readable(self):
            return mazes.readable()

    values = values_of(Mazes(200), 0, 0, 200)
    room = mazes.attributes("train", "000000")["room"]
    assert {-1, 0, 1} >= set(room) > {-1}
    for name in ("wall_texture", "floor_texture"):
        assert np.isnan(values[name]).all(1).tolist() == (room < 0).tolist()
        np.testing.assert_array_equal(values[name][room >= 0].sum(1), 1)
    assert values["pose"].shape == (200, 3)


def test_clips_of_unknown_content_are_refused():
    with pytest.raises(UserError, match="the content of these clips is not known"):
        targets(tiny.Squares())


@pytest.mark.parametrize(
    ("horizon", "bands"),
    [(7, [(1, 7)]), (64, [(1, 10), (11, 40), (41, 64)]), (10, [(1, 10)])],
)
def test_bands_cover_the_horizon(horizon, bands):
    assert [*level_content.bands(horizon)] == bands
    long = level_content.bands(1500)
    assert long[-2:] == ((601, 1000), (1001, 1500))


class Planted:
    """Stands for a model of two levels whose states hold attributes, with a period of 3.

    z of the fastest level is the position, z of the slowest its digit; h is noise. In the open
    loop the position is lost after 4 frames.
    """

    levels, factors, kl_names = 2, (3,), ("level_1", "level_2")

    def __init__(self, data):
        self._known = {}
        for split in data:
            for i in range(60):
                for start in range(split.length(i) - 4):
                    key = split.clip(i, start, 5).tobytes()
                    self._known[key] = split, i, start

    def _states(self, video, first, stop):
        rng, found = np.random.default_rng(first), [[], []]
        for clip in video:
            split, i, start = self._known[clip[:5].tobytes()]
            values = values_of(split, i, start, stop)
            found[0].append(values["positions"][first:])
            found[1].append(values["digits"][-(-first // 3) * 3 :: 3])
        stochastic = [np.stack(each).astype(np.float32) for each in found]
        if first:
            stochastic[0][:, 4:] = rng.normal(size=stochastic[0][:, 4:].shape)
        noise = [rng.normal(size=(*z.shape[:2], 3)).astype(np.float32) for z in stochastic]
        return tuple(map(State, map(tf.constant, stochastic), map(tf.constant, noise)))

    def observed_states(self, video, seed, *, row=0):
        return self._states(video, 0, video.shape[1])

    def predicted_states(self, context, horizon, seed, *, row=0):
        return self._states(context, context.shape[1], context.shape[1] + horizon)


@pytest.fixture(scope="module")
def planted():
    settings = tiny.settings(
        "data.num_digits=1",
        "data.digit_size=16",
        "data.speed=[1.0, 2.0]",
        "evaluation.horizon=18",
        "evaluation.num_videos=30",
    )
    data = splits(settings)
    return measure(Planted(data), settings, data=data)


def found(content, attribute, level, part):
    (score,) = [
        score
        for score in content.scores
        if score.attribute == attribute and score.source[:2] == (level, part)
    ]
    return score


def test_planted_attributes_are_found_where_they_are(planted):
    fast, slow = "level 1 (fastest)", "level 2 (slowest)"
    digits = found(planted, "digits", slow, "z")
    assert digits.observing > 99
    assert min(digits.open_loop) > 99
    assert found(planted, "digits", slow, "h").observing < 40
    positions = found(planted, "positions", fast, "z")
    assert positions.observing > 0.99
    assert max(positions.open_loop) < 0.6  # 4 frames of the first 10, none of the others.
    assert found(planted, "positions", slow, "z").observing < 0.3
    together = level_content.ALL, "h, z"
    assert found(planted, "digits", *together).observing > 95
    assert found(planted, "positions", *together).observing > 0.95


def test_chance_is_the_most_common_answer(planted):
    chance = found(planted, "digits", level_content.CHANCE, "")
    assert chance.strength is None
    assert 0 <= chance.observing < 40
    assert found(planted, "positions", level_content.CHANCE, "").open_loop == (0, 0)


def test_sources_have_the_periods_of_the_levels(planted):
    periods = {score.source.name: score.source.period for score in planted.scores}
    assert periods == {
        "level 1 (fastest)": 1,
        "level 2 (slowest)": 3,
        level_content.ALL: 1,
        level_content.CHANCE: None,
    }
    assert planted.bands == ((1, 10), (11, 18))
    assert (planted.context, planted.training_clips, planted.held_out_clips) == (5, 60, 30)


def test_the_tables_and_the_figure_show_all_scores(planted):
    text = level_tables.markdown(planted, "A title")
    assert text.startswith("# A title\n")
    for heading in ("## digits right [%]", "## positions [R²]", "## velocities [R²]"):
        assert text.count(f"\n{heading}\n") == 1
    lines = [line for line in text.splitlines() if line.startswith("| level 2")]
    assert len(lines) == 6
    assert "3 frames" in lines[0]
    rows = list(csv.DictReader(io.StringIO(level_tables.csv_text(planted))))
    assert len(rows) == len(planted.scores) == 3 * 6
    for row, score in zip(rows, planted.scores, strict=True):
        assert (row["attribute"], row["level"], row["part"]) == (score.attribute, *score.source[:2])
        assert float(row["observing"]) == score.observing
        assert (float(row["1-10"]), float(row["11-18"])) == score.open_loop
    drawn = level_tables.figure(planted)
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles[:2] == ["digits right [%], from h", "positions [R²], from h"]
    assert len(titles) == 6
    assert visualize.figure_bytes(drawn, "png").startswith(b"\x89PNG")


def test_one_level_is_read_and_all_levels_are_not_read_again():
    settings = tiny.settings("data.num_digits=2", "model.levels=1", "model.factor=1", *BATCHES)
    content = measure(factory.build(settings, 0), settings, clips=9)
    names = {score.source.name for score in content.scores}
    assert names == {"level 1", level_content.CHANCE}
    assert all(np.isfinite([s.observing, *s.open_loop]).all() for s in content.scores)


def test_a_level_without_a_tick_in_the_prediction_has_no_score_there():
    settings = tiny.settings("model.factor=17", "evaluation.horizon=5", *BATCHES)
    content = measure(factory.build(settings, 0), settings, clips=9)
    slow = found(content, "positions", "level 2 (slowest)", "z")
    assert np.isnan([slow.observing, *slow.open_loop]).all()
    line = next(x for x in level_tables.markdown(content, "").splitlines() if "level 2" in x)
    assert line.count("–") == 2  # noqa: RUF001
    assert level_tables.csv_text(content).count(",,\n") > 0


def test_too_few_training_clips_are_refused():
    with pytest.raises(UserError, match="at least 5 training clips of 12 frames, but there are 4"):
        measure(factory.build(SETTINGS, 0), clips=4)
