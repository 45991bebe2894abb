"""Shared code of the benchmarks. Importing it makes the project importable.

Machines are shared and noisy. So scripts that are compared take turns, each in a separate process,
and the fastest time of each counts.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

TRAIN_STEP = ROOT / "benchmarks" / "train_step.py"
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def seconds(function: Callable[[], object], repeats: int = 1, untimed: int = 2) -> float:
    """Returns the time of the fastest of several calls, after some untimed ones."""
    for _ in range(untimed):
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory() -> float:
    """Returns the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / 2**20


def device_name() -> str:
    """Returns the name of the device that TensorFlow computes on."""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = tf.config.experimental.get_device_details(devices[0])
    return details.get("device_name", f"{devices[0].device_type}, {os.cpu_count()} cores")


def options(description: str, **defaults: object) -> argparse.Namespace:
    """Returns the options of the command line; each has the type of its default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name}",
            type=type(default),
            default=default,
            choices=["float32", "bfloat16"] if name == "precision" else None,
            help=f"default: {default}",
        )
    return parser.parse_args()


def run(script: str | pathlib.Path, given: Mapping[str, object]) -> dict:
    """Returns the JSON line that a script prints, with its peak memory as `peak_rss_mib`."""
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, str(script), *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            sys.exit(f"{script} failed:\n{errors.read().decode()}")
    result = json.loads(output.strip().splitlines()[-1])
    return result | {"peak_rss_mib": round(usage.ru_maxrss * _MAXRSS_UNIT / 2**20)}


def fastest(rounds: int, runs: Mapping[str, Callable[[], dict]]) -> dict[str, dict]:
    """Returns the result of each run with the most `frames_per_second`. The runs take turns."""
    best: dict[str, dict] = {}
    for _ in range(rounds):
        for name, measure in runs.items():
            result = measure()
            best[name] = max(best.get(name, result), result, key=lambda r: r["frames_per_second"])
    return best


def main(description: str, measure: Callable[[argparse.Namespace], dict], **own: object) -> None:
    """Runs a script that prints one JSON line, compared with a yardstick if one is given.

    Args:
      description: Description of the script.
      measure: Function from the options to a result with `frames_per_second`.
      **own: Defaults of options that the yardstick does not take.
    """
    shared = {"batch": 8, "length": 100, "repeats": 4}
    given = options(description, **own, **shared, yardstick="", rounds=3)
    if not given.yardstick:
        print(json.dumps(measure(given)))
        return

    def yardstick() -> dict:
        result = run(given.yardstick, {name: getattr(given, name) for name in shared})
        return result | {"frames_per_second": result["train_frames_per_second"]}

    def ours() -> dict:
        return run(sys.argv[0], {name: getattr(given, name) for name in own | shared})

    best = fastest(given.rounds, {"yardstick": yardstick, "ours": ours})
    result, other = best["ours"], best["yardstick"]
    result |= {
        "yardstick_frames_per_second": round(other["frames_per_second"], 1),
        "yardstick_peak_rss_mib": other["peak_rss_mib"],
        "ratio": round(result["frames_per_second"] / other["frames_per_second"], 2),
        "memory_ratio": round(result["peak_rss_mib"] / other["peak_rss_mib"], 3),
    }
    print(json.dumps(result))
