"""The settings whose value `auto` is decided when training starts."""

import pytest
import tensorflow as tf
from helpers import tiny

from cwvae import config as configuration
from cwvae import factory, machine
from cwvae.baselines.svg import SVG
from cwvae.fast.model import FastCWVAE
from cwvae.model import CWVAE
from cwvae.training import choices, loop, strategies


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has measured nothing."""
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "_known", {})
    return tmp_path / "cache"


def automatic(*overrides, **options):
    auto = "training.precision=auto", "training.kernels=auto"
    return tiny.settings(*auto, *overrides, **options)


@pytest.fixture
def gains(monkeypatch):
    """A function that sets how much faster than float32 products in bfloat16 are here."""
    return lambda gain: monkeypatch.setattr(machine, "_measure_bfloat16", lambda: gain)


@pytest.mark.parametrize(
    ("gain", "chosen", "words"),
    [
        (1.73, "bfloat16", "in bfloat16 products of matrices are 1.7 times as fast on this machi"),
        (0.41, "float32", "in bfloat16 products of matrices are 0.4 times as fast on this machine"),
        (0, "float32", "this machine does not compute in bfloat16"),
    ],
)
def test_auto_becomes_a_precision_and_says_why(gains, capsys, gain, chosen, words):
    gains(gain)
    config = choices.precision(automatic(), tf.distribute.get_strategy())
    assert config == tiny.settings(f"training.precision={chosen}", "training.kernels=auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training.precision=auto: {chosen} ({words}")


@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_a_precision_that_is_given_is_neither_measured_nor_told(gains, capsys, given):
    gains(1.0)
    config = tiny.settings(f"training.precision={given}")
    assert choices.precision(config, tf.distribute.get_strategy()) == config
    assert capsys.readouterr().err == ""
    assert machine.known("bfloat16") is None


@pytest.mark.parametrize(
    ("own", "faster", "chosen"), [(2.0, 2, "bfloat16"), (2.0, 1, "float32"), (0.5, 1, "float32")]
)
def test_workers_take_bfloat16_only_if_all_of_them_gain(
    gains, monkeypatch, capsys, own, faster, chosen
):
    gains(own)
    votes = []
    monkeypatch.setattr(strategies, "workers", lambda: (0, 2))
    monkeypatch.setattr(strategies, "total", lambda _, vote: votes.append(vote) or faster)
    config = choices.precision(automatic(), tf.distribute.get_strategy())
    assert config.training.precision == chosen
    assert votes == [int(own == 2.0)]
    words = f"{chosen} (bfloat16 is faster on {faster} of the 2 workers)"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "gain"), [("cwvae", 0.5), ("cwvae", 2.0), ("svg", 2.0), ("vta", 2.0)]
)
def test_models_of_a_configuration_with_auto_are_built_as_the_machine_decides(gains, name, gain):
    gains(gain)
    model = factory.build(automatic(model=name), 0)
    kinds = {layer.dtype_policy.name for layer in model._flatten_layers()}
    assert ("mixed_bfloat16" in kinds) == (gain == 2.0)


def test_checkpoints_never_say_auto(gains):
    gains(2.0)
    data = tiny.Squares()
    trainer = loop.Trainer(automatic(), factory.build(automatic()), data, data, "/nonexistent")
    assert trainer.config.training.precision == "bfloat16"


# Kernels.


def measured(monkeypatch, time):
    """Replaces the measurement of the kernels; returns the list of its configurations."""
    calls = []

    def measure(config):
        calls.append(config)
        return time

    monkeypatch.setattr(choices, "_time_of_fast_kernels", measure)
    return calls


@pytest.mark.parametrize(
    ("time", "kind"), [(0.7, FastCWVAE), (1.09, FastCWVAE), (1.11, CWVAE), (3.0, CWVAE)]
)
def test_the_faster_kernels_are_taken_and_measured_once(monkeypatch, capsys, time, kind):
    config = automatic("training.precision=float32")
    calls = measured(monkeypatch, time)
    assert type(factory.build(config)) is FastCWVAE  # Without a measurement.
    assert not calls
    for _ in range(2):
        choices.kernels(config)
        monkeypatch.setattr(machine, "_known", {})  # As in a new process.
    assert calls == [config]
    assert type(factory.build(config)) is kind
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("Measuring which kernels are faster on this machine (once")
    plain = f"training.kernels=auto: plain ({time:.1f} times as fast as the fast ones here)."
    assert others == ([plain] * 2 if kind is CWVAE else [])


def test_each_precision_and_xla_have_their_own_answer(monkeypatch):
    calls = measured(monkeypatch, 2.0)
    for overrides in (
        ["training.precision=float32"],
        ["training.precision=bfloat16"],
        ["training.precision=float32", "training.jit=true"],
        ["training.precision=float32", "model.levels=1", "training.batch_size=4"],
    ):
        choices.kernels(automatic(*overrides))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("overrides", "model", "kind"),
    [
        (["training.kernels=fast"], "cwvae", FastCWVAE),
        (["training.kernels=plain"], "cwvae", CWVAE),
        (["training.gradient_checkpointing=7"], "cwvae", FastCWVAE),
        ([], "svg", SVG),
    ],
)
def test_where_there_is_no_choice_nothing_is_measured(monkeypatch, overrides, model, kind):
    config = automatic("training.precision=float32", *overrides, model=model)
    calls = measured(monkeypatch, 2.0)
    choices.kernels(config)
    assert not calls
    about = {"precision": "float32", "jit": factory.uses_jit(config)}
    machine.remembered("kernels", lambda: 2.0, **about)
    assert type(factory.build(config)) is kind


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_kernels_are_measured(precision, capsys):
    config = automatic(f"training.precision={precision}")
    assert 0.1 < choices._time_of_fast_kernels(config) < 5
    assert capsys.readouterr().err == ""


def test_rounding_to_bfloat16_does_not_make_the_kernels_differ(capsys):
    own = "training.kernels=fast", "training.precision=bfloat16"
    factory.build(configuration.load(None, [*choices._SMALL, *own]), 2)
    assert capsys.readouterr().err == ""
