import os
import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers import plain, tiny

import cwvae
from cwvae import config, export, factory
from cwvae.errors import UserError
from cwvae.run import checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def model(seed, *overrides):
    return factory.build(tiny.settings(*overrides), seed)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


FILES = ["README.md", "config.yml", "model.weights.h5"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def models():
    """Models by their step in the run below."""
    return {step: model(step) for step in (1, 2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, models):
    """A run with two checkpoints. Tests must not write into it."""
    logdir = tmp_path_factory.mktemp("run")
    config.save_run(tiny.settings(), logdir)
    for step, saved in models.items():
        checkpoints.save(logdir, step, saved, keep=2)
    return logdir


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained):
    """An export of it. Tests must not write into it."""
    out = tmp_path_factory.mktemp("export")
    assert export.export(trained, out) == 2
    return out


# Writing.


def test_an_export_holds_the_weights_and_the_configuration(trained, exported, models):
    assert names(exported) == FILES
    assert config.load_run(exported) == config.load_run(trained)
    plain = model(0)
    plain.load_weights(exported / "model.weights.h5")  # Keras alone reads it.
    assert same(plain, models[2])
    assert same(cwvae.load(exported), models[2])


def test_an_export_holds_its_step(trained, exported, tmp_path, models):
    fresh = model(9)
    assert export.restore(exported, None, fresh) == 2
    assert same(fresh, models[2])
    export.export(trained, tmp_path, 1)
    assert export.restore(tmp_path, None, fresh) == 1
    models[2].save_weights(tmp_path / "model.weights.h5")  # As earlier versions wrote it.
    assert export.restore(tmp_path, None, fresh) is None
    assert same(fresh, models[2])


def test_an_export_holds_no_paths(models, tmp_path):
    paths = ["data_dir", "archives_dir", "digits_dir", "videos_dir", "train_list", "test_list"]
    settings = tiny.settings("training.init_from=/own", *(f"data.{name}=/own" for name in paths))
    config.save_run(settings, tmp_path / "run")
    checkpoints.save(tmp_path / "run", 1, models[1])
    export.export(tmp_path / "run", tmp_path / "out")
    assert "/own" in (tmp_path / "run" / "config.yml").read_text()
    for path in (tmp_path / "out").iterdir():
        assert b"/own" not in path.read_bytes()
    assert config.load_run(tmp_path / "out") == tiny.settings()


def test_an_export_is_evaluated(exported, monkeypatch):
    from cwvae.commands import evaluate as script
    from cwvae.evaluation import evaluator

    monkeypatch.setattr(
        evaluator, "evaluate", lambda config, model, step, train, test, folder, *_: (step, folder)
    )
    assert script.evaluate(config.load_run(exported), exported) == (2, exported)
    with pytest.raises(UserError, match="an export holds one step"):
        script.evaluate(config.load_run(exported), exported, 2)


@pytest.mark.slow
def test_an_export_of_a_run_on_own_videos_is_evaluated_with_their_folder(tmp_path, models):
    settings = tiny.settings("data.name=video_folder", "data.videos_dir=/own")
    config.save_run(settings, tmp_path / "run")
    checkpoints.save(tmp_path / "run", 1, models[1])
    export.export(tmp_path / "run", tmp_path / "out")
    assert same(cwvae.load(tmp_path / "out"), models[1])
    videos = tmp_path / "videos"
    for split in ("train", "test"):
        (videos / split).mkdir(parents=True)
        np.save(videos / split / "a.npy", tiny.Squares(20).clip(0))
    given = {"data.videos_dir": videos, "data.data_dir": tmp_path, "evaluation.num_videos": 1}
    with pytest.raises(UserError, match=r"data\.videos_dir"):
        cwvae.evaluate(tmp_path / "out", settings={"data.data_dir": tmp_path})
    results = cwvae.evaluate(tmp_path / "out", settings=given)
    assert (results["data"], results["num_videos"]) == ("video_folder", 1)


def test_a_model_card_that_is_there_is_replaced_only_on_request(trained, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md is there.*--overwrite"):
        export.export(trained, tmp_path)
    assert names(tmp_path) == ["README.md"]
    export.export(trained, tmp_path, overwrite=True)
    assert "# run" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_a_saved_model_predicts_without_this_package(trained, tmp_path, models):
    export.export(trained, tmp_path / "out", saved_model=(None, 70))
    assert names(tmp_path / "out") == [*FILES, "saved_model"]
    shape = (3, 5, 32, 32, 1)
    context = np.random.default_rng(0).random(shape).astype(np.float32)
    np.save(tmp_path / "context.npy", context)
    code = """
import numpy as np, sys, tensorflow as tf
context = np.load("context.npy", allow_pickle=False)
saved = tf.saved_model.load("out/saved_model")
for count in (3, 1):
    np.save(f"{count}.npy", saved.predict(context[:count], -7))
signature = saved.signatures["serving_default"]
(out,) = signature(context=tf.constant(context), seed=tf.constant(-7, tf.int64)).values()
np.save("served.npy", out)
assert "cwvae" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    want = models[2].predict(context, 70, -7)
    for name, count in (("3", 3), ("1", 1), ("served", 3)):
        got = np.load(tmp_path / f"{name}.npy", allow_pickle=False)
        np.testing.assert_allclose(got, want[:count], atol=1e-6)
    export.export(trained, tmp_path / "out", 1, overwrite=True)
    assert names(tmp_path / "out") == FILES  # The SavedModel was of other weights.


@pytest.mark.parametrize("name", ["svg", "vta"])
@pytest.mark.slow
def test_every_model_has_a_saved_model(tmp_path, name):
    import tensorflow as tf

    settings = tiny.settings(model=name)
    own = factory.build(settings, 0)
    config.save_run(settings, tmp_path / "run")
    checkpoints.save(tmp_path / "run", 1, own)
    export.export(tmp_path / "run", tmp_path / "out", saved_model=(6, 9))
    context = np.random.default_rng(0).random((4, 6, 32, 32, 1)).astype(np.float32)
    saved = tf.saved_model.load(tmp_path / "out" / "saved_model")
    got = saved.predict(context, 3)
    np.testing.assert_allclose(got, own.predict(context, 9, 3), atol=1e-6)


def test_a_step_can_be_chosen(trained, tmp_path, models):
    assert export.export(trained, tmp_path / "out", 1) == 1
    assert same(cwvae.load(tmp_path / "out"), models[1])
    with pytest.raises(UserError, match="an export holds one step"):
        cwvae.load(tmp_path / "out", step=1)


def test_an_export_is_overwritten_only_on_request(trained, tmp_path, models):
    export.export(trained, tmp_path, 1)
    (tmp_path / "NOTES").write_text("mine")
    with pytest.raises(UserError, match=r"there is an export already.*--overwrite"):
        export.export(trained, tmp_path, 2)
    assert same(cwvae.load(tmp_path), models[1])
    export.export(trained, tmp_path, 2, overwrite=True)
    assert same(cwvae.load(tmp_path), models[2])
    assert (tmp_path / "NOTES").read_text() == "mine"
    assert "2 updates" in (tmp_path / "README.md").read_text()
    assert names(tmp_path) == ["NOTES", *FILES]


def test_a_run_is_never_overwritten(trained, tmp_path, exported):
    shutil.copy(trained / "config.yml", tmp_path / "config.yml")
    for out in (trained, tmp_path):
        with pytest.raises(UserError, match="there is a run"):
            export.export(trained, out, overwrite=True)
    both = shutil.copytree(trained, tmp_path / "both")
    shutil.copy(exported / "model.weights.h5", both)
    with pytest.raises(UserError, match="there is a run"):
        export.export(trained, both, overwrite=True)


def test_new_weights_never_stand_next_to_an_old_configuration(trained, tmp_path, monkeypatch):
    export.export(trained, tmp_path, 1)
    replace = os.replace

    def fail_at_the_second(source, target):
        if pathlib.Path(target) == tmp_path / "config.yml":
            raise OSError(5, "Input/output error", str(source), None, str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(OSError, match="Input/output error") as caught:
        export.export(trained, tmp_path, 2, overwrite=True)
    assert caught.value.filename == str(tmp_path / "config.yml")
    assert names(tmp_path) == ["README.md", "model.weights.h5"]
    monkeypatch.undo()
    export.export(trained, tmp_path, 2, overwrite=True)
    assert export.is_export(tmp_path)


def test_the_leftovers_of_a_killed_export_are_removed_by_the_next(trained, tmp_path):
    (tmp_path / ".export.tmp").mkdir()
    (tmp_path / ".export.tmp" / "model.weights.h5").write_bytes(b"half")
    export.export(trained, tmp_path)
    assert names(tmp_path) == FILES


def test_an_export_that_was_killed_between_its_two_files_is_repeated(trained, tmp_path):
    export.export(trained, tmp_path, 1)
    (tmp_path / ".export.tmp").mkdir()
    (tmp_path / "config.yml").rename(tmp_path / ".export.tmp" / "config.yml")
    assert export.export(trained, tmp_path, 2) == 2
    assert names(tmp_path) == FILES
    with pytest.raises(UserError, match="there is an export already"):
        export.export(trained, tmp_path, 2)


def test_an_export_stays_if_replacing_it_was_interrupted(trained, tmp_path):
    export.export(trained, tmp_path, 1)
    (tmp_path / ".export.tmp").mkdir()  # A killed --overwrite had replaced neither file yet.
    with pytest.raises(UserError, match="there is an export already"):
        export.export(trained, tmp_path, 2)
    assert export.restore(tmp_path, None, model(9)) == 1


def test_a_second_export_into_the_same_folder_is_refused(trained, tmp_path, monkeypatch):
    write = export._write

    def write_twice(*arguments):
        with pytest.raises(UserError, match=r"is exporting into .*out\. Wait until it ends"):
            export.export(trained, tmp_path / "out", 1)
        write(*arguments)

    monkeypatch.setattr(export, "_write", write_twice)
    assert export.export(trained, tmp_path / "out") == 2
    assert export.restore(tmp_path / "out", None, model(9)) == 2


def test_a_full_disk_leaves_nothing(trained, small_disk, fill):
    fill(small_disk / "filler", leave=100_000)
    with pytest.raises(UserError, match=r"no room for \d\.\d MB of weights \(No space left"):
        export.export(trained, small_disk / "out")
    assert list((small_disk / "out").iterdir()) == []


# Command line.


def command(*arguments, env=None):
    words = [sys.executable, "-m", "cwvae.export", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """An environment in which importing TensorFlow ends the program."""
    folder = tmp_path_factory.mktemp("no_tensorflow")
    for name in ("tensorflow", "keras", "h5py"):
        (folder / f"{name}.py").write_text("raise SystemExit('TensorFlow was started')\n")
    return os.environ | {"PYTHONPATH": str(folder)}


def test_the_command_line(trained, tmp_path, models):
    done = command("--logdir", trained, "--step", 1, "--out", tmp_path / "new" / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "Starting TensorFlow ...\n"
    assert f"Exported step 1. To load it in Python: cwvae.load('{tmp_path}/new/out')" in done.stdout
    assert same(cwvae.load(tmp_path / "new" / "out"), models[1])


def test_mistakes_are_refused_before_tensorflow_starts(trained, exported, tmp_path, no_tensorflow):
    (tmp_path / "file").write_text("")
    out = ("--out", tmp_path / "out")
    for arguments, message in [
        (("--logdir", tmp_path / "none", *out), "no run here"),
        (("--logdir", trained, "--step", 3, *out), "no checkpoint of step 3; there are 1, 2"),
        (("--logdir", trained, "--out", exported), "there is an export already"),
        (("--logdir", trained, "--out", trained), "there is a run"),
        (("--logdir", trained, "--out", tmp_path / "file" / "out"), "cannot write there"),
        (("--logdir", trained, *out, "--license", "Open Source"), "--license Open Source: write"),
        (("--logdir", trained, *out, "--saved-model", "--horizon", 0), "--horizon 0: give at"),
    ]:
        done = command(*arguments, env=no_tensorflow)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
    assert not (tmp_path / "out").exists()


# Reading.


@pytest.fixture
def sources(trained, exported):
    """Sources of weights, by kind."""
    return {
        "run": trained,
        "export": exported,
        "file": exported / "model.weights.h5",
        "checkpoint": checkpoints.find(trained),
    }


KINDS = ["run", "export", "file", "checkpoint"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_loaded_from(sources, kind, models):
    fresh = model(9)
    assert not same(fresh, models[2])
    export.load_weights(fresh, str(sources[kind]))
    assert same(fresh, models[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=6", r"has the shape \[.*7.*\] and should have \[.*6.*\]"),
        ("model.levels=3", r"is missing and should have the shape \["),
        ("model.levels=1", r"it holds \S+ \[\d.*\], which the model lacks"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(sources, kind, override, message):
    other, untouched = model(9, override), model(9, override)
    with pytest.raises(UserError, match=f"does not fit the model: .*{message}"):
        export.load_weights(other, sources[kind])
    assert same(other, untouched)


def test_the_newest_whole_checkpoint_of_a_run_is_used(trained, tmp_path, models, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    checkpoints.find(run).write_bytes(b"")
    fresh = model(9)
    export.load_weights(fresh, run)
    assert same(fresh, models[1])
    assert "Step 1 is used" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(trained, tmp_path):
    path = tmp_path / "some.npz"
    path.write_bytes(checkpoints.find(trained).read_bytes()[:-1])
    with pytest.raises(checkpoints.DamagedCheckpoint):
        export.load_weights(model(9), path)


@pytest.mark.parametrize("name", ["none", "none.npz", "none.weights.h5", "", "text.yml", "text.h5"])
def test_other_files_are_refused_with_the_list_of_sources(tmp_path, name):
    for text in ("text.yml", "text.h5"):
        (tmp_path / text).write_text("")
    with pytest.raises(UserError, match=r"no weights there\. Give the folder of a run") as caught:
        export.source_kind(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


# Weights that fit, but were trained with other settings.


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (["model.factor=[2, 8]"], ["model.factor=[2, 8]"], []),
        (["model.factor=[4, 4]"], ["model.factor=4"], []),
        (
            ["model.factor=[4, 8]"],
            ["model.factor=6", "training.learning_rate=0.5"],
            [
                "model.factor: (4, 8) -> 6 (the levels ticked every 1, 4, 32 frames, and now every"
                " 1, 6, 36: what the slower levels learned belongs to other time scales)"
            ],
        ),
        (
            [],
            ["model.beta=2.0", "model.min_stddev=0.3", "model.mean_only=false"],
            ["model.beta: 1.0 -> 2.0", "model.min_stddev: ", "model.mean_only: "],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["run", "checkpoint", "export", "file"])
def test_settings_that_change_the_meaning_of_weights_are_told(tmp_path, old, new, lines, kind):
    three = ["model.levels=3", "model.mean_only=true"]
    settings = tiny.settings(*three, *old)
    if kind in ("run", "checkpoint"):
        meta = {"config": config.as_plain(settings)}
        source = checkpoints.save(tmp_path, 1, plain.Model(), meta=meta)
        source = tmp_path if kind == "run" else source
    else:
        config.save_run(settings, tmp_path)
        source = tmp_path / "model.weights.h5"
        source.touch()
        source = tmp_path if kind == "export" else source
    told = export.check_source(source, tiny.settings(*three, *new))
    assert len(told) == len(lines)
    for expected, line in zip(sorted(lines), sorted(told), strict=True):
        assert line.startswith(expected)


# Damaged and hostile HDF5 files.


def refused(path, message="not a whole file of Keras' weights"):
    fresh, untouched = model(9), model(9)
    with pytest.raises(UserError, match=message) as caught:
        export.load_weights(fresh, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert same(fresh, untouched)


@pytest.mark.parametrize("length", [0, 1, 100, 1000, 0.5, 0.99])
def test_a_file_cut_short_gives_one_message(exported, tmp_path, length):
    data = (exported / "model.weights.h5").read_bytes()
    path = tmp_path / "x.weights.h5"
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    refused(path)


def test_text_gives_one_message(tmp_path):
    path = tmp_path / "x.weights.h5"
    path.write_text("hello\n" * 1000)
    refused(path)


@pytest.fixture
def hostile(exported, tmp_path):
    """A copy of the weights, and the name and shape of an array removed from it."""
    path = shutil.copy(exported / "model.weights.h5", tmp_path / "x.weights.h5")
    with h5py.File(path, "a") as file:
        name = "decoder/layers/dense/vars/1"
        shape = file[name].shape
        del file[name]
    return path, name, shape


def test_pickles_as_text_are_not_read(hostile):
    path, name, shape = hostile
    with h5py.File(path, "a") as file:
        texts = file.create_dataset(name, shape, h5py.string_dtype())
        texts[...] = "cos\nsystem\n(S'true'\ntR."
    refused(path, f"{name} does not hold float32")


def test_raw_bytes_are_not_read(hostile):
    path, name, shape = hostile
    with h5py.File(path, "a") as file:
        file.create_dataset(name, shape, np.dtype("V8"))
    refused(path, f"{name} does not hold float32")


def test_other_files_are_not_read(hostile, tmp_path):
    path, name, shape = hostile
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4 * int(np.prod(shape))))
    with h5py.File(path, "a") as file:
        file.create_dataset(name, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    refused(path, f"{name} does not hold float32 numbers itself")


def test_links_are_not_followed(hostile, exported):
    path, name, _ = hostile
    for link in (
        h5py.ExternalLink(str(exported / "model.weights.h5"), name),
        h5py.SoftLink("/decoder/layers/dense/vars/0"),
    ):
        with h5py.File(path, "a") as file:
            file[name] = link
        refused(path, f"{name} is missing")
        with h5py.File(path, "a") as file:
            del file[name]


def test_virtual_arrays_are_not_read(hostile, exported):
    path, name, shape = hostile
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource(str(exported / "model.weights.h5"), name, shape)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset(name, layout)
    refused(path, f"{name} does not hold float32 numbers itself")


def test_a_huge_array_is_refused_unread(hostile):
    path, name, _ = hostile
    with h5py.File(path, "a") as file:
        file.create_dataset(name, (10**12,), "f4", chunks=(10**6,), compression="gzip")
    refused(path, r"has the shape \[1000000000000\]")


def test_a_flipped_bit_anywhere_in_an_export_is_detected(exported, tmp_path):
    data = (exported / "model.weights.h5").read_bytes()
    path = tmp_path / "x.weights.h5"
    for place in [0, *np.random.default_rng(0).integers(0, len(data) - 71, 6), len(data) - 1]:
        broken = bytearray(data)
        broken[place] ^= 1 << int(place) % 8
        path.write_bytes(broken)
        refused(path)


def test_files_that_keras_wrote_without_a_checksum_are_accepted(tmp_path, models):
    path = tmp_path / "x.weights.h5"
    models[1].save_weights(path)
    fresh = model(9)
    export.load_weights(fresh, path)
    assert same(fresh, models[1])
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"TREE")] ^= 1  # A node of the structure: HDF5 detects this.
    path.write_bytes(broken)
    refused(path)


def test_a_file_that_breaks_halfway_changes_nothing(exported, monkeypatch):
    fresh, untouched = model(9), model(9)

    def break_halfway(path):
        fresh.weights[0].assign(np.zeros(fresh.weights[0].shape))
        raise ValueError("A total of 1 objects could not be loaded.\nMore lines.")

    monkeypatch.setattr(fresh, "load_weights", break_halfway)
    with pytest.raises(UserError, match=r"\(A total of 1 objects could not be loaded\.\)"):
        export.load_weights(fresh, exported)
    assert same(fresh, untouched)
