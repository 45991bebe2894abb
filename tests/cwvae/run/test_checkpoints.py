import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile

import numpy as np
import pytest
from helpers import plain, tiny

import cwvae
from cwvae import config, factory
from cwvae.errors import UserError
from cwvae.run import checkpoints

ROOT = pathlib.Path(__file__).parents[3]


def save(logdir, step, number=None, **options):
    """Saves a plain model and optimizer whose variables all hold a number, the step by default."""
    number = step if number is None else number
    model = plain.Model(number)
    return checkpoints.save(logdir, step, model, plain.Optimizer(model, number), **options)


def restored(path):
    """Returns the number that a checkpoint's variables hold, and its meta."""
    model = plain.Model(-1)
    optimizer = plain.Optimizer(model, -1)
    meta = checkpoints.restore(path, model, optimizer)
    return plain.values(model, optimizer), meta


def names(logdir):
    return sorted(path.name for path in (logdir / "checkpoints").iterdir())


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def seal(path):
    """Appends a valid checksum to an archive with any content."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"sha256:" + b"?" * 64
    content = path.read_bytes()[:-71]
    path.write_bytes(content + b"sha256:" + hashlib.sha256(content).hexdigest().encode())


# The content of a file.


def test_a_checkpoint_restores_weights_optimizer_and_meta(tmp_path):
    path = save(tmp_path, 41, 7, meta={"config": {"model": {"levels": 3}}, "log": [1, {"a": 2}]})
    assert path == checkpoints.find(tmp_path)
    number, meta = restored(path)
    assert (number, meta["step"]) == (7, 41)
    assert meta["config"] == {"model": {"levels": 3}}
    assert meta["log"] == [1, {"a": 2}]
    assert meta["versions"]["numpy"] == np.__version__
    assert {"python", "tensorflow", "keras"} <= set(meta["versions"])


def test_the_weights_of_a_real_model_are_restored(tmp_path):
    settings = tiny.settings()
    saved, other = factory.build(settings, 0), factory.build(settings, 1)
    optimizers = [
        types.SimpleNamespace(state={w.path: plain.Variable("", w.numpy() + 1) for w in m.weights})
        for m in (saved, other)
    ]
    path = checkpoints.save(tmp_path, 3, saved, optimizers[0])
    assert any(not np.array_equal(a, b) for a, b in zip(saved.weights, other.weights, strict=True))
    assert checkpoints.restore(path, other, optimizers[1])["step"] == 3
    for one, two in zip(saved.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one.numpy() + 1, optimizers[1].state[two.path].numpy())


@pytest.mark.parametrize("limit", [None, 1000])
def test_numpy_reads_the_file_and_its_end_is_a_checksum(tmp_path, monkeypatch, limit):
    if limit is not None:  # As if 1000 bytes were more than 4 GiB.
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = save(tmp_path, 4, meta={"config": {"model": {"name": "cwvae"}}})
    data = path.read_bytes()
    assert (b"PK\x06\x06" in data) == (limit is not None)  # the end record of large archives
    assert data[-71:] == b"sha256:" + hashlib.sha256(data[:-71]).hexdigest().encode()
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == data[-71:]
        assert archive.testzip() is None
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["model/net/kernel"].shape == (3, 5)
        assert arrays["optimizer/iterations"] == 4
        assert json.loads(str(arrays["meta"]))["config"] == {"model": {"name": "cwvae"}}
        assert len(arrays) == 1 + 4 + 5
    assert restored(path)[0] == 4


# Checkpoints that are kept.


@pytest.mark.parametrize(
    ("keep", "keep_every", "kept"),
    [
        (1, None, [100]),
        (2, None, [12, 100]),
        (9, None, [5, 9, 10, 12, 100]),
        (1, 5, [5, 10, 100]),
        (2, 3, [9, 12, 100]),
    ],
)
def test_the_newest_and_the_multiples_of_keep_every_are_kept(tmp_path, keep, keep_every, kept):
    for step in (5, 9, 10, 12, 100):
        save(tmp_path, step, keep=keep, keep_every=keep_every)
    assert list(checkpoints.steps(tmp_path)) == kept
    assert names(tmp_path) == [f"step_{step:09d}.npz" for step in kept]
    for step, path in checkpoints.steps(tmp_path).items():
        assert restored(path)[0] == step


def test_a_checkpoint_never_removes_itself(tmp_path):
    for step in (20, 30, 10):
        save(tmp_path, step)
    assert list(checkpoints.steps(tmp_path)) == [10, 30]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, 1)
    assert restored(save(tmp_path, 3, 2))[0] == 2
    assert names(tmp_path) == ["step_000000003.npz"]


def test_the_newest_is_found(tmp_path):
    for step in (5, 100, 1000000000):
        path = save(tmp_path, step, keep=9)
    assert checkpoints.find(tmp_path) == path
    assert checkpoints.find(tmp_path, 100).name == "step_000000100.npz"


def test_a_missing_step_lists_the_existing_ones(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(UserError, match="no checkpoint of step 4; there are 3"):
        checkpoints.find(tmp_path, 4)


@pytest.mark.parametrize(
    "look", [checkpoints.find, lambda logdir: checkpoints.restore_newest(logdir, plain.Model())]
)
def test_no_checkpoint_says_how_to_make_one(tmp_path, look):
    with pytest.raises(UserError, match=r"no checkpoint yet.*python train\.py --logdir"):
        look(tmp_path)


# Checkpoints that do not fit.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden_size=6", r"prior_input/kernel has the shape \[14, 7\].*\[14, 6\]"),
        ("model.levels=3", r"is missing and should have the shape \["),
        ("model.levels=1", "which the model lacks"),
    ],
)
def test_a_checkpoint_of_another_model_changes_nothing(tmp_path, override, message):
    path = checkpoints.save(tmp_path, 1, factory.build(tiny.settings(), 0))
    other = factory.build(tiny.settings(override), 0)
    before = [weight.numpy() for weight in other.weights]
    with pytest.raises(UserError, match=message):
        checkpoints.restore(path, other)
    for old, weight in zip(before, other.weights, strict=True):
        np.testing.assert_array_equal(old, weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("iterations"), "it holds optimizer/iterations"),
        (
            lambda state: state.update(extra=plain.Variable("", np.zeros(2))),
            r"optimizer/extra is missing and should have the shape \[2\]",
        ),
        (
            lambda state: state.update(iterations=plain.Variable("", np.zeros(2))),
            r"optimizer/iterations has the shape \[\] and should have \[2\]",
        ),
    ],
)
def test_a_checkpoint_of_another_optimizer_changes_nothing(tmp_path, change, message):
    path = save(tmp_path, 3)
    model = plain.Model(-1)
    optimizer = plain.Optimizer(model)
    change(optimizer.state)
    with pytest.raises(UserError, match=message):
        checkpoints.restore(path, model, optimizer)
    assert plain.values(model) == -1
    checkpoints.restore(path, model)  # Without the optimizer's part it fits.
    assert plain.values(model) == 3


# Damage.


def refused(path):
    """Checks that a file counts as damaged and nothing is set, and returns the message."""
    model = plain.Model(-1)
    optimizer = plain.Optimizer(model, -1)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="this checkpoint is damaged") as caught:
        checkpoints.restore(path, model, optimizer)
    assert plain.values(model, optimizer) == -1
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_file_cut_short_anywhere_is_damaged(tmp_path):
    path = save(tmp_path, 3)
    data = path.read_bytes()
    for length in [*range(0, len(data), 7), *range(len(data) - 80, len(data))]:
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)
    path.write_bytes(data)
    assert restored(path)[0] == 3


def test_a_flipped_bit_anywhere_is_damage(tmp_path):
    path = save(tmp_path, 3)
    data = path.read_bytes()
    chosen = random.Random(0)
    places = {*range(80), *range(len(data) - 80, len(data)), *chosen.sample(range(len(data)), 50)}
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        refused(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "does not end in a checksum"),
        (b"sha256:" + hashlib.sha256(b"").hexdigest().encode(), "not a checkpoint's content"),
    ],
)
def test_files_that_are_not_checkpoints(tmp_path, content, reason):
    path = save(tmp_path, 3)
    path.write_bytes(content)
    assert reason in refused(path)


def test_a_file_without_a_checksum_is_damaged(tmp_path):
    path = save(tmp_path, 3)
    np.savez(path, **checkpoints.read(path)[0])
    assert "does not end in a checksum" in refused(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"meta": np.array('{"step": 3}'), "model/net/bias": np.array([{"a": 1}], object)},
        {"meta": np.array([{"step": 3}], object)},
        {"meta": np.array("no JSON")},
        {"meta": np.array("[3]")},
        {"meta": np.array("{}")},
        {"model/net/bias": np.zeros(5)},
    ],
)
def test_an_archive_of_something_else_is_damaged_and_nothing_is_unpickled(tmp_path, arrays):
    path = save(tmp_path, 3)
    np.savez(path, **arrays)
    seal(path)
    assert "not a checkpoint's content" in refused(path)


def test_a_name_of_another_step_is_damage(tmp_path, capsys):
    save(tmp_path, 1)
    path = save(tmp_path, 2, keep=9)
    path.rename(tmp_path / "checkpoints" / "step_000000003.npz")
    assert not checkpoints.is_whole(checkpoints.find(tmp_path))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"000003\.npz.*it holds step 2"):
        checkpoints.read(checkpoints.find(tmp_path))
    assert checkpoints.read_newest(tmp_path)[2]["step"] == 1
    assert "step_000000003.npz.damaged" in capsys.readouterr().err
    checkpoints.read(shutil.copy(checkpoints.find(tmp_path), tmp_path / "any name.npz"))


def test_an_unreadable_file_does_not_count_as_damaged(tmp_path, monkeypatch):
    path = save(tmp_path, 3)

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError):
        checkpoints.restore_newest(tmp_path, plain.Model())
    assert path.exists()


# The newest whole one.


def test_the_newest_whole_checkpoint_is_used_and_damaged_ones_are_set_aside(tmp_path, capsys):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=9)
    found = checkpoints.steps(tmp_path)
    flip(found[3])
    found[4].write_bytes(b"")
    contents = {step: found[step].read_bytes() for step in (3, 4)}
    model = plain.Model(-1)
    optimizer = plain.Optimizer(model, -1)
    meta = checkpoints.restore_newest(tmp_path, model, optimizer)
    assert (plain.values(model, optimizer), meta["step"]) == (2, 2)
    assert list(checkpoints.steps(tmp_path)) == [1, 2]
    for step, content in contents.items():
        assert found[step].with_name(f"{found[step].name}.damaged").read_bytes() == content
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for step, line in zip((4, 3), lines, strict=True):
        assert line.startswith(f"warning: {found[step]}: this checkpoint is damaged (")
        assert f"it is kept as {found[step].name}.damaged. Step 2 is used" in line
    assert checkpoints.restore_newest(tmp_path, model)["step"] == 2
    assert capsys.readouterr().err == ""


def test_damaged_checkpoints_never_overwrite_each_other(tmp_path, capsys):
    save(tmp_path, 1, keep=9)
    for content in (b"one", b"two", b"three"):
        save(tmp_path, 2, keep=9).write_bytes(content)
        checkpoints.restore_newest(tmp_path, plain.Model())
    lines = capsys.readouterr().err.splitlines()
    aside = sorted((tmp_path / "checkpoints").glob("*.damaged*"))
    assert sorted(path.read_bytes() for path in aside) == [b"one", b"three", b"two"]
    assert [path.name in line for path, line in zip(aside, lines, strict=True)] == [True] * 3


def test_later_saves_keep_damaged_checkpoints(tmp_path):
    save(tmp_path, 1, keep=9)
    flip(save(tmp_path, 2, keep=9))
    checkpoints.restore_newest(tmp_path, plain.Model())
    save(tmp_path, 2)
    assert names(tmp_path) == ["step_000000002.npz", "step_000000002.npz.damaged"]


def test_if_none_is_whole_all_are_named_and_stay(tmp_path):
    paths = [save(tmp_path, step, keep=9) for step in (1, 2)]
    for path in paths:
        flip(path)
    for _ in range(2):  # The second time too: the run must not look like a new one.
        with pytest.raises(UserError, match="none of its checkpoints is whole") as caught:
            checkpoints.restore_newest(tmp_path, plain.Model())
        assert all(path.name in str(caught.value) for path in paths)
        assert "another --logdir" in str(caught.value)
        assert all(path.exists() for path in paths)


def test_a_damaged_one_that_cannot_be_renamed_is_ignored(tmp_path, monkeypatch, capsys):
    save(tmp_path, 1, keep=9)
    path = save(tmp_path, 2, keep=9)
    flip(path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    assert checkpoints.restore_newest(tmp_path, plain.Model())["step"] == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "it keeps its name, since it cannot be renamed (Permission denied)" in line
    assert path.exists()


def test_loading_a_run_takes_the_newest_whole_checkpoint_or_the_given_step(tmp_path, capsys):
    settings = tiny.settings()
    config.save_run(settings, tmp_path)
    models = {step: factory.build(settings, step) for step in (1, 2)}
    for step, model in models.items():
        path = checkpoints.save(tmp_path, step, model, keep=9)
    flip(path)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"step_000000002\.npz"):
        cwvae.load(tmp_path, step=2)
    assert path.exists()
    loaded = cwvae.load(tmp_path)
    assert "Step 1 is used" in capsys.readouterr().err
    for one, two in zip(models[1].weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_evaluation_takes_the_newest_whole_checkpoint_or_the_given_step(tmp_path, monkeypatch):
    from cwvae.commands import evaluate as script
    from cwvae.evaluation import evaluator

    settings = tiny.settings()
    model = factory.build(settings, 0)
    for step in (1, 2):
        path = checkpoints.save(tmp_path, step, model, keep=9)
    flip(path)
    monkeypatch.setattr(evaluator, "evaluate", lambda config, model, step, *_: {"step": step})
    with pytest.raises(checkpoints.DamagedCheckpoint):
        script.evaluate(settings, tmp_path, 2)
    assert script.evaluate(settings, tmp_path) == {"step": 1}


# Crashes.


def test_the_file_is_on_the_disk_before_its_name_and_the_name_before_others_are_removed(
    tmp_path, monkeypatch
):
    save(tmp_path, 1)
    done = []
    fsync, replace, unlink = os.fsync, os.replace, pathlib.Path.unlink

    def record_fsync(descriptor):
        inode = os.fstat(descriptor).st_ino
        folders = (tmp_path, tmp_path / "checkpoints")
        names = [folder.name for folder in folders if folder.stat().st_ino == inode]
        done.append(f"fsync {names[0] if names else 'file'}")
        fsync(descriptor)

    def record_unlink(path, *arguments, **options):
        if path.exists():
            done.append(f"remove {path.name}")
        unlink(path, *arguments, **options)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    monkeypatch.setattr(pathlib.Path, "unlink", record_unlink)
    save(tmp_path, 2)
    steps = ["rename", "fsync checkpoints", f"fsync {tmp_path.name}", "remove step_000000001.npz"]
    assert done == ["fsync file", "fsync file", *steps]  # Before and after it is read back.


def test_a_file_that_differs_when_read_back_is_never_renamed(tmp_path, monkeypatch):
    save(tmp_path, 1)
    fsync = os.fsync

    def damaging_fsync(descriptor):
        fsync(descriptor)
        os.pwrite(descriptor, b"X", 100)

    monkeypatch.setattr(os, "fsync", damaging_fsync)
    with pytest.raises(OSError, match="the disk does not hold what was written"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step_000000001.npz"]


def test_the_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    save(tmp_path, 1)
    for name in (".step_000000002.tmp", ".step_000000002.npz.123.abcdef01.tmp"):
        (tmp_path / "checkpoints" / name).write_bytes(b"half")
    assert list(checkpoints.steps(tmp_path)) == [1]
    save(tmp_path, 3)
    assert names(tmp_path) == ["step_000000003.npz"]


def test_a_full_disk_loses_no_checkpoint(small_disk, fill):
    model = plain.Model(1, size=20_000)  # 320 kB
    path = checkpoints.save(small_disk, 1, model)
    fill(small_disk / "filler", leave=100_000)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(small_disk, 2, model)
    assert caught.value.filename == str(small_disk / "checkpoints" / "step_000000002.npz")
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(small_disk, 1, plain.Model(9, size=20_000))
    assert names(small_disk) == ["step_000000001.npz"]
    fresh = plain.Model(-1, size=20_000)
    assert checkpoints.restore(path, fresh)["step"] == plain.values(fresh) == 1
    (small_disk / "filler").unlink()
    checkpoints.save(small_disk, 2, model)
    assert checkpoints.restore_newest(small_disk, fresh)["step"] == 2
    assert names(small_disk) == ["step_000000002.npz"]


SAVING = """
import itertools, sys
from helpers import plain
from cwvae.run import checkpoints
for step in itertools.count(int(sys.argv[2])):
    model = plain.Model(step, size=50_000)
    checkpoints.save(sys.argv[1], step, model, plain.Optimizer(model, step), keep_every=10)
    print(step, flush=True)
"""


def test_after_a_kill_at_any_moment_the_newest_checkpoint_is_whole(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    chosen = random.Random(0)
    saved = 0
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path), str(saved + 1)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert int(process.stdout.readline()) == saved + 1
        time.sleep(chosen.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        reported = [saved + 1, *map(int, process.communicate()[0].split())]
        assert process.returncode == -signal.SIGKILL
        saved = max(checkpoints.steps(tmp_path))
        assert saved in (reported[-1], reported[-1] + 1)  # The last may be saved, not printed.
        model = plain.Model(size=50_000)
        optimizer = plain.Optimizer(model)
        assert checkpoints.restore(checkpoints.find(tmp_path), model, optimizer)["step"] == saved
        assert plain.values(model, optimizer) == saved
    assert set(range(10, saved + 1, 10)) <= set(checkpoints.steps(tmp_path))


# An average of the weights.


def averaged_run(logdir):
    model = plain.Model(1)
    checkpoints.save(logdir, 3, model, plain.Optimizer(model, 2), plain.Average(model, 7))
    return checkpoints.find(logdir)


def test_the_model_is_used_with_the_averages_and_resumes_without_them(tmp_path):
    path = averaged_run(tmp_path)
    model = plain.Model()
    checkpoints.restore(path, model)
    assert plain.values(model) == 7
    checkpoints.restore_step(tmp_path, None, model, averaged=False)
    assert plain.values(model) == 1
    optimizer, average = plain.Optimizer(model), plain.Average(model)
    checkpoints.restore_newest(tmp_path, model, optimizer, average)
    assert plain.values(model) == 1
    assert {int(np.max(v.numpy(), initial=7)) for v in average.state.values()} == {7}
    assert optimizer.state["iterations"].numpy() == 2
    other = plain.Model()
    checkpoints.restore_newest(tmp_path, other, plain.Optimizer(other))  # It was turned off.
    assert plain.values(other) == 1


def test_an_average_that_a_checkpoint_lacks_starts_from_its_weights(tmp_path):
    model = plain.Model(1)
    checkpoints.save(tmp_path, 3, model, plain.Optimizer(model))
    other = plain.Model()
    average = plain.Average(other, 7)
    checkpoints.restore_newest(tmp_path, other, plain.Optimizer(other), average)
    assert plain.values(other) == 1
    assert average.state.pop("updates").numpy() == 0
    assert all((variable.numpy() == 1).all() for variable in average.state.values())


def test_averages_that_do_not_fit_are_refused(tmp_path):
    model = plain.Model(1)
    checkpoints.save(tmp_path, 3, model, plain.Optimizer(model), plain.Average(plain.Model(0, 4)))
    other = plain.Model(5)
    with pytest.raises(UserError, match=r"model/net/kernel has the shape"):
        checkpoints.restore_newest(tmp_path, other)
    with pytest.raises(UserError, match=r"ema/net/kernel has the shape"):
        checkpoints.restore_newest(tmp_path, other, plain.Optimizer(other), plain.Average(other))
    assert plain.values(other) == 5
