import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

from cwvae import checkpoints, factory, training
from cwvae.errors import TrainingStopped


def trainer(settings, logdir):
    model = factory.build(settings, settings.training.seed)
    return training.Trainer(settings, model, tiny.Squares(20), tiny.Squares(40), logdir)


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six steps, and its trainer."""
    logdir = tmp_path_factory.mktemp("run")
    trained = trainer(tiny.settings(), logdir)
    assert trained.run()
    return trained, logdir


def test_scalars_are_logged_as_json_lines(run):
    _, logdir = run
    train = [line for line in lines(logdir) if "loss" in line]
    assert [line["step"] for line in train] == [2, 4, 6]
    for line in train:
        assert np.isfinite(list(line.values())).all()
        kl = line["kl/level0_sum"] + line["kl/level1_sum"]
        np.testing.assert_allclose(line["loss"], line["nll"] + kl / 7, rtol=1e-5)
        # Seven frames: seven active steps of the fastest level, three of the one above.
        np.testing.assert_allclose(line["kl/level0_sum"], 7 * line["kl/level0_per_step"], rtol=1e-5)
        np.testing.assert_allclose(line["kl/level1_sum"], 3 * line["kl/level1_per_step"], rtol=1e-5)
        assert line["frames_per_second"] > 0
        assert line["gradient_norm"] > 0
    test = [line["step"] for line in lines(logdir) if "test/loss" in line]
    assert test == [4, 6]


def summaries(logdir):
    found = {}
    for path in sorted((logdir / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
    return found


def test_tensorboard_holds_the_same_scalars_and_the_videos(run):
    _, logdir = run
    found = summaries(logdir)
    for line in lines(logdir):
        for name, want in line.items():
            if name != "step":
                got = {step: tf.make_ndarray(value.tensor) for step, value in found[name]}
                np.testing.assert_allclose(got[line["step"]], want, rtol=1e-5)
    for split in ("train", "test"):
        steps = [step for step, _ in found[f"open_loop/{split}"]]
        assert steps == [4, 6]
        value = found[f"open_loop/{split}"][0][1]
        assert value.metadata.plugin_data.plugin_name == "images"
        width, height, gif = tf.make_ndarray(value.tensor)
        image = Image.open(io.BytesIO(gif))
        assert image.format == "GIF"
        assert image.size == (int(width), int(height))
        assert image.n_frames == 12


def test_the_open_loop_video_shows_truth_prediction_and_error(run):
    trained, logdir = run
    _, _, gif = tf.make_ndarray(summaries(logdir)["open_loop/test"][-1][1].tensor)
    image = Image.open(io.BytesIO(gif))
    image.seek(8)
    frame = np.asarray(image.convert("L")).astype(int)
    left = frame.shape[1] - 3 - (4 * 32 + 3 * 2)  # of the first clip, right of the labels
    rows = [frame[3 + 34 * row :][:32, left : left + 32] for row in range(3)]
    truth = trained.data["test"].clip(0)[8, ..., 0].astype(int)
    np.testing.assert_allclose(rows[0], truth, atol=6)
    np.testing.assert_allclose(rows[2], np.abs(rows[0] - rows[1]), atol=12)
    assert rows[2].max() > 20  # Not trained yet: an error there is.


def test_checkpoints_are_kept_as_asked(run, tmp_path):
    assert list(checkpoints.steps(run[1])) == [3, 6]
    assert trainer(tiny.settings("training.save_every=1", "training.keep=2"), tmp_path).run()
    assert list(checkpoints.steps(tmp_path)) == [5, 6]


def test_resuming_equals_never_having_stopped(run, tmp_path):
    whole, logdir = run
    assert trainer(tiny.settings("training.steps=3"), tmp_path).run()
    resumed = trainer(tiny.settings(), tmp_path)
    assert resumed.step == 3
    assert resumed.run()
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    for one, other in zip(whole.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert lines(logdir)[-1]["test/loss"] == lines(tmp_path)[-1]["test/loss"]


def test_lines_after_the_last_checkpoint_are_not_doubled(tmp_path):
    assert trainer(tiny.settings("training.steps=3"), tmp_path).run()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')  # A crash, two steps later.
    assert trainer(tiny.settings(), tmp_path).run()
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [2, 3, 4, 6]


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


def test_a_loss_that_is_not_finite_names_step_and_term_and_leaves_the_weights(tmp_path):
    trained = trainer(tiny.settings(), tmp_path)
    trained.model.cells[1].prior_heads[0][1].assign(np.full(3, np.nan))
    before = [weight.numpy() for weight in trained.model.weights]
    with pytest.raises(TrainingStopped, match=r"step 1: kl/level1_sum is nan"):
        trained.run()
    for old, weight in zip(before, trained.model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    assert list(checkpoints.steps(tmp_path)) == [0]


def test_the_steps_before_a_broken_one_are_logged_and_saved(tmp_path):
    trained = trainer(tiny.settings("training.log_every=100"), tmp_path)
    whole_step = trained._train_step

    def breaking_step(video, number):
        if number == 3:
            trained.model.decoder.dense.bias.assign(trained.model.decoder.dense.bias + np.nan)
        return whole_step(video, number)

    trained._train_step = breaking_step
    with pytest.raises(TrainingStopped, match="step 4: nll is nan"):
        trained.run()
    assert [line["step"] for line in lines(tmp_path)] == [3]
    assert list(checkpoints.steps(tmp_path)) == [3]


def test_a_broken_posterior_is_named_though_it_breaks_all_below(tmp_path):
    trained = trainer(tiny.settings(), tmp_path)
    trained.model.cells[1].posterior_heads[0][1].assign(np.full(3, np.nan))
    with pytest.raises(TrainingStopped, match=r"step 1: kl/level1_sum is nan.*loss, nll"):
        trained.run()


def test_a_broken_likelihood_is_told_from_a_broken_kl(tmp_path):
    trained = trainer(tiny.settings(), tmp_path)
    trained.model.decoder.dense.bias.assign(np.full(trained.model.decoder.dense.bias.shape, np.inf))
    with pytest.raises(TrainingStopped, match="step 1: nll is"):
        trained.run()


def test_bfloat16_trains_and_keeps_its_weights_in_float32(tmp_path):
    trained = trainer(tiny.settings("training.precision=bfloat16"), tmp_path)
    assert trained.run()
    assert {weight.dtype for weight in trained.model.weights} == {"float32"}
    assert np.isfinite(lines(tmp_path)[-1]["test/loss"])


def test_the_fused_adam_is_adam():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 7)).astype(np.float32)
    gradients = rng.normal(size=(4, 5, 7)).astype(np.float32)
    results = []
    for kind in (keras.optimizers.Adam, training.FusedAdam):
        variable = keras.Variable(start)
        optimizer = kind(0.01, epsilon=1e-4)
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [variable])
        results.append(variable.numpy())
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-7)
    assert np.abs(results[0] - start).max() > 0.01


def test_the_gradient_is_clipped_by_its_global_norm():
    settings = tiny.settings("training.clip_norm=0.5")
    model = factory.build(settings, settings.training.seed)
    optimizer = training.build_optimizer(settings.training, model)
    step = training.build_step(settings, model, optimizer)
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))
    scalars = step(video, tf.constant(0, tf.int64))
    assert float(scalars["gradient_norm"]) > 0.5  # as it was before clipping
    # After one step Adam's momentum is a tenth of the gradient it was given.
    norm = tf.linalg.global_norm([tf.convert_to_tensor(m) for m in optimizer._momentums])
    np.testing.assert_allclose(norm, 0.1 * 0.5, rtol=1e-3)


def test_beta_and_free_nats_reach_the_loss():
    video = tf.constant(tiny.Squares().batch(2, 7, 0, 0))

    def scalars(*overrides):
        settings = tiny.settings(*overrides)
        model = factory.build(settings, settings.training.seed)
        optimizer = training.build_optimizer(settings.training, model)
        step = training.build_step(settings, model, optimizer)
        return {k: float(v) for k, v in step(video, tf.constant(0, tf.int64)).items()}

    plain = scalars()
    weighted = scalars("model.beta=[2.0, 0.0]")
    want = plain["nll"] + 2 * plain["kl/level0_sum"] / 7
    np.testing.assert_allclose(weighted["loss"], want, rtol=1e-5)
    free = scalars("model.free_nats=100.0")
    np.testing.assert_allclose(free["loss"], plain["nll"] + 100 * (7 + 3) / 7, rtol=1e-5)


@pytest.mark.slow
def test_learning_on_moving_digits(tmp_path):
    """The loss falls, and open loop the first frames beat both baselines."""
    import data_loaders
    from cwvae import evaluation

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
    assert training.Trainer(settings, model, *data, tmp_path).run()
    history = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(history[-10:]) < np.mean(history[:2]) - 100
    results = evaluation.evaluate(settings, model, 900, *data, tmp_path)
    psnr = {name: scores["psnr"]["per_frame"][:3] for name, scores in results["scores"].items()}
    for baseline in (evaluation.MEAN, evaluation.COPY):
        assert np.mean(psnr["cwvae"]) > np.mean(psnr[baseline]) + 0.5
