"""The arguments of public methods, of all three models: what is accepted, and what is refused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.scripts import ROOT

import cwvae
from cwvae import arguments
from cwvae.baselines.svg import SVG
from cwvae.baselines.vta import VTA
from cwvae.fast.model import FastCWVAE
from cwvae.model import CWVAE

CWVAE_SIZES = dict(
    levels=2,
    factors=(2,),
    frame_size=32,
    channels=1,
    stochastic_size=2,
    deterministic_size=3,
    hidden_size=4,
    mlp_size=4,
    channel_multiplier=0.0625,
    decoder_stddev=0.5,
)
SVG_SIZES = dict(
    network="dcgan",
    frame_size=32,
    channels=1,
    feature_size=3,
    hidden_size=4,
    stochastic_size=2,
    decoder_stddev=0.5,
    context=2,
    channel_multiplier=0.0625,
)
VTA_SIZES = dict(
    frame_size=32, channels=1, belief_size=3, state_size=2, feature_size=4, init_size=1
)
BUILDERS = {
    "cwvae": lambda: CWVAE(**CWVAE_SIZES),
    "fast": lambda: FastCWVAE(**CWVAE_SIZES),
    "svg": lambda: SVG(**SVG_SIZES),
    "vta": lambda: VTA(**VTA_SIZES),
}
FRAMES = np.random.default_rng(0).random((2, 4, 32, 32, 1)).astype(np.float32)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    """A model with large weights, so that its means leave [0, 1] where they can."""
    keras.utils.set_random_seed(0)
    built = BUILDERS[request.param]()
    for weight in built.trainable_weights:
        if "norm" not in weight.path:
            weight.assign(weight * 3)
    return built


def refusal(call, *args, **options):
    """Returns the message with which a call is refused."""
    with pytest.raises((TypeError, ValueError)) as raised:
        call(*args, **options)
    return str(raised.value)


# The range of frames.


def test_predictions_and_reconstructions_are_clipped_unless_the_means_are_wanted(model):
    for call in (
        lambda **options: model.predict(FRAMES, 3, 0, **options),
        lambda **options: model.reconstruct(FRAMES, 0, **options),
    ):
        means, frames = call(clip=False).numpy(), call().numpy()
        assert (means.min() < 0) == (model.name == "cwvae")
        np.testing.assert_array_equal(frames, np.clip(means, 0, 1))
        np.testing.assert_array_equal(call(clip=np.True_), frames)
    stretches = model.predict_chunks(FRAMES, 3, 0)
    means = np.concatenate([stretch.frames for stretch in stretches], 1)
    np.testing.assert_array_equal(means, model.predict(FRAMES, 3, 0, clip=False))


def test_clipping_keeps_nan():
    model = BUILDERS["cwvae"]()
    bias = model.decoder.layers[0].bias
    bias.assign(np.full(bias.shape, np.nan))
    assert np.isnan(model.predict(FRAMES, 2, 0)).all()
    assert np.isnan(model.reconstruct(FRAMES, 0)).all()


def test_frames_in_any_form_mean_the_same(model):
    bytes_ = np.round(FRAMES * 255).astype(np.uint8)
    want = model.predict(bytes_, 2, 0)
    floats = (bytes_ / 255).astype(np.float32)
    for video in (floats, floats.astype(np.float64), tf.constant(floats), floats.tolist()):
        np.testing.assert_allclose(model.predict(video, 2, 0), want, atol=1e-5)
    model.predict(FRAMES.astype(np.float16), 2, 0)
    model.predict(tf.cast(FRAMES, tf.bfloat16), 2, 0)
    # As resizing may give them.
    model.predict(np.where(FRAMES > 0.5, 1.0009, -0.0009), 2, 0)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (
            FRAMES * 255,
            r"must hold values in \[0, 1\], not from .* 0 to 255, pass uint8, or div",
        ),
        (FRAMES * 2 - 1, r"in \[0, 1\], not from -0.99.* -1 to 1, pass \(x \+ 1\) / 2"),
        (FRAMES - 0.1, r"in \[0, 1\], not from -0.*if a prediction, clip it"),
        (FRAMES * 1.01, r"in \[0, 1\], not from .* to 1.0.* Scale or clip them"),
        (FRAMES * 100 - 50, r"in \[0, 1\], not from -.* Scale or clip them"),
        (np.where(FRAMES > 0.99, np.nan, FRAMES), "holds NaN or infinity. Replace these values"),
        (np.where(FRAMES > 0.99, np.inf, FRAMES), "holds NaN or infinity"),
        (tf.cast(FRAMES * 255, tf.bfloat16), "pass uint8, or divide by 255"),
        ((FRAMES * 255).astype(np.int64), r"must hold floats in \[0, 1\] or uint8, not int64"),
        (FRAMES > 0.5, "or uint8, not bool"),
        (FRAMES[0], r"not \(4, 32, 32, 1\). For a single clip, pass {name}\[None\]"),
        (FRAMES[..., 0], r"axis of channels is missing: pass {name}\[\.\.\., None\]"),
        (FRAMES[0, 0], r"For a single frame, pass {name}\[None, None\]"),
        (np.moveaxis(FRAMES, -1, 2), r"not \(1, 32, 32\).*np.moveaxis\({name}, 2, -1\)"),
        (np.moveaxis(FRAMES, -1, 1), r"np.moveaxis\({name}, 1, -1\)"),
        (np.zeros((1, 3, 64, 64, 1), np.uint8), r"frames of \(32, 32, 1\), not \(64, 64, 1\)"),
        (np.zeros((1, 3, 32, 32, 3), np.uint8), r"frames of \(32, 32, 1\), not \(32, 32, 3\)"),
        (FRAMES[:, :0], "with T from 1"),
        (FRAMES[:0], r"holds no clip: its shape is \(0, 4, 32, 32, 1\)"),
        (None, "must be an array .* A NoneType like this cannot be converted"),
        ([[1, 2], [3]], "must be an array .* A list like this cannot be converted"),
    ],
)
def test_frames_that_are_refused(model, video, message):
    for name, call in (
        ("context", lambda: model.predict(video, 2, 0)),
        ("context", lambda: model.predict_chunks(video, 2, 0)),  # Before the first stretch.
        ("video", lambda: model.reconstruct(video, 0)),
        ("video", lambda: model.elbo(video, 0)),
        ("video", lambda: model.boundaries(video, 0)),
    ):
        with pytest.raises((TypeError, ValueError), match=message.format(name=name)) as raised:
            call()
        assert str(raised.value).startswith(f"{name} ")


def test_values_are_not_checked_in_a_compiled_function(model):
    elbo = tf.function(lambda video: model.elbo(video, 0).nll, autograph=False)
    assert np.isfinite(elbo(tf.constant(FRAMES))).all()
    assert np.isnan(elbo(tf.constant(np.full_like(FRAMES, np.nan)))).any()
    video = tf.constant(FRAMES)
    captured = tf.function(lambda: model.elbo(video, 0).nll, autograph=False)
    np.testing.assert_allclose(captured(), elbo(video), rtol=1e-5)


# Numbers.


def test_integers_in_any_form_mean_the_same(model):
    want = model.predict(FRAMES, 2, 3)
    for horizon, seed in (
        (np.int64(2), np.int64(3)),
        (np.uint8(2), np.uint64(3)),
        (2, tf.constant([3, 0], tf.int64)),
        (2, np.array([3, 0])),
    ):
        np.testing.assert_array_equal(model.predict(FRAMES, horizon, seed), want)
    for seed in (-1, -(2**63), 2**63 - 1, [3, 0]):
        assert np.isfinite(model.reconstruct(FRAMES, seed)).all()


@pytest.mark.parametrize(
    "horizon", [True, np.True_, 2.0, np.float32(2), "2", None, [2], np.array([2]), 0, -1, 1j]
)
def test_horizons_that_are_refused(model, horizon):
    for call in (model.predict, model.predict_chunks):
        assert refusal(call, FRAMES, horizon, 0).startswith("horizon must be ")


SEEDS = [True, 1.0, np.float64(1), None, "1", 2**63, -(2**63) - 1, [1, 2, 3], [1.0, 2.0], []]
SEEDS += [tf.constant(1), tf.constant([1.0, 2.0]), np.uint8([1, 2]), np.zeros((2, 2), int), {}]


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_seeds_that_are_refused(model, seed):
    for call in (
        lambda seed: model.predict(FRAMES, 2, seed),
        lambda seed: model.reconstruct(FRAMES, seed),
        lambda seed: model.elbo(FRAMES, seed),
        lambda seed: model.boundaries(FRAMES, seed),
    ):
        assert refusal(call, seed).startswith("seed must ")


def test_rows_and_steps(model):
    want = model.elbo(FRAMES, 0, row=1).nll
    for row in (np.int64(1), np.uint8(1), tf.constant(1), tf.constant(1, tf.int64)):
        np.testing.assert_array_equal(model.elbo(FRAMES, 0, row=row).nll, want)
    for row in (True, 1.0, -1, "1", None, (0, 1), tf.constant(1.0), tf.constant(-1)):
        assert refusal(model.elbo, FRAMES, 0, row=row).startswith("row must be ")
        assert refusal(model.reconstruct, FRAMES, 0, row=row).startswith("row must be ")
        assert refusal(model.predict, FRAMES, 2, 0, row=row).startswith("row must be ")
    for step in (0, np.int64(7), tf.constant(7), tf.constant(7, tf.int64)):
        assert np.isfinite(model.elbo(FRAMES, 0, step=step).nll).all()
    for step in (True, 1.0, -1, "1", tf.constant(1.0), tf.constant([1]), tf.constant(-1)):
        assert refusal(model.elbo, FRAMES, 0, step=step).startswith("step must be ")


# Options.


@pytest.mark.parametrize("kind", ["cwvae", "fast"])
def test_observed_levels_in_any_form_mean_the_same(kind):
    keras.utils.set_random_seed(0)
    model = BUILDERS[kind]()
    seen = model.predict(FRAMES, 2, 0, clip=False)
    for flags in itertools.product((True, False), repeat=2):
        letters = "".join("FT"[flag] for flag in flags)
        forms = [flags, [*flags], np.array(flags), [*np.array(flags)], letters]
        wanted = model.elbo(FRAMES, 0, observe_levels=flags)
        for kl, flag in zip(wanted.kl, flags, strict=True):
            assert np.all(kl == 0) == (not flag)
        for form in forms:
            elbo = model.elbo(FRAMES, 0, observe_levels=form)
            np.testing.assert_array_equal(elbo.nll, wanted.nll)
        predictions = [model.predict(FRAMES, 2, 0, clip=False, observe_levels=f) for f in forms]
        for prediction in predictions:
            np.testing.assert_array_equal(prediction, predictions[0])
        assert np.array_equal(predictions[0], seen) == all(flags)
        frames = [model.reconstruct(FRAMES, 0, observe_levels=form) for form in forms]
        assert all(np.array_equal(one, frames[0]) for one in frames)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        *((text, ValueError) for text in ("", "F", "FFF", "tf", "T,", "01")),
        *((flags, ValueError) for flags in ((), (True,), [True] * 3, np.array([True]))),
        *((flags, TypeError) for flags in (0, True, 1.0, {True, False}, {0: True, 1: False})),
        *((flags, TypeError) for flags in ((1, 0), (None, True), ["T", "F"], ("TF", True))),
        *((flags, TypeError) for flags in (np.array([1, 0]), np.array(["T", "F"]), np.True_)),
        *((flags, TypeError) for flags in (np.ones((2, 2), bool), np.array(True), b"TF")),
        ([[True], [True, False]], TypeError),
        pytest.param((flag for flag in (True, False)), TypeError, id="a generator"),
    ],
    ids=str,
)
def test_observed_levels_that_are_refused(flags, error):
    with pytest.raises(error, match=r"one T or F, or one boolean, for each of the 2 levels.*'TT'"):
        arguments.as_level_flags(flags, 2)


def test_options_that_are_refused(model):
    if model.name == "cwvae":
        assert refusal(model.predict, FRAMES, 2, 0, observe_levels="FFF").startswith("observe_lev")
        known, other = "observe_levels", "batch_statistics"
    else:
        for value in (None, 1, "true", "FF", (True, False)):
            message = refusal(model.predict, FRAMES, 2, 0, batch_statistics=value)
            assert message.startswith("batch_statistics must be True or False")
        message = refusal(model.predict, FRAMES[:1], 2, 0, batch_statistics=True)
        assert "Give at least 2 clips" in message
        model.predict(FRAMES, 2, 0, batch_statistics=np.True_)
        known, other = "batch_statistics", "observe_levels"
    for call in (model.predict, model.predict_chunks):
        message = refusal(call, FRAMES, 2, 0, **{other: True})
        wanted = f"{other} is not an option of the model {model.name}. It takes {known}."
        assert message == wanted
    for call in (model.reconstruct, model.elbo):
        assert refusal(call, FRAMES, 0, **{other: None}).startswith(f"{other} is not an option")
    for clip in (1, None, "no"):
        assert refusal(model.predict, FRAMES, 2, 0, clip=clip).startswith("clip must be True or")
        assert refusal(model.reconstruct, FRAMES, 0, clip=clip).startswith("clip must be True or")


@pytest.mark.parametrize("step", [True, 4.0, "4", [4]])
def test_steps_to_load_that_are_refused(step):
    folder = ROOT / "tests" / "golden" / "before_move" / "cwvae"
    assert refusal(cwvae.load, folder, step).startswith("step must be an integer")
    cwvae.load(folder, np.int64(4))


# Anything.


NAMES = ("video", "context", "horizon", "seed", "row", "step", "clip")
NAMES += ("observe_levels", "batch_statistics")
ODD = [None, True, -1, 2.5, "TF", b"x", 1j, [], {}, object(), np.nan, np.array("x"), 2**70]
ODD += [np.array([None, 1]), np.zeros(3), np.zeros((0, 2)), tf.constant("x"), tf.constant([1.0])]
ODD += [tf.ragged.constant([[1], [1, 2]]), FRAMES, FRAMES[0], FRAMES * 9, np.zeros(3, "M8[s]")]


def test_odd_arguments_are_refused_in_our_words_or_mean_something(model):
    good = {
        "predict": dict(context=FRAMES, horizon=2, seed=0),
        "reconstruct": dict(video=FRAMES, seed=0),
        "elbo": dict(video=FRAMES, seed=0),
        "boundaries": dict(video=FRAMES, seed=0),
    }
    if isinstance(model, CWVAE):
        good["observed_states"] = dict(video=FRAMES, seed=0)
        good["predicted_states"] = dict(context=FRAMES, horizon=2, seed=0)
    # The only odd values that are valid for something.
    valid = {"video": [FRAMES], "context": [FRAMES], "seed": [-1], "step": [None]}
    valid |= {"clip": [True], "batch_statistics": [True], "observe_levels": [None, "TF"]}
    rng = np.random.default_rng(0)
    for method, options in good.items():
        others = {"predict": ["row", "clip", "observe_levels", "batch_statistics"]}
        others |= {"reconstruct": ["row", "clip", "observe_levels"], "boundaries": []}
        others |= {"elbo": ["row", "step", "observe_levels"]}
        others |= {name: ["row", "observe_levels"] for name in good if name.endswith("_states")}
        for name in (*options, *others[method]):
            for value in ODD:
                if any(value is good_one for good_one in valid.get(name, ())):
                    continue
                message = refusal(getattr(model, method), **options | {name: value})
                assert message.startswith(name), (method, name, value, message)
                assert "\n" not in message
                assert len(message) < 300
        for _ in range(50):  # Several at a time, at least one of them wrong.
            names = [*options, *others[method]]
            wrong = rng.choice(names, 2, replace=False)
            changed = {name: ODD[rng.integers(len(ODD))] for name in wrong}
            if all(any(v is one for one in valid.get(k, ())) for k, v in changed.items()):
                continue
            message = refusal(getattr(model, method), **options | changed)
            assert message.startswith(NAMES)
            assert "\n" not in message
