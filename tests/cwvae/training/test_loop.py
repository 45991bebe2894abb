import errno
import io
import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny
from PIL import Image

from cwvae import config, factory, machine
from cwvae.errors import TrainingStopped, UserError
from cwvae.run import checkpoints
from cwvae.training import loop, monitoring
from data_loaders.generated.moving_digits import MovingDigits


def trainer(settings, logdir, data=None, videos=False):
    model = factory.build(settings, settings.training.seed)
    train_data = data or tiny.Squares(20)
    made = loop.Trainer(settings, model, train_data, tiny.Squares(40), logdir)
    if not videos:  # They take most of the time of a short run.
        made._held_out.videos = lambda: []
    return made


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six steps, and its trainer."""
    logdir = tmp_path_factory.mktemp("run")
    trained = trainer(tiny.settings(), logdir, videos=True)
    assert trained.run()
    return trained, logdir


def test_scalars_are_logged_as_json_lines(run):
    _, logdir = run
    train = [line for line in lines(logdir) if "loss" in line]
    assert [line["step"] for line in train] == [2, 4, 6]
    for line in train:
        assert np.isfinite(list(line.values())).all()
        kl = line["kl/level_1_sum"] + line["kl/level_2_sum"]
        np.testing.assert_allclose(line["loss"], line["nll"] + kl / 7, rtol=1e-5)
        # Seven frames: seven active steps of the fastest level, three of the one above.
        np.testing.assert_allclose(
            line["kl/level_1_sum"], 7 * line["kl/level_1_per_step"], rtol=1e-5
        )
        np.testing.assert_allclose(
            line["kl/level_2_sum"], 3 * line["kl/level_2_per_step"], rtol=1e-5
        )
        assert line["frames_per_second"] > 0
        assert line["gradient_norm"] > 0
    test = [line["step"] for line in lines(logdir) if "test/loss" in line]
    assert test == [4, 6]


def summaries(logdir):
    """Returns TensorBoard's points, (step, value) by name; of held-out clips as `test/<name>`."""
    found = {}
    for split, prefix in (("train", ""), ("test", "test/")):
        for path in sorted((logdir / "tensorboard" / split).iterdir()):
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    found.setdefault(prefix + value.tag, []).append((event.step, value))
    return found


def test_tensorboard_holds_the_same_scalars_and_the_videos(run):
    _, logdir = run
    found = summaries(logdir)
    for line in lines(logdir):
        for name, want in line.items():
            if name != "step":
                got = {step: tf.make_ndarray(value.tensor) for step, value in found[name]}
                np.testing.assert_allclose(got[line["step"]], want, rtol=1e-5)
    for name in ("open_loop", "test/open_loop"):
        steps = [step for step, _ in found[name]]
        assert steps == [4, 6]
        value = found[name][0][1]
        assert value.metadata.plugin_data.plugin_name == "images"
        width, height, gif = tf.make_ndarray(value.tensor)
        image = Image.open(io.BytesIO(gif))
        assert image.format == "GIF"
        assert image.size == (int(width), int(height))
        assert image.n_frames == 12


def test_the_open_loop_video_shows_truth_prediction_and_error(run):
    trained, logdir = run
    _, _, gif = tf.make_ndarray(summaries(logdir)["test/open_loop"][-1][1].tensor)
    image = Image.open(io.BytesIO(gif))
    image.seek(8)
    frame = np.asarray(image.convert("L")).astype(int)
    left = frame.shape[1] - 3 - (4 * 32 + 3 * 2)  # of the first clip, right of the labels
    rows = [frame[3 + 34 * row :][:32, left : left + 32] for row in range(3)]
    truth = trained.data["test"].clip(0)[8, ..., 0].astype(int)
    np.testing.assert_allclose(rows[0], truth, atol=6)
    np.testing.assert_allclose(rows[2], np.abs(rows[0] - rows[1]), atol=12)
    assert rows[2].max() > 20  # An untrained model makes errors.


def test_checkpoints_are_kept_as_configured(run, tmp_path):
    assert list(checkpoints.steps(run[1])) == [3, 6]
    assert trainer(tiny.settings("training.save_every=1", "training.keep=2"), tmp_path).run()
    assert list(checkpoints.steps(tmp_path)) == [5, 6]


def test_resuming_equals_never_stopping(run, tmp_path):
    whole, logdir = run
    assert trainer(tiny.settings("training.steps=3"), tmp_path).run()
    resumed = trainer(tiny.settings(), tmp_path)
    assert resumed.step == 3
    assert resumed.run()
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert whole.optimizer.state.keys() == resumed.optimizer.state.keys()
    for name, variable in whole.optimizer.state.items():
        np.testing.assert_array_equal(variable, resumed.optimizer.state[name], err_msg=name)
    assert lines(logdir)[-1]["test/loss"] == lines(tmp_path)[-1]["test/loss"]


def test_lines_after_the_last_checkpoint_are_not_duplicated(tmp_path):
    assert trainer(tiny.settings("training.steps=3"), tmp_path).run()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # A crash, two steps later.
    assert trainer(tiny.settings(), tmp_path).run()
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [2, 3, 4, 6]


def test_an_error_of_the_data_ends_training_with_its_message(tmp_path):
    changes = ("training.steps=30", "training.save_every=1", "training.video_every=100")
    settings = tiny.settings(*changes)

    class Vanishing(MovingDigits):
        count = 0

        def _read_into(self, video, i, start):
            self.count += 1
            if self.count > 20:  # Two a batch.
                raise UserError("the disk was pulled out.")
            super()._read_into(video, i, start)

    options = {"frame_size": 32, "digit_size": 14, "train_length": 20, "test_length": 40}
    data = [Vanishing(split, **options) for split in ("train", "test")]
    trained = loop.Trainer(settings, factory.build(settings), *data, tmp_path)
    with pytest.raises(TrainingStopped, match=r"could not be read: the disk was pulled out\."):
        trained.run()
    assert checkpoints.steps(tmp_path)
    assert trainer(settings, tmp_path).step > 0


@pytest.mark.slow
def test_seeds_change_weights_data_and_latents(tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        trained = trainer(
            tiny.settings(f"training.seed={seed}", "training.steps=2"), tmp_path / name
        )
        first = trained.model.weights[0].numpy().copy()
        trained.run()
        runs[name] = first, lines(tmp_path / name)[0]["loss"]
    np.testing.assert_array_equal(runs["a"][0], runs["b"][0])
    assert runs["a"][1] == runs["b"][1]
    assert np.abs(runs["a"][0] - runs["c"][0]).max() > 0
    assert runs["a"][1] != runs["c"][1]


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_weights(tmp_path):
    trained = trainer(tiny.settings("training.skip_limit=3"), tmp_path)
    trained.model.cells[1].prior_mean.bias.assign(np.full(3, np.nan))
    before = [weight.numpy() for weight in trained.model.weights]
    with pytest.raises(TrainingStopped, match=r"step 1: kl/level_2_sum is nan.* 3 in a row"):
        trained.run()
    for old, weight in zip(before, trained.model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    assert list(checkpoints.steps(tmp_path)) == [0]


class Poisoned(tiny.Squares):
    """Squares with float frames, which are NaN in some batches."""

    def __init__(self, steps):
        super().__init__(20)
        self.steps = steps

    def batches(self, batch_size, length, seed, step=0, shards=1, own=range(1)):
        clean = super().batches(batch_size, length, seed, step, shards, own)
        numbers = tf.data.Dataset.range(step, tf.int64.max)

        def poison(number, video):
            bad = tf.reduce_any(number == tf.constant(self.steps, tf.int64))
            return tf.where(bad, np.nan, tf.cast(video, tf.float32) / 255)

        return tf.data.Dataset.zip(numbers, clean).map(poison)


def poisoned(settings, logdir, steps):
    return trainer(settings, logdir, Poisoned(steps))


@pytest.mark.parametrize("per_call", [1, 10])
def test_an_update_that_is_not_finite_is_skipped_and_counted_and_training_continues(
    tmp_path, per_call
):
    settings = tiny.settings("training.log_every=6", f"training.steps_per_call={per_call}")
    trained = poisoned(settings, tmp_path, [1, 2, 4])
    weights = []
    account = trained._account

    def watch(scalars):
        account(scalars)
        weights.append(trained.model.weights[0].numpy())

    trained._account = watch
    assert trained.run()
    assert trained.optimizer.skipped.numpy() == 3
    if per_call == 1:
        np.testing.assert_array_equal(weights[1], weights[2])
        assert np.abs(weights[3] - weights[2]).max() > 0
    (line,) = (line for line in lines(tmp_path) if "loss" in line)
    assert line["skipped_updates"] == 3
    assert np.isfinite(line["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("per_call", [1, 10])
def test_after_too_many_in_a_row_the_last_good_step_is_saved_and_named(tmp_path, per_call):
    settings = tiny.settings(
        "training.steps=20",
        "training.log_every=100",
        "training.save_every=100",
        "training.video_every=100",
        "training.skip_limit=2",
        f"training.steps_per_call={per_call}",
    )
    trained = poisoned(settings, tmp_path, [1, 5, 6, 7, 8])
    with pytest.raises(TrainingStopped, match=r"step 6: .*step_000000005\.npz.*--init-from"):
        trained.run()
    assert list(checkpoints.steps(tmp_path)) == [5]
    again = poisoned(settings, tmp_path, [1])  # The same, with repaired data.
    assert again.step == 5
    assert again.optimizer.skipped.numpy() == 1
    assert again.run()
    for one, other in zip(
        again.model.weights, whole_run(settings, tmp_path / "whole", [1]).model.weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_training_resumes_from_a_stop_during_a_streak_of_skipped_updates(tmp_path):
    """Skips before the stop are not counted: the message names a step after it."""
    settings = tiny.settings(
        "training.steps=20",
        "training.log_every=100",
        "training.save_every=4",
        "training.video_every=100",
        "training.skip_limit=3",
        "training.steps_per_call=1",
    )
    first = poisoned(settings, tmp_path, [5, 6, 7, 8, 9, 10])
    account = first._account

    def stop(scalars):
        account(scalars)
        if first.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    first._account = stop
    assert not first.run()
    assert list(checkpoints.steps(tmp_path)) == [4, 7]
    with pytest.raises(TrainingStopped, match=r"step 8: .* 3 in a row.*step_000000007\.npz holds"):
        poisoned(settings, tmp_path, [5, 6, 7, 8, 9, 10]).run()
    assert list(checkpoints.steps(tmp_path)) == [4, 7]
    lower = tiny.settings("training.steps=20", "training.skip_limit=1", "training.video_every=100")
    assert poisoned(lower, tmp_path, [5, 6]).run()


def test_no_checkpoint_is_saved_during_a_streak_of_skipped_updates(tmp_path):
    settings = tiny.settings(
        "training.steps=20", "training.save_every=1", "training.keep=9", "training.skip_limit=3"
    )
    with pytest.raises(TrainingStopped, match="step 6"):
        poisoned(settings, tmp_path, [5, 6, 7]).run()
    assert list(checkpoints.steps(tmp_path)) == [1, 2, 3, 4, 5]


def whole_run(settings, logdir, steps):
    logdir.mkdir()
    trained = poisoned(settings, logdir, steps)
    assert trained.run()
    return trained


def test_a_broken_posterior_is_named_although_it_breaks_all_levels_below(tmp_path):
    trained = trainer(tiny.settings("training.skip_limit=1"), tmp_path)
    trained.model.cells[1].posterior_mean.bias.assign(np.full(3, np.nan))
    with pytest.raises(TrainingStopped, match=r"step 1: kl/level_2_sum is nan.*loss, nll"):
        trained.run()


def test_a_broken_likelihood_is_distinguished_from_a_broken_kl(tmp_path):
    trained = trainer(tiny.settings("training.skip_limit=1"), tmp_path)
    bias = trained.model.decoder.layers[0].bias
    bias.assign(np.full(bias.shape, np.inf))
    with pytest.raises(TrainingStopped, match="step 1: nll is"):
        trained.run()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stop_between_log_lines_leaves_no_trace(run, tmp_path, stop_after):
    """Weights, lines and TensorBoard points equal those of the run that was not stopped."""
    whole, logdir = run
    first = trainer(tiny.settings("training.steps_per_call=1"), tmp_path)
    account = first._account

    def stop(scalars):
        account(scalars)
        if first.step == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    first._account = stop
    assert not first.run()
    assert first.stopped_by == signal.SIGTERM
    assert first.step == stop_after
    resumed = trainer(tiny.settings(), tmp_path)
    assert resumed.step == stop_after
    assert resumed.run()
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    for one, other in zip(lines(logdir), lines(tmp_path), strict=True):
        one.pop("frames_per_second", None), other.pop("frames_per_second", None)
        assert one == other
    for name, points in summaries(logdir).items():
        if name.endswith("open_loop"):
            continue
        assert [step for step, _ in summaries(tmp_path)[name]] == [step for step, _ in points]


@pytest.mark.slow
def test_a_stop_within_a_warm_up_leaves_no_trace_in_the_schedule_and_the_average(tmp_path):
    overrides = ["training.warmup=4", "training.schedule=cosine", "training.ema=0.9"]
    settings = tiny.settings(*overrides, "training.steps_per_call=1", "training.log_every=1")
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        folder.mkdir()
    assert trainer(settings, folders[0]).run()
    stopped = trainer(settings, folders[1])
    account = stopped._account

    def stop(scalars):
        account(scalars)
        if stopped.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._account = stop
    assert not stopped.run()
    assert trainer(settings, folders[1]).run()
    one, other = (checkpoints.read(checkpoints.find(folder))[0] for folder in folders)
    assert one.keys() == other.keys()
    assert one["ema/updates"] == 6
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    rates = [[line["learning_rate"] for line in lines(f) if "loss" in line] for f in folders]
    assert rates[0] == rates[1]
    np.testing.assert_allclose(rates[0][:5], [0.0025, 0.005, 0.0075, 0.01, 0.01])
    np.testing.assert_allclose(rates[0][5], 0.01 * (1 + np.cos(np.pi / 2)) / 2)


@pytest.mark.slow
def test_an_average_that_is_turned_on_later_starts_there_and_changes_no_training(run, tmp_path):
    whole, _ = run
    assert trainer(tiny.settings("training.steps=3"), tmp_path).run()
    settings = tiny.settings("training.ema=0.9")
    resumed = trainer(settings, tmp_path)
    assert resumed.run()
    arrays, _ = checkpoints.read(checkpoints.find(tmp_path))
    assert arrays["ema/updates"] == 3
    for want, weight in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(weight, want, err_msg=weight.path)
        np.testing.assert_array_equal(arrays[f"model/{weight.path}"], want)
    # The averages are evaluated: during training, and by whoever restores the model.
    model = factory.build(settings)
    checkpoints.restore_newest(tmp_path, model)
    for weight in model.weights:
        np.testing.assert_array_equal(weight, arrays[f"ema/{weight.path}"])
    held_out = monitoring.HeldOut(settings, model, resumed.data, 2).scalars()
    np.testing.assert_allclose(lines(tmp_path)[-1]["test/loss"], held_out["test/loss"], rtol=1e-5)
    assert held_out["test/loss"] != lines(run[1])[-1]["test/loss"]
    checkpoints.restore_newest(tmp_path, model, averaged=False)
    for want, weight in zip(whole.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, want)


@pytest.mark.parametrize(
    ("names", "kl"),
    [
        (["level_1"], "kl 0.0"),
        (["level_1", "level_2"], "kl fastest 0.0, slowest 1.0"),
        (["level_1", "level_2", "level_3"], "kl fastest 0.0, level 2 1.0, slowest 2.0"),
        (["abstraction", "boundary"], "kl abstraction 0.0, boundary 1.0"),
    ],
)
def test_the_progress_names_the_kl_terms(names, kl):
    scalars = {"loss": 12.34} | {f"kl/{name}_sum": n for n, name in enumerate(names)}
    assert loop.summary(scalars, names, 987.6) == f"loss 12.3, {kl}, 988 frames/s"


def test_hyperparameters_are_the_settings_that_decide_what_the_model_becomes():
    found = loop.hyperparameters(tiny.settings("training.schedule=cosine", "data.data_dir=/x"))
    assert found["training.schedule"] == "cosine"
    assert found["model.levels"] == 2
    assert found["data.speed"] == "[2.0, 6.0]"
    assert not {"data.data_dir", "training.keep", "training.ema"} & found.keys()


def test_means_of_an_earlier_version_continue_under_the_names_of_today():
    means = monitoring.Means()
    means.restore({"count": 1, "skipped": 0, "sums": {"loss": 2.0, "kl/level0_sum": 4.0}})
    means.add({"loss": 4.0, "kl/level_1_sum": 6.0})
    assert means.take() == {"loss": 3.0, "kl/level_1_sum": 5.0}


@pytest.mark.slow
def test_training_continues_if_a_checkpoint_cannot_be_written(tmp_path, monkeypatch, capsys):
    whole = checkpoints.save

    def full(logdir, step, *arguments, **options):
        if step == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(logdir, step, *arguments, **options)

    monkeypatch.setattr(checkpoints, "save", full)
    trained = trainer(tiny.settings(), tmp_path)
    assert trained.run()
    assert list(checkpoints.steps(tmp_path)) == [6]
    error = capsys.readouterr().err
    assert "step 3 could not be written" in error
    assert "No space left on device" in error


def test_an_unwritable_last_checkpoint_ends_training_with_the_one_before(tmp_path, monkeypatch):
    whole = checkpoints.save

    def full(logdir, step, *arguments, **options):
        if step > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(logdir, step, *arguments, **options)

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(TrainingStopped, match=r"No space left.*step_000000003\.npz.*Make room"):
        trainer(tiny.settings(), tmp_path).run()
    assert list(checkpoints.steps(tmp_path)) == [3]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(run, tmp_path, capsys):
    whole, _ = run
    assert trainer(tiny.settings("training.steps=4"), tmp_path).run()
    assert list(checkpoints.steps(tmp_path)) == [3, 4]
    newest = checkpoints.find(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = trainer(tiny.settings(), tmp_path)
    assert resumed.step == 3
    assert newest.name in capsys.readouterr().err
    assert resumed.run()
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.parametrize("override", ["batch_size=3", "accumulate=2"])
def test_a_batch_that_cannot_be_split_is_refused(tmp_path, override):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    settings = tiny.settings(f"training.{override}")
    with strategy.scope():
        model = factory.build(settings, 0)
    with pytest.raises(UserError, match=r"training\.batch_size.*multiple of"):
        loop.Trainer(settings, model, tiny.Squares(), tiny.Squares(), tmp_path, strategy)


def test_bfloat16_trains_and_keeps_its_weights_in_float32(tmp_path):
    trained = trainer(tiny.settings("training.precision=bfloat16"), tmp_path)
    assert trained.run()
    assert {weight.dtype for weight in trained.model.weights} == {"float32"}
    assert np.isfinite(lines(tmp_path)[-1]["test/loss"])


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path):
    """The quickstart's losses after 500 steps are within 1% of each other."""
    import data_loaders

    if machine.precision() == "float32":
        pytest.skip("training.precision=auto is float32 here, and bfloat16 takes far too long")
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = config.load(
            config.BASE.parent / "quickstart.yml",
            [
                f"training.precision={precision}",
                "training.steps=700",
                "training.log_every=50",
                "training.video_every=100000",
                "training.save_every=100000",
            ],
        )
        options = settings.data_options()
        data = [data_loaders.load(split=split, **options) for split in ("train", "test")]
        logdir = tmp_path / precision
        logdir.mkdir()
        model = factory.build(settings, settings.training.seed)
        assert loop.Trainer(settings, model, *data, logdir).run()
        losses[precision] = [
            line["loss"] for line in lines(logdir) if "loss" in line and line["step"] > 500
        ]
    assert len(losses["float32"]) >= 4
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.01)


@pytest.mark.slow
def test_learning_on_moving_digits(tmp_path):
    """The loss falls, and the first open-loop frames beat both baselines."""
    import data_loaders
    from cwvae.evaluation import evaluator
    from cwvae.evaluation.results import COPY, MEAN

    settings = tiny.settings(
        "model.channel_multiplier=0.5",
        "model.stochastic_size=20",
        "model.deterministic_size=100",
        "model.hidden_size=100",
        "data.num_digits=1",
        "data.digit_size=16",
        "data.speed=[1, 2]",
        "training.steps=900",
        "training.batch_size=16",
        "training.seq_len=20",
        "training.learning_rate=0.001",
        "training.video_every=1000",
        "evaluation.num_videos=16",
        "evaluation.context=12",
        "training.video_length=20",
    )
    data = [
        data_loaders.load(split=split, **settings.data_options()) for split in ("train", "test")
    ]
    model = factory.build(settings, settings.training.seed)
    assert loop.Trainer(settings, model, *data, tmp_path).run()
    history = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(history[-10:]) < np.mean(history[:2]) - 100
    results = evaluator.evaluate(settings, model, 900, *data, tmp_path)
    psnr = {name: scores["psnr"]["per_frame"][:3] for name, scores in results["scores"].items()}
    for baseline in (MEAN, COPY):
        assert np.mean(psnr["cwvae"]) > np.mean(psnr[baseline]) + 0.5
