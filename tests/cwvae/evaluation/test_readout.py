"""The readout: scores by hand, the parts of its network, what it learns, and its cache."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny

import data_loaders
from cwvae import config
from cwvae.evaluation import readout
from cwvae.evaluation.readout_network import Network, warped
from data_loaders import Dataset
from data_loaders.attributes import CLASSES, NUMBERS, POINTS, Readable
from data_loaders.windows import EqualClips

MARKS = {
    "shapes": Readable("shapes", "shapes right", CLASSES, 2, lambda a: a["shapes"], 3, "places"),
    "places": Readable("places", "place error", POINTS, 2, lambda a: a["places"]),
    "shade": Readable("shade", "shade right", CLASSES, 1, lambda a: a["shade"], 2),
}
EASY_STEPS = 70


class Marks(Dataset):
    """Two marks, each a horizontal bar, a vertical bar or a block, on black or on gray."""

    SIZES = ((3, 11), (11, 3), (7, 7))
    fingerprint = "marks"

    def __init__(self, seed=0, channels=1):
        super().__init__(EqualClips(1000, 3), (32, 32, channels))
        self.seed = seed

    def clip(self, i, start=0, length=None):
        length = self._window_length(i, start, length)
        known = self.attributes(i, start, length)
        video = np.zeros((length, *self.frame_shape), np.uint8)
        for t in range(length):
            video[t] = 60 * known["shade"][t, 0].clip(0)
            for shape, center in zip(known["shapes"][t], known["places"][t], strict=True):
                size = np.array(self.SIZES[shape])
                row, column = (center - size / 2).astype(int)
                video[t, row : row + size[0], column : column + size[1]] = 200
        return video

    def attributes(self, i, start=0, length=None):
        rng = np.random.default_rng([self.seed, i])
        length = self._window_length(i, start, length)
        # One mark on the left and one on the right, in random order.
        order = rng.permutation(2)
        places = rng.integers((6, 6), (26, 10), (3, 2, 2)) + [[0, 0], [0, 15]] + 0.5
        shade = np.full((3, 1), rng.integers(-1, 2))
        known = {
            "shapes": np.tile(rng.integers(3, size=2), (3, 1))[:, order],
            "places": places[:, order].astype(np.float32),
            "shade": shade,
        }
        return {name: values[start : start + length] for name, values in known.items()}

    def readable(self):
        return tuple(MARKS.values())


class Blocks(Dataset):
    """A block whose edges have a length, far from zero in its unit, beside its center's column."""

    SIZE = Readable("size", "size error", NUMBERS, 2, lambda a: a["size"], unit="mm")
    fingerprint = "blocks"

    def __init__(self):
        super().__init__(EqualClips(1000, 3), (32, 32, 1))

    def clip(self, i, start=0, length=None):
        length = self._window_length(i, start, length)
        video = np.zeros((length, *self.frame_shape), np.uint8)
        for t, (edge, column) in enumerate(self.attributes(i, start, length)["pixels"]):
            video[t, 4 : 4 + edge, column : column + edge] = 200
        return video

    def attributes(self, i, start=0, length=None):
        length = self._window_length(i, start, length)
        edges = np.random.default_rng(i).integers((4, 2), (20, 10), (3, 2))
        size = (1000 + 0.1 * edges).astype(np.float32)
        size[:, 1] *= -1
        size[edges[:, 0] == 4] = np.nan
        part = slice(start, start + length)
        return {"pixels": edges[part], "size": size[part]}

    def readable(self):
        return (self.SIZE,)


def stacked(data, videos, start=0, length=3):
    """Returns frames [N, T, ...] in [0, 1] and their readings."""
    frames = np.stack([data.clip(i, start, length) for i in videos]) / np.float32(255)
    each = [data.readings(i, start, length) for i in videos]
    return frames, {name: np.stack([clip[name] for clip in each]) for name in each[0]}


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache folder for the readout of `Marks`."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def trained(cached):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CWVAE_CACHE", str(cached))
        return readout.fit(Marks(), 3, steps=EASY_STEPS)


# Scores.


@pytest.mark.parametrize(
    ("truth", "found", "percent"),
    [
        ([3, 7], [7, 3], 100),
        ([3, 7], [3, 3], 50),
        ([3, 3], [3, 7], 50),
        ([3, 3], [3, 3], 100),
        ([1, 2], [3, 4], 0),
        ([5], [5], 100),
        ([1, 2, 2, 4], [2, 2, 2, 1], 75),
        ([1, 2, 2, 4], [2, 5, 2, 5], 50),
        ([-1, 2], [2, 2], np.nan),
    ],
)
def test_overlap_by_hand(truth, found, percent):
    np.testing.assert_equal(readout.overlap(np.array(truth), np.array(found)), np.float32(percent))


def test_distance_by_hand():
    truth = np.array([[0, 0], [3, 4], [10, 0]], np.float32)
    for order in itertools.permutations(range(3)):
        np.testing.assert_allclose(readout.distance(truth, truth[list(order)]), 0)
    # Both found points are the second: 5 and 0 apart.
    np.testing.assert_allclose(readout.distance(truth[:2], truth[[1, 1]]), 2.5)
    # The best assignment in total, although the first point is nearest to both true points.
    line = np.array([[0, 0], [0, 2]], np.float32)
    np.testing.assert_allclose(readout.distance(line, np.array([[0, 1], [0, -7]])), 4)
    np.testing.assert_allclose(readout.distance(truth[None, :1], truth[:, None]), [0, 5, 10])


def test_error_by_hand():
    truth = np.array([[[1, 2], [3, np.nan]], [[0, 0], [-1, 1]]], np.float32)
    found = np.array([[[2, 0], [3, 4]], [[0, 0], [1, 1]]], np.float32)
    np.testing.assert_array_equal(readout.error(truth, found), [[1.5, np.nan], [0, 1]])


def test_scores_of_many_frames_equal_scores_of_single_frames():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(3, size=(2, 5, 7, 3))
    points, places = rng.normal(size=(2, 5, 7, 3, 2))
    for n, t in np.ndindex(5, 7):
        counts = [np.bincount(labels[n, t], minlength=3) for labels in (truth, found)]
        want = 100 * np.minimum(*counts).sum() / 3
        np.testing.assert_allclose(readout.overlap(truth, found)[n, t], want, rtol=1e-6)
        alone = readout.distance(points[n, t], places[n, t])
        np.testing.assert_allclose(readout.distance(points, places)[n, t], alone, rtol=1e-6)


# The network.


def random_outputs(seed=0, frames=5):
    rng = np.random.default_rng(seed)
    shapes = {"shapes": (8, 8, 3), "places": (16, 16), "shade": (2,)}
    return {
        name: tf.constant(rng.normal(size=(frames, *shape)), tf.float32)
        for name, shape in shapes.items()
    }


def test_losses_do_not_depend_on_the_order_of_points():
    network = Network(MARKS.values(), (32, 32, 1))
    _, readings = stacked(Marks(), range(5), length=1)
    readings = {name: values[:, 0] for name, values in readings.items()}
    swapped = {**readings, **{name: readings[name][:, ::-1] for name in ("shapes", "places")}}
    assert (readings["shapes"] != swapped["shapes"]).any()
    one, other = (network.losses(random_outputs(), given) for given in (readings, swapped))
    for name in MARKS:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
    apart = network.losses(random_outputs(), {**readings, "shapes": swapped["shapes"]})
    assert abs(float(apart["shapes"] - one["shapes"])) > 1e-3


def test_unreadable_classes_have_no_loss():
    network = Network([MARKS["shade"]], (32, 32, 1))
    outputs = {"shade": tf.constant([[0.0, 2.0], [9.0, -9.0], [1.0, 0.0]])}
    loss = network.losses(outputs, {"shade": tf.constant([[1], [-1], [0]])})["shade"]
    np.testing.assert_allclose(loss, np.log1p(np.exp([-2.0, -1.0])).mean(), rtol=1e-5)
    none = network.losses(outputs, {"shade": tf.constant([[-1], [-1], [-1]])})["shade"]
    assert float(none) == 0


def test_numbers_are_read_in_standard_deviations_of_the_training_frames():
    network = Network([Blocks.SIZE], (32, 32, 1))
    given = np.array([[1000, 7], [1004, np.nan], [1002, 7]], np.float32)
    network.set_scales({"size": given})
    spread = np.sqrt(8 / 3)
    outputs = {"size": tf.constant([[0.0, 0.0], [1.0, -1.0], [2.0, 0.5]])}
    want = [[1002, 7], [1002 + spread, 6], [1002 + 2 * spread, 7.5]]
    np.testing.assert_allclose(network.answers(outputs)["size"], want, rtol=1e-6)
    loss = float(network.losses(outputs, {"size": tf.constant(given)})["size"])
    apart = [2 / spread, 0, 2 / spread - 1, 2, 0.5]  # Without the one that cannot be read.
    np.testing.assert_allclose(loss, np.mean(apart), rtol=1e-5)
    nothing = {"size": tf.fill((3, 2), np.nan)}
    assert float(network.losses(outputs, nothing)["size"]) == 0
    network.set_scales(nothing)
    np.testing.assert_array_equal(network.answers(outputs)["size"], outputs["size"])


def test_numbers_that_cannot_be_read_change_no_weights():
    network = Network([Blocks.SIZE], (32, 32, 1))
    given = tf.constant([[np.nan, 1000.0]])
    with tf.GradientTape() as tape:
        outputs = network(tf.ones((1, 32, 32, 1)))
        loss = network.losses(outputs, {"size": given})["size"]
    gradient = tape.gradient(loss, outputs["size"])
    assert (gradient[0, 0], abs(gradient[0, 1])) == (0, 1)


@pytest.mark.parametrize(
    "points",
    [[[5.0, 20.25], [27.5, 9.0]], [[14.3, 14.3], [14.3, 14.3]], [[1.0, 1.0], [31.0, 31.0]]],
    ids=["apart", "in one place", "in corners"],
)
def test_points_are_found_where_the_target_of_the_loss_puts_them(points):
    network = Network([MARKS["places"]], (32, 32, 1))
    target = network._spread(tf.constant([points]), 16)
    np.testing.assert_allclose(tf.reduce_sum(target, (2, 3)), 1, atol=1e-6)
    logits = tf.math.log(tf.reduce_mean(target, 1) + 1e-9)
    found = network.answers({"places": logits})["places"]
    np.testing.assert_allclose(readout.distance(np.array([points]), found.numpy()), 0, atol=1e-3)


def test_classes_are_read_at_the_points():
    network = Network([MARKS["shapes"], MARKS["places"]], (32, 32, 1))
    points = np.array([[[6.0, 6.0], [26.0, 18.0]]], np.float32)
    scores = np.zeros((1, 8, 8, 3), np.float32)
    scores[0, 1, 1, 2] = scores[0, 6, 4, 1] = 5  # Places are 4 pixels wide.
    logits = tf.math.log(tf.reduce_mean(network._spread(points, 16), 1) + 1e-9)
    answers = network.answers({"shapes": tf.constant(scores), "places": logits})
    pairs = zip(answers["shapes"][0].numpy(), answers["places"][0].numpy().round(), strict=True)
    assert {(int(shape), *place) for shape, place in pairs} == {(2, 6, 6), (1, 26, 18)}


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 3), (128, 1)])
def test_averaged_statistics_give_the_outputs_of_training(size, channels):
    network = Network(MARKS.values(), (size, size, channels), 1)
    frames = np.random.default_rng(2).uniform(size=(3, size, size, channels))
    frames = tf.constant(frames, tf.float32)
    for _ in range(100):  # The averages converge to the batch's statistics.
        trained = network(frames, training=True)
    assert {name: tuple(value.shape) for name, value in trained.items()} == {
        "shapes": (3, 8, 8, 3),
        "places": (3, 16, 16),
        "shade": (3, 2),
    }
    for name, value in network(frames).items():
        np.testing.assert_allclose(value, trained[name], atol=0.02)


def test_points_move_with_the_picture():
    rows, columns = np.mgrid[:64, :64] + 0.5
    points = np.random.default_rng(0).uniform(20, 44, (6, 1, 2)).astype(np.float32)
    apart = (rows - points[..., :1]) ** 2 + (columns - points[..., 1:]) ** 2
    frames = tf.constant(np.exp(-apart / 8)[..., None], tf.float32)
    moved, readings = warped(frames, {"places": points}, ["places"], 0.2, (0, 1))
    mass = moved.numpy()[..., 0]
    centers = [np.sum(mass * axis, (1, 2)) / mass.sum((1, 2)) for axis in (rows, columns)]
    found = readings["places"].numpy()[:, 0]
    np.testing.assert_allclose(np.stack(centers, 1), found, atol=0.05)
    assert np.abs(found - points[:, 0]).max() > 1


@pytest.mark.parametrize(
    ("readables", "shape", "message"),
    [
        ([MARKS["places"]], (48, 48, 1), r"fits frames of \[32, 64, 128\], not \(48, 48, 1\)"),
        ([MARKS["shapes"]], (32, 32, 1), "shapes: 'places' are not 2 points"),
        ([Readable("all", "", CLASSES, 2, None, 3)], (32, 32, 1), "2 classes of a whole frame"),
        ([Readable("dots", "", POINTS, 5, None)], (32, 32, 1), "dots: 5 points"),
        (
            [Readable("age", "", NUMBERS, 2, None, None, "places"), MARKS["places"]],
            (32, 32, 1),
            "age",
        ),
        ([Readable("words", "", "text", 1, None)], (32, 32, 1), "words: unknown kind 'text'"),
    ],
)
def test_unsupported_readables_and_frames_are_named(readables, shape, message):
    with pytest.raises(ValueError, match=message):
        Network(readables, shape)


# What it learns.


def test_true_frames_are_read_and_blank_or_noisy_ones_are_not(trained):
    frames, readings = stacked(Marks(), range(500, 600))
    scores = trained.scores(frames, readings)
    assert {name: (v.dtype, v.shape) for name, v in scores.items()} == {
        f"readout_{name}": (np.float32, (100, 3)) for name in MARKS
    }
    assert scores["readout_shapes"].mean() > 90
    assert scores["readout_places"].mean() < 1.5
    unknown = (readings["shade"] < 0).any(-1)
    assert unknown.any()
    np.testing.assert_array_equal(np.isnan(scores["readout_shade"]), unknown)
    assert np.nanmean(scores["readout_shade"]) > 90
    # Predictions are clipped to [0, 1].
    stretched = np.where(frames > 0.7, 1.5, np.where(frames < 0.2, -0.5, frames))
    clipped = trained.scores(np.clip(stretched, 0, 1), readings)
    np.testing.assert_array_equal(
        trained.scores(stretched, readings)["readout_places"], clipped["readout_places"]
    )
    noise = np.random.default_rng(0).uniform(size=frames.shape)
    for nothing in (np.zeros_like(frames), noise):
        scores = trained.scores(nothing, readings)
        assert scores["readout_shapes"].mean() < 65  # By chance: about 45.
        assert scores["readout_places"].mean() > 4


def test_numbers_are_read_and_kept(own_cache, monkeypatch):
    del own_cache
    monkeypatch.setattr(readout, "warped", None)  # A warped block has another size.
    fitted = readout.fit(Blocks(), steps=EASY_STEPS)
    (about,) = fitted.metrics().values()
    assert (about["label"], about["unit"], about["better"]) == ("size error", "mm", "lower")
    assert about["protocol"].startswith("mean absolute error, 2 per frame, as read from")
    frames, readings = stacked(Blocks(), range(500, 600))
    scores = fitted.scores(frames, readings)["readout_size"]
    assert (scores.dtype, scores.shape) == (np.float32, (100, 3))
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(readings["size"]).any(-1))
    known = readings["size"][~np.isnan(scores)]
    by_chance = np.abs(known - np.median(known, 0)).mean()
    assert np.nanmean(scores) < by_chance / 3
    blank = fitted.scores(np.zeros_like(frames), readings)["readout_size"]
    assert np.nanmean(blank) > by_chance / 2
    monkeypatch.setattr(readout, "_train", no_training)
    again = readout.fit(Blocks(), steps=EASY_STEPS).scores(frames, readings)["readout_size"]
    np.testing.assert_array_equal(again, scores)


def test_scores_do_not_depend_on_the_other_videos(trained):
    frames, readings = stacked(Marks(), range(100, 190))  # 270 frames: more than one chunk.
    together = trained.scores(frames, readings)
    for n in (0, 84, 85, 89):
        alone = trained.scores(frames[n : n + 1], {k: v[n : n + 1] for k, v in readings.items()})
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][n], atol=1e-4)


def test_repeated_frames_are_scored_like_copies(trained):
    frames, readings = stacked(Marks(), range(4))
    for still in (frames[:, :1], frames[:1, :1]):
        view = np.broadcast_to(still, frames.shape)
        copies = trained.scores(view.copy(), readings)
        for name, values in trained.scores(view, readings).items():
            np.testing.assert_allclose(values, copies[name], atol=1e-4)


def test_several_things_take_more_steps_than_one(own_cache, monkeypatch):
    taken = []
    monkeypatch.setattr(readout, "_train", lambda network, data, seed, steps: taken.append(steps))
    readout.fit(Marks())
    assert taken == [2 * readout.STEPS]


def test_metrics_state_label_unit_direction_and_protocol(trained):
    about = trained.metrics()
    assert list(about) == ["readout_shapes", "readout_places", "readout_shade"]
    assert [each["better"] for each in about.values()] == ["higher", "lower", "higher"]
    assert [each["unit"] for each in about.values()] == ["%", "pixels", "%"]
    assert about["readout_places"]["label"] == "place error"
    # The pool has 42 clips of 3 frames per draw of 128.
    assert (
        f"trained on {-(-EASY_STEPS * readout.BATCH // 128) * 126:,} true frames"
        in about["readout_shapes"]["protocol"]
    )


def test_bad_predictions_are_refused(trained):
    frames, readings = stacked(Marks(), range(2))
    broken = frames.copy()
    broken[1, 2, 5, 7] = np.nan
    with pytest.raises(ValueError, match=r"NaN or an infinity, first at \[n, t\] = \[1, 2\]"):
        trained.scores(broken, readings)
    with pytest.raises(ValueError, match="must be floats"):
        trained.scores((frames * 255).astype(np.uint8), readings)
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 32, 31, 1\)"):
        trained.scores(frames[:, :, :, :31], readings)
    with pytest.raises(ValueError, match=r"shapes must be \[2, 2, 2\], got \[2, 3, 2\]"):
        trained.scores(frames[:, :2], readings)


def test_the_protocol_names_the_version(trained, monkeypatch):
    before = trained.metrics()["readout_shapes"]["protocol"]
    monkeypatch.setattr(readout, "VERSION", readout.VERSION + 1)
    assert trained.metrics()["readout_shapes"]["protocol"] != before


# The cache.


def test_the_same_seed_gives_the_same_weights_whatever_keras_is_set_to(tmp_path, monkeypatch):
    found = []
    for folder, seed, policy in (("a", 5, "float32"), ("b", 5, "mixed_bfloat16"), ("c", 6, None)):
        monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / folder))
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy or before)
        try:
            found.append(readout.fit(Marks(channels=3), seed, steps=3).network.get_weights())
        finally:
            keras.config.set_dtype_policy(before)
    one, same, other = found
    for array, again in zip(one, same, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def no_training(*_):
    raise AssertionError("trained again")


def test_a_readout_is_trained_once(trained, cached, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(cached))
    monkeypatch.setattr(readout, "_train", no_training)
    again = readout.fit(Marks(), 3, steps=EASY_STEPS)
    assert again.metrics() == trained.metrics()
    for array, kept in zip(trained.network.weights, again.network.weights, strict=True):
        np.testing.assert_array_equal(array, kept)
    for data, seed in ((Marks(seed=1), 3), (Marks(), 4), (Marks(channels=3), 3)):
        with pytest.raises(AssertionError, match="trained again"):
            readout.fit(data, seed, steps=EASY_STEPS)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_weights(path):
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    arrays["weight0"] = arrays["weight0"] + 1
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        other_weights,
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["a bit", "other weights", "cut", "empty"],
)
def test_a_damaged_file_is_reported_and_replaced(damage, own_cache, monkeypatch, capsys):
    def train(network, *_):
        for weight in network.weights:
            weight.assign(tf.fill(weight.shape, 0.5))

    def assert_trained(fitted):
        for weight in fitted.network.weights:
            np.testing.assert_array_equal(weight, np.full(weight.shape, 0.5))

    monkeypatch.setattr(readout, "_train", train)
    readout.fit(Marks(), 0)
    (path,) = (own_cache / "readouts").iterdir()
    damage(path)
    assert_trained(readout.fit(Marks(), 0))
    warned = capsys.readouterr().err
    assert f"warning: {path}: " in warned
    assert "The readout is trained again." in warned
    monkeypatch.setattr(readout, "_train", no_training)
    assert_trained(readout.fit(Marks(), 0))
    assert not capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_reported(own_cache, monkeypatch, capsys):
    (own_cache / "file").touch()
    monkeypatch.setenv("CWVAE_CACHE", str(own_cache / "file"))
    monkeypatch.setattr(readout, "_train", lambda *_: None)
    assert readout.fit(Marks(), 0).network.weights
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


def test_data_without_attributes_have_no_readout(own_cache):
    assert readout.fit(tiny.Squares()) is None
    assert not list(own_cache.iterdir())


@pytest.mark.slow
def test_held_out_digits_are_read(own_cache):
    del own_cache
    options = config.load("configs/quickstart.yml").data_options()
    train, test = (data_loaders.load(split=split, **options) for split in ("train", "test"))
    frames, readings = stacked(test, range(1000), 30, 1)
    scores = readout.fit(train).scores(frames, readings)
    assert scores["readout_digits"].mean() > 91
    assert scores["readout_positions"].mean() < 0.5


@pytest.mark.slow
def test_held_out_mazes_are_read(own_cache):
    pytest.importorskip("labmaze", reason="labmaze, which makes the mazes, is not installed")
    options = {"frame_size": 32, "channels": 3, "train_videos": 300, "data_dir": str(own_cache)}
    train, test = (
        data_loaders.load(name="procedural_mazes", split=split, **options)
        for split in ("train", "test")
    )
    each = [(test.clip(i)[::15], test.readings(i)) for i in range(100)]
    frames = np.stack([video for video, _ in each]) / np.float32(255)
    readings = {name: np.stack([known[name][::15] for _, known in each]) for name in each[0][1]}
    scores = readout.fit(train).scores(frames, readings)
    # 300 videos show few pairs of textures; 1,000 give 90 and 91.
    for kind, right in (("wall", 76), ("floor", 80)):
        assert np.nanmean(scores[f"readout_{kind}_texture"]) > right
    # A constant answer is wrong by 0.9 cells at best.
    assert scores["readout_wall_distance"].mean() < 0.3
