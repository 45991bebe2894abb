"""Tests of a run's folder: which data and settings a run can be resumed with."""

import gzip
import json
import shlex
import struct

import numpy as np
import pytest
from helpers import plain, tiny

import data_loaders
from cwvae import config as configuration
from cwvae.errors import UserError
from cwvae.run import checkpoints, folder, restore_config


@pytest.fixture
def digits_dirs(tmp_path):
    """Folders of digits: the first, a packed copy of it elsewhere, other images, other labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8)
    contents = {
        "first": (images, labels),
        "moved": (images, labels),
        "other images": (images[::-1], labels),
        "other labels": (images, labels[::-1]),
    }
    for name, arrays in contents.items():
        (tmp_path / name).mkdir()
        for prefix in ("train", "t10k"):
            for kind, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                data, path = header + array.tobytes(), tmp_path / name / f"{prefix}-{kind}-ubyte"
                if name == "moved":
                    data, path = gzip.compress(data), path.with_name(f"{path.name}.gz")
                path.write_bytes(data)
    return {name: str(tmp_path / name) for name in contents}


def settings(digits_dir):
    return tiny.settings(f"data.digits_dir={json.dumps(digits_dir)}")


def begin(logdir, config):
    """Makes the folder of a run, or resumes it."""
    logdir.mkdir(exist_ok=True)
    folder.check(config, logdir)
    folder.prepare(config, logdir, data_loaders.load(split="train", **config.data_options()))
    folder.save_config(config, logdir)
    (logdir / "checkpoints").mkdir(exist_ok=True)
    (logdir / "checkpoints" / "step_000000001.npz").touch()


def test_a_run_resumes_with_the_same_digits_from_another_folder(digits_dirs, tmp_path):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs["first"]))
    begin(logdir, settings(digits_dirs["moved"]))
    assert configuration.load(logdir / "config.yml").data.digits_dir == digits_dirs["moved"]


@pytest.mark.parametrize("other", ["other images", "other labels", None])
@pytest.mark.parametrize("first", ["first", None])
def test_a_run_refuses_to_resume_with_other_digits(digits_dirs, tmp_path, first, other):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs.get(first)))
    if first == other:
        begin(logdir, settings(digits_dirs.get(other)))
        return
    with pytest.raises(UserError, match="training digit images or their labels are not") as caught:
        begin(logdir, settings(digits_dirs.get(other)))
    assert f"--init-from {logdir}" in str(caught.value)
    begin(logdir, settings(digits_dirs.get(first)))


def test_a_run_refuses_digits_that_were_replaced_in_their_folder(digits_dirs, tmp_path):
    logdir, path = tmp_path / "run", f"{digits_dirs['first']}/train-labels-idx1-ubyte"
    begin(logdir, settings(digits_dirs["first"]))
    with open(path, "r+b") as file:
        file.seek(10)
        file.write(b"\7")
    with pytest.raises(UserError, match="digit images or their labels"):
        begin(logdir, settings(digits_dirs["first"]))


@pytest.mark.parametrize(("first", "other"), [("first", "moved"), ("first", None), (None, "first")])
def test_a_run_without_data_json_refuses_another_folder_of_digits(
    digits_dirs, tmp_path, first, other
):
    logdir = tmp_path / "run"
    begin(logdir, settings(digits_dirs.get(first)))
    (logdir / "data.json").unlink()  # Earlier versions wrote none for generated data.
    with pytest.raises(UserError, match=r"data\.digits_dir: .* -> "):
        begin(logdir, settings(digits_dirs.get(other)))
    begin(logdir, settings(digits_dirs.get(first)))
    assert (logdir / "data.json").is_file()


def test_changed_frozen_settings_are_refused(tmp_path):
    logdir = tmp_path / "run"
    begin(logdir, tiny.settings())
    with pytest.raises(UserError, match=r"data\.num_digits: 2 -> 3"):
        begin(logdir, tiny.settings("data.num_digits=3"))
    begin(logdir, tiny.settings("data.test_length=50"))


def test_a_refused_change_of_the_training_prints_a_command_that_works(tmp_path):
    logdir = tmp_path / "my run"
    begin(logdir, tiny.settings())
    changes = "training.adam_epsilon=0.5", "training.precision=bfloat16", "training.steps=9"
    with pytest.raises(UserError) as caught:
        begin(logdir, tiny.settings(*changes))
    words = shlex.split(str(caught.value).splitlines()[-1].partition(": ")[2])
    assert words[:4] == ["python", "train.py", "--config", f"{logdir}/config.yml"]
    assert words[4:8] == ["--init-from", str(logdir), "--logdir", f"{logdir}_2"]
    assert words[8::2] == ["--set", "--set"]
    assert sorted(words[9::2]) == sorted(changes[:2])
    begin(tmp_path / "my run_2", configuration.load(words[3], words[9::2]))
    for other in ("model.factor=2", "data.num_digits=3", "training.init_from=another_run"):
        with pytest.raises(UserError) as caught:
            begin(logdir, tiny.settings(*changes, other))
        assert "--init-from" not in str(caught.value)


def test_settings_that_are_probably_not_wanted_are_warned_of(capsys):
    for overrides, count in ((), 0), (("training.seq_len=3", "training.video_length=30"), 2):
        config = tiny.settings(*overrides)
        data = [data_loaders.load(split=s, **config.data_options()) for s in ("train", "test")]
        folder.check_lengths(config, *data)
        assert capsys.readouterr().err.count("warning: ") == count


# A config.yml that was edited or lost. The checkpoints know the settings.


@pytest.fixture
def trained(tmp_path):
    """A run with two checkpoints, of which only the settings matter."""
    logdir, config = tmp_path / "run", tiny.settings()
    begin(logdir, config)
    for step in (1, 2):
        save(logdir, step, config)
    return logdir


def save(logdir, step, config):
    meta = {"config": configuration.as_plain(config)}
    return checkpoints.save(logdir, step, plain.Model(), keep=9, meta=meta)


def edit(logdir, old, new):
    path = logdir / "config.yml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


EDITS = [
    ("adam_epsilon: 0.0001\n", "adam_epsilon: 0.5\n", "training.adam_epsilon: 0.0001 -> 0.5"),
    ("beta: 1.0\n", "beta: 2.0\n", "model.beta: 1.0 -> 2.0"),
    ("num_digits: 2\n", "num_digits: 3\n", "data.num_digits: 2 -> 3"),
]


@pytest.mark.parametrize(("old", "new", "line"), EDITS)
def test_a_run_whose_config_was_edited_is_neither_resumed_nor_read(trained, old, new, line):
    assert folder.load_config(trained) == tiny.settings()
    edit(trained, old, new)
    edited = configuration.load(trained / "config.yml")
    for read in (lambda: folder.check(edited, trained), lambda: folder.load_config(trained)):
        with pytest.raises(UserError, match=r"config\.yml was edited") as caught:
            read()
        assert str(caught.value).splitlines()[1].strip() == line
        assert f"python -m cwvae.run.restore_config {trained}" in str(caught.value)
        assert f"--init-from {trained}" in str(caught.value)


def test_settings_that_may_change_may_be_edited(trained):
    edit(trained, "steps: 6\n", "steps: 60\n")
    edit(trained, "horizon: 9\n", "horizon: 8\n")
    folder.check(configuration.load(trained / "config.yml"), trained)
    assert folder.load_config(trained).evaluation.horizon == 8


def test_the_weights_keep_the_learning_rate_that_they_were_trained_with(trained):
    edit(trained, "learning_rate: 0.01\n", "learning_rate: 0.5\n")
    folder.check(configuration.load(trained / "config.yml"), trained)  # It may resume with that.
    assert folder.load_config(trained) == tiny.settings()


def test_paths_of_data_may_be_edited_because_data_json_identifies_the_data(trained):
    edit(trained, "videos_dir:\n", "videos_dir: /moved\n")
    folder.check(configuration.load(trained / "config.yml"), trained)
    assert folder.load_config(trained).data.videos_dir == "/moved"


@pytest.mark.parametrize("content", [None, b"", b" \n"])
def test_a_lost_config_does_not_mean_defaults(trained, content):
    path = trained / "config.yml"
    path.unlink() if content is None else path.write_bytes(content)
    for read in (folder.config_path, folder.load_config):
        with pytest.raises(UserError, match=r"restore_config") as caught:
            read(trained)
        assert str(caught.value).startswith(
            f"{path} is {'missing' if content is None else 'empty'}"
        )
    # The right settings bring it back, other ones do not.
    with pytest.raises(UserError, match=r"model\.beta: 1\.0 -> 3\.0"):
        folder.check(tiny.settings("model.beta=3.0"), trained)
    begin(trained, tiny.settings())
    assert folder.load_config(trained) == tiny.settings()


def test_a_lost_config_without_a_copy_in_a_checkpoint(tmp_path):
    begin(tmp_path / "run", tiny.settings())  # Its checkpoint is empty.
    (tmp_path / "run" / "config.yml").unlink()
    with pytest.raises(UserError, match=r"python train\.py --config FILE --logdir"):
        folder.config_path(tmp_path / "run")


def test_restoring_a_config_keeps_the_edited_one(trained):
    before = (trained / "config.yml").read_bytes()
    edit(trained, *EDITS[0][:2])
    edited = (trained / "config.yml").read_bytes()
    assert restore_config.restore(trained) == tiny.settings()
    assert (trained / "config.yml").read_bytes() == before
    assert (trained / "config.yml.edited").read_bytes() == edited
    (trained / "config.yml").unlink()
    restore_config.restore(trained)
    assert (trained / "config.yml").read_bytes() == before


def test_the_newest_checkpoint_that_can_be_read_counts(trained):
    path = save(trained, 3, tiny.settings("training.steps=7"))
    assert folder.trained_with(trained).training.steps == 7
    path.write_bytes(path.read_bytes()[:50])
    assert folder.trained_with(trained) == tiny.settings()


@pytest.mark.parametrize("model", ["cwvae", "svg", "vta"])
def test_settings_survive_the_way_through_a_checkpoint(tmp_path, model):
    config = tiny.settings(
        "training.adam_epsilon=1e-08",
        "training.keep_every=3",
        "data.speed=[0.5, 1.25]",
        "data.name=video_folder",
        """data.videos_dir=/tmp/it's: a "folder" # \N{CLAPPER BOARD}""",
        model=model,
    )
    save(tmp_path, 1, config)
    assert folder.trained_with(tmp_path) == config


def test_settings_of_other_versions(tmp_path):
    settings = configuration.as_plain(tiny.settings())
    settings["data"]["store"] = True  # It no longer exists.
    del settings["training"]["keep_every"]  # It is new.
    assert folder.from_plain(settings) == tiny.settings()
    settings["model"]["levels"] = "many"
    assert folder.from_plain(settings) is None


# A run that lost its checkpoints, and data.json.


def test_a_run_whose_checkpoints_are_gone_does_not_start_again(trained):
    for path in checkpoints.steps(trained).values():
        path.unlink()
    ways = rf"Copy them back to {trained}/checkpoints; or .* --logdir, or delete {trained}"
    for look in (lambda: folder.check(tiny.settings(), trained), lambda: checkpoints.find(trained)):
        with pytest.raises(UserError, match=f"checkpoints of this run are gone.*{ways}"):
            look()


def test_a_run_that_had_no_checkpoint_yet_starts_again(tmp_path):
    begin(tmp_path, tiny.settings())
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    checkpoints.steps(tmp_path)[1].unlink()
    folder.check(tiny.settings(), tmp_path)


def test_a_start_rewrites_nothing_that_is_the_same(trained):
    paths = [trained / "config.yml", trained / "data.json"]
    before = [path.stat().st_mtime_ns for path in paths]
    begin(trained, tiny.settings())
    assert [path.stat().st_mtime_ns for path in paths] == before
    begin(trained, tiny.settings("training.steps=9"))
    assert configuration.load(trained / "config.yml").training.steps == 9


@pytest.mark.parametrize("content", [b"", b'{"a', b"\xff"])
def test_a_damaged_data_json_gives_one_sentence(trained, content):
    (trained / "data.json").write_bytes(content)
    with pytest.raises(UserError, match=r"data\.json: empty or damaged.*or delete it"):
        begin(trained, tiny.settings())
    assert (trained / "data.json").read_bytes() == content
    (trained / "data.json").unlink()
    begin(trained, tiny.settings())


def test_an_evaluation_on_other_data_warns(digits_dirs, tmp_path, capsys):
    logdir, config = tmp_path / "run", settings(digits_dirs["first"])
    begin(logdir, config)
    for name, count in (("first", 0), ("moved", 0), ("other labels", 1)):
        options = settings(digits_dirs[name]).data_options()
        folder.warn_of_other_data(logdir, data_loaders.load(split="train", **options))
        warning = f"digit images or their labels are not those that {logdir} was trained on"
        assert capsys.readouterr().err.count(warning) == count
    (logdir / "data.json").unlink()
    folder.warn_of_other_data(logdir, data_loaders.load(split="train", **options))
    assert capsys.readouterr().err == ""


# The precision: `auto` in a configuration agrees with what a run was trained in.


@pytest.fixture(params=["float32", "bfloat16"])
def rounded(request, tmp_path):
    """A run that was trained in one precision, and that precision."""
    logdir, config = tmp_path / "run", tiny.settings(f"training.precision={request.param}")
    begin(logdir, config)
    save(logdir, 1, config)
    return logdir, request.param


def test_auto_keeps_the_precision_that_a_run_was_trained_in(rounded):
    logdir, precision = rounded
    auto = tiny.settings("training.precision=auto")
    assert folder.keep_precision(auto, logdir.parent / "new") == auto
    kept = folder.keep_precision(auto, logdir)
    assert kept == tiny.settings(f"training.precision={precision}")
    folder.check(auto, logdir)
    folder.check(auto, logdir, throughout=True)
    edit(logdir, f"precision: {precision}\n", "precision: auto\n")
    folder.check(auto, logdir)
    assert folder.load_config(logdir) == kept
    other = {"float32": "bfloat16", "bfloat16": "float32"}[precision]
    wrong = tiny.settings(f"training.precision={other}")
    with pytest.raises(UserError, match=rf"training\.precision: {precision} -> {other}"):
        folder.check(wrong, logdir)
    edit(logdir, "precision: auto\n", f"precision: {other}\n")
    with pytest.raises(UserError, match=rf"training\.precision: {precision} -> {other}"):
        folder.load_config(logdir)


def test_without_a_checkpoints_settings_the_precision_is_that_of_the_file(tmp_path):
    logdir = tmp_path / "run"
    begin(logdir, tiny.settings("training.precision=bfloat16"))
    auto = tiny.settings("training.precision=auto")
    assert folder.keep_precision(auto, logdir).training.precision == "bfloat16"


def test_settings_of_a_checkpoint_without_a_precision_mean_float32(trained):
    plain_settings = configuration.as_plain(tiny.settings())
    del plain_settings["training"]["precision"]
    assert folder.from_plain(plain_settings) == tiny.settings()
    meta = {"config": plain_settings}
    checkpoints.save(trained, 3, plain.Model(), keep=9, meta=meta)
    edit(trained, "  precision: float32\n", "")
    assert configuration.load(trained / "config.yml") == tiny.settings()
    assert folder.load_config(trained) == tiny.settings()
    folder.check(tiny.settings("training.precision=auto"), trained)
    with pytest.raises(UserError, match=r"training\.precision: float32 -> bfloat16"):
        folder.check(tiny.settings("training.precision=bfloat16"), trained)
