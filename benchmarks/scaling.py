"""Measures how the time and memory of a training step grow with T, the levels L, and k.

    python benchmarks/scaling.py [--precision bfloat16] [--batch 8]

Prints the speed of the machine in a large matrix product and in moving memory, then Markdown
tables. Each row is one process of benchmarks/train_step.py. T is the number of frames of a clip.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

SWEEPS = {
    "T": [{"length": length} for length in (100, 200, 400, 1000)],
    "L": [{"levels": levels} for levels in (1, 2, 3, 4)],
    "k": [{"factor": factor} for factor in (1, 2, 6, 12)],
}


def step(options: argparse.Namespace, **changes) -> dict:
    """Returns the result of benchmarks/train_step.py with some options changed."""
    settings = {"precision": options.precision, "batch": options.batch, "repeats": 3} | changes
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, str(ROOT / "benchmarks" / "train_step.py"), *words]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from cwvae.startup import quiet_tensorflow

    with quiet_tensorflow():
        import tensorflow as tf

        from cwvae.training import memory
    for dtype in (tf.float32, tf.bfloat16):
        machine = memory.measure(dtype)
        print(
            f"{dtype.name}: {machine.operations / 1e9:.0f} GFLOP/s in products of 1024x1024,"
            f" {machine.bandwidth / 1e9:.0f} GB/s read and written"
        )
    for name, changes in SWEEPS.items():
        print(f"\n| {name} | s per step | ms per clip and frame | peak MiB |")
        print("| --- | --- | --- | --- |")
        for change in changes:
            result = step(options, **change)
            frames = result["batch"] * result["length"]
            seconds = frames / result["frames_per_second"]
            value = next(iter(change.values()))
            milliseconds = 1000 * seconds / frames
            print(f"| {value} | {seconds:.2f} | {milliseconds:.3f} | {result['peak_rss_mib']} |")


if __name__ == "__main__":
    main()
