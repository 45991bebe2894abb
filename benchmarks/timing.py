"""Shared code of the benchmarks: times calls, and compares two scripts.

Machines are shared and noisy. So the scripts take turns, each in a separate process, and the ratio
of their fastest times counts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Returns the time of the fastest of several calls, after two untimed ones."""
    function(), function()
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


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that all scripts take, for `main`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=100, help="frames per clip in training")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--yardstick", help="another script to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns")
    return parser


def main(
    script: str, parser: argparse.ArgumentParser, measure: Callable, key: str, own: list[str]
) -> None:
    """Prints a JSON line with the result of `measure(options)`, compared with a yardstick if given.

    Args:
      script: The calling script's file.
      parser: A parser from `arguments`.
      measure: Function from the parsed arguments to a result.
      key: Key of the result with the frames per second to compare with the yardstick's
        `train_frames_per_second`.
      own: Names of arguments that the yardstick does not take.
    """
    options = parser.parse_args()
    if not options.yardstick:
        print(json.dumps(measure(options)))
        return
    shared = ["batch", "length", "repeats"]

    def run(path: str, names: list[str]) -> dict:
        words = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
        command = [sys.executable, path, *words]
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
            output = process.stdout.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                errors.seek(0)
                sys.exit(f"{path} failed:\n{errors.read().decode()}")
        result = json.loads(output.strip().splitlines()[-1])
        return result | {"peak_rss_mib": round(usage.ru_maxrss * _MAXRSS_UNIT / 2**20)}

    best: dict[str, dict] = {}
    for _ in range(options.rounds):
        for name, result, value in (
            ("yardstick", run(options.yardstick, shared), "train_frames_per_second"),
            ("ours", run(script, shared + own), key),
        ):
            if name not in best or result[value] > best[name][value]:
                best[name] = result
    ours, yardstick = best["ours"], best["yardstick"]
    print(
        json.dumps(
            ours
            | {
                "yardstick_frames_per_second": round(yardstick["train_frames_per_second"], 1),
                "yardstick_peak_rss_mib": yardstick["peak_rss_mib"],
                "ratio": round(ours[key] / yardstick["train_frames_per_second"], 2),
                "memory_ratio": round(ours["peak_rss_mib"] / yardstick["peak_rss_mib"], 3),
            }
        )
    )
