import json

import pytest
from helpers import plain, tiny

from cwvae import config as configuration
from cwvae.run import checkpoints, history

CHANGED = {"training.learning_rate": [0.01, 0.5]}


def save(logdir, step, config):
    meta = {"config": configuration.as_plain(config)}
    checkpoints.save(logdir, step, plain.Model(), keep=9, meta=meta)
    configuration.save(config, logdir / "config.yml")


def events(logdir):
    return [json.loads(line) for line in (logdir / history.FILE).read_text().splitlines()]


def test_changes_are_those_since_the_newest_checkpoint(tmp_path):
    save(tmp_path, 3, tiny.settings())
    assert history.changes(tiny.settings(), tmp_path) == {}
    other = tiny.settings("training.learning_rate=0.5", "training.ema=0.9", "data.data_dir=/x")
    configuration.save(other, tmp_path / "config.yml")  # A crash before the next checkpoint.
    want = CHANGED | {"training.ema": [None, 0.9]}  # No paths: they are private.
    assert history.changes(other, tmp_path) == want


def test_an_old_run_whose_checkpoints_hold_no_settings_has_those_of_its_config(tmp_path):
    save(tmp_path, 3, tiny.settings())
    checkpoints.save(tmp_path, 3, plain.Model())
    assert history.changes(tiny.settings("training.learning_rate=0.5"), tmp_path) == CHANGED


def test_each_change_is_a_line(tmp_path):
    history.record(tmp_path, 3, {})
    assert not (tmp_path / history.FILE).exists()
    history.record(tmp_path, 3, CHANGED)
    history.record(tmp_path, 5, {"training.steps": [6, 9]})
    first, second = events(tmp_path)
    assert (first["step"], first["changes"]) == (3, CHANGED)
    assert first.keys() == {"step", "date", "version", "changes"}
    assert second["step"] == 5
    one, two = history.describe(tmp_path)
    assert one.startswith("From step 3 on (20")
    assert two.endswith("): training.steps: 6 -> 9")


def test_changes_after_the_checkpoint_that_a_run_resumes_from_are_dropped(tmp_path):
    for step in (3, 5, 7):
        history.record(tmp_path, step, {"training.steps": [step, step + 1]})
    history.record(tmp_path, 5, CHANGED)
    assert [
        (event["step"], "training.steps" in event["changes"]) for event in events(tmp_path)
    ] == [
        (3, True),
        (5, False),
    ]
    history.record(tmp_path, 3, {})
    assert (tmp_path / history.FILE).read_text() == ""


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"{", b"[1]", b'{"step": "x"}', b'{"step": 1}'])
def test_a_damaged_line_stays_and_stops_nothing(tmp_path, damage):
    path = tmp_path / history.FILE
    history.record(tmp_path, 3, CHANGED)
    path.write_bytes(damage + b"\n" + path.read_bytes().rstrip())
    history.record(tmp_path, 5, CHANGED)
    assert path.read_bytes().startswith(damage + b"\n")
    assert path.read_bytes().count(b"\n") == 3
    assert len(history.describe(tmp_path)) == 2


def test_a_file_that_cannot_be_written_gives_a_warning(tmp_path, capsys):
    (tmp_path / history.FILE).mkdir()
    history.record(tmp_path, 3, CHANGED)
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / history.FILE}: cannot be")
    assert history.describe(tmp_path) == []
