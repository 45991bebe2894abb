"""Measurements of a machine, and how their answers are kept."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from cwvae import machine
from cwvae.errors import UserError
from cwvae.run import files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has measured nothing."""
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "_known", {})
    return tmp_path / "cache" / "machine"


class Measurement:
    """A measurement that counts how often it is done."""

    def __init__(self, value=1.5):
        self.value, self.count = value, 0

    def __call__(self):
        self.count += 1
        return self.value


def forget(monkeypatch):
    """Forgets what this process knows, as a new process would."""
    monkeypatch.setattr(machine, "_known", {})


def test_an_answer_is_measured_once_and_kept_for_later_processes(cache, monkeypatch):
    measure = Measurement()
    assert machine.known("speed", jit=True) is None
    for _ in range(2):
        assert machine.remembered("speed", measure, jit=True) == 1.5
    forget(monkeypatch)
    assert machine.known("speed", jit=True) == machine.remembered("speed", measure, jit=True) == 1.5
    assert measure.count == 1
    (path,) = cache.glob("*.json")
    content = json.loads(path.read_text())
    assert content["tensorflow"] == tf.__version__
    assert content["jit"] is True


def test_another_machine_version_or_question_is_measured_again(cache, monkeypatch):
    measure = Measurement()
    machine.remembered("speed", measure, jit=True)
    machine.remembered("speed", measure, jit=False)
    machine.remembered("other", measure, jit=True)
    for name, value in (("_device", lambda: "GPU"), ("_processor", lambda: ["x"])):
        with monkeypatch.context() as patch:
            patch.setattr(machine, name, value)
            machine.remembered("speed", measure, jit=True)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "VERSION", "9")
        machine.remembered("speed", measure, jit=True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    machine.remembered("speed", measure, jit=True)
    assert measure.count == len([*cache.glob("*.json")]) == 7


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"{}", b'{"value": "x"}', b'{"value": NaN}', b"\xff", None]
)
def test_an_unreadable_answer_is_measured_again(cache, monkeypatch, content):
    machine.remembered("speed", Measurement())
    (path,) = cache.glob("*.json")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    forget(monkeypatch)
    assert machine.known("speed") is None
    assert machine.remembered("speed", Measurement(2.0)) == 2.0
    forget(monkeypatch)
    assert machine.known("speed") == 2.0


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "file"))
    measure = Measurement()
    assert machine.remembered("speed", measure) == machine.remembered("speed", measure) == 1.5
    assert measure.count == 1
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {tmp_path}/file/machine/speed-")
    assert warning.count("\n") == 1
    assert "cannot be written" in warning


@pytest.mark.parametrize(
    ("gain", "wanted"), [(0.3, "float32"), (1.29, "float32"), (1.31, "bfloat16"), (5, "bfloat16")]
)
def test_bfloat16_is_chosen_where_its_products_are_clearly_faster(monkeypatch, gain, wanted):
    monkeypatch.setattr(machine, "product_rates", lambda *dtypes, **_: [2.0, 2.0 * gain])
    assert machine.precision() == wanted
    assert machine.bfloat16_gain() == pytest.approx(gain)


def test_a_device_without_bfloat16_gets_float32(monkeypatch):
    def fail(*dtypes, **_):
        raise tf.errors.UnimplementedError(None, None, "no such product")

    monkeypatch.setattr(machine, "product_rates", fail)
    assert machine.bfloat16_gain() == 0
    assert machine.precision() == "float32"


@pytest.mark.skipif(machine.has_gpu(), reason="a limit of the processor")
@pytest.mark.parametrize(
    ("limit", "measured"), [("avx2", False), ("SSE41", False), ("AVX512_CORE", True), ("ALL", True)]
)
def test_a_limit_under_which_tensorflow_crashes_is_not_measured(monkeypatch, limit, measured):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(machine, "product_rates", lambda *dtypes, **_: [1.0, 2.0])
    assert machine.bfloat16_gain() == (2.0 if measured else 0.0)


def test_products_are_timed():
    first, second = machine.product_rates(tf.float32, tf.float32)
    assert 1e8 < first < 1e15
    assert 0.2 < first / second < 5


def test_the_fastest_call_counts_and_the_first_does_not(monkeypatch):
    now, calls = [0.0], []

    def work(name, times):
        times = iter(times)

        def run():
            calls.append(name)
            now[0] += next(times)

        return run

    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(machine.timeit, "timeit", timed(now))
    functions = [work("a", [0, 3, 2, 4]), work("b", [0, 5, 7, 6])]
    assert machine.fastest(functions, least=1, most=3, limit=100) == [2, 5]
    assert "".join(calls) == "abababab"
    functions = [work("a", [0, 3, 2, 4]), work("b", [0, 5, 7, 6])]
    assert machine.fastest(functions, least=2, most=9, limit=1) == [2, 5]


def timed(now):
    def run(function, number, timer):
        before = now[0]
        function()
        return now[0] - before

    return run


def test_the_processor_is_more_than_its_name():
    found = machine._processor()
    assert found
    if os.path.exists("/proc/cpuinfo"):
        assert any(line.startswith(("flags", "Features")) for line in found)


def test_a_failure_that_passes_is_not_kept(cache, monkeypatch):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(machine, "product_rates", fail)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        machine.bfloat16_gain()
    monkeypatch.setattr(machine, "product_rates", lambda *_, **__: [1.0, 2.0])
    assert machine.bfloat16_gain() == 2


_ASK = """
import sys, time
from cwvae import machine

def measure():
    time.sleep(2)
    return float(sys.argv[1])

print(machine.remembered("speed", measure))
"""


def test_processes_that_start_together_get_one_answer(tmp_path):
    env = os.environ | {"CWVAE_CACHE": str(tmp_path), "CUDA_VISIBLE_DEVICES": "-1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ASK, str(value)], env=env, stdout=subprocess.PIPE, text=True
        )
        for value in (1, 2)
    ]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1
    assert answers < {"1.0\n", "2.0\n"}


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("CWVAE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # As for an unknown user.
    with pytest.raises(UserError, match="Set the environment variable CWVAE_CACHE"):
        files.cache_folder()
