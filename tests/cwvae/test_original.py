"""The import of checkpoints as the authors' TensorFlow 1 code writes them."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import reference

import cwvae
from cwvae import config, original
from cwvae.errors import UserError
from cwvae.run import checkpoints

META, WANT = reference.load("cwvae_l2_k2_rgb")
NAMES = [name.removesuffix(":0") for name, _ in META["names"]]
CFG = META["cfg"]
OVERRIDES = [
    f"model.levels={CFG['levels']}",
    f"model.factor={CFG['tmp_abs_factor']}",
    f"model.channels={CFG['channels']}",
    f"model.stochastic_size={CFG['cell_stoch_size']}",
    f"model.deterministic_size={CFG['cell_deter_size']}",
    f"model.hidden_size={CFG['cell_embed_size']}",
    f"model.mlp_size={CFG['enc_dense_embed_size']}",
    f"model.decoder_stddev={CFG['dec_stddev']}",
    "model.mean_only=true",
]


def write_checkpoint(folder, arrays, step=7):
    """Saves weights with TensorFlow 1's Saver, together with an optimizer's slots and counters."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in zip(NAMES, arrays, strict=True):
            tf.compat.v1.get_variable(name, initializer=array)
            tf.compat.v1.get_variable(f"{name}/Adam", initializer=np.zeros_like(array))
            tf.compat.v1.get_variable(f"{name}/Adam_1", initializer=np.zeros_like(array))
        tf.compat.v1.get_variable("beta1_power", initializer=np.float32(0.9))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(step))
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.train.Saver().save(session, str(folder / "model"), global_step=step)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tf1"), reference.weights(META))


def test_names_sort_into_the_order_of_the_original():
    for file in reference.NAMES:
        meta, _ = reference.load(file)
        names = [name.removesuffix(":0") for name, _ in meta["names"]]
        shuffled = [*sorted(names), "beta1_power", f"{names[0]}/Adam"]
        assert original.original_order(shuffled) == names


def test_the_run_predicts_what_the_original_predicts(checkpoint, tmp_path):
    step = original.bring_in(checkpoint, config.load(None, OVERRIDES), tmp_path / "run")
    assert step == 7
    model, video = cwvae.load(tmp_path / "run"), reference.video(META)
    context = CFG["open_loop_ctx"]
    frames = model.predict(video[:, :context], META["T"] - context, seed=0, clip=False)
    np.testing.assert_allclose(frames[:, ::5, ::9, ::9], WANT["ol"], atol=1e-3)
    elbo = model.elbo(video, seed=0)
    np.testing.assert_allclose(elbo.kl[1], WANT["kl1"], rtol=1e-3)


def test_training_can_resume_the_run(checkpoint, tmp_path):
    from cwvae import factory
    from cwvae.training import loop

    settings = config.load(None, OVERRIDES)
    original.bring_in(checkpoint, settings, tmp_path / "run")
    model = factory.build(settings)
    optimizer = loop.build_optimizer(settings.training, model)
    meta = checkpoints.restore_newest(tmp_path / "run", model, optimizer)
    assert meta["step"] == 7
    in_float32 = config.load(None, [*OVERRIDES, "training.precision=float32"])  # As the original.
    assert meta["config"] == config.as_plain(in_float32)


def test_the_folder_of_a_checkpoint_is_accepted(checkpoint, tmp_path):
    folder = checkpoint.rpartition("/")[0]
    assert original.bring_in(folder, config.load(None, OVERRIDES), tmp_path / "run") == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=30", r"dense_3/kernel.*\[45, 29\].*\[45, 30\]"),
        ("model.levels=1", "has the shape|holds"),
        ("model.levels=3", "has the shape|holds"),
    ],
)
def test_a_configuration_that_does_not_fit(checkpoint, tmp_path, override, message):
    settings = config.load(None, [*OVERRIDES, override])
    with pytest.raises(UserError, match=message):
        original.bring_in(checkpoint, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no TensorFlow checkpoint"):
        original.bring_in(str(tmp_path / "nothing"), config.load(None, OVERRIDES), tmp_path / "run")
    with pytest.raises(UserError, match="no TensorFlow checkpoint"):
        original.bring_in(str(tmp_path), config.load(None, OVERRIDES), tmp_path / "run")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_checkpoint_that_is_not_whole(tmp_path, damage):
    prefix = write_checkpoint(tmp_path, reference.weights(META))
    data = tmp_path / f"{prefix.rpartition('/')[2]}.data-00000-of-00001"
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"not a whole checkpoint"):
        original.bring_in(prefix, config.load(None, OVERRIDES), tmp_path / "run")


def test_a_run_is_not_overwritten(checkpoint, tmp_path):
    original.bring_in(checkpoint, config.load(None, OVERRIDES), tmp_path / "run")
    with pytest.raises(UserError, match="a run already"):
        original.bring_in(checkpoint, config.load(None, OVERRIDES), tmp_path / "run")


def test_a_wrong_configuration_is_refused_before_tensorflow_starts(tmp_path):
    code = (
        "import sys; from cwvae import original;"
        f"sys.argv = ['', 'x', '--config', '{tmp_path}/none.yml', '--logdir', '{tmp_path}/run'];"
        "import atexit; atexit.register(lambda: print('tensorflow' in sys.modules));"
        "original.main()"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such configuration file" in done.stderr
    assert done.stdout == "False\n"


def test_the_command_line(checkpoint, tmp_path, monkeypatch, capsys):
    settings = config.load(None, OVERRIDES)
    config.save(settings, tmp_path / "sizes.yml")
    logdir = tmp_path / "run"
    arguments = [checkpoint, "--config", str(tmp_path / "sizes.yml"), "--logdir", str(logdir)]
    monkeypatch.setattr("sys.argv", ["cwvae.original", *arguments])
    original.main()
    assert f"python eval.py --logdir {logdir}" in capsys.readouterr().out
    assert config.load_run(logdir) == config.load(None, [*OVERRIDES, "training.precision=float32"])
    assert list(checkpoints.steps(logdir)) == [7]
