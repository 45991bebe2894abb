"""Measures how the time and memory of a training step grow with T, the levels L, and k.

    python benchmarks/scaling.py [--precision bfloat16] [--batch 8]

Prints the speed of the machine in a large matrix product and in moving memory, then Markdown
tables. Each row is one process of benchmarks/train_step.py. T is the number of frames of a clip.
"""

import timing

from cwvae.startup import quiet_tensorflow

SWEEPS = {
    "T": ("length", (100, 200, 400, 1000)),
    "L": ("levels", (1, 2, 3, 4)),
    "k": ("factor", (1, 2, 6, 12)),
}


def main() -> None:
    """Runs the command line."""
    options = timing.options(__doc__, precision="bfloat16", batch=8)
    with quiet_tensorflow():
        import tensorflow as tf

        from cwvae.training import memory
    for dtype in (tf.float32, tf.bfloat16):
        machine = memory.measure(dtype)
        print(
            f"{dtype.name}: {machine.operations / 1e9:.0f} GFLOP/s in matrix products,"
            f" {machine.bandwidth / 1e9:.0f} GB/s read and written"
        )
    for symbol, (name, values) in SWEEPS.items():
        print(f"\n| {symbol} | s per step | ms per clip and frame | peak MiB |")
        print("| --- | --- | --- | --- |")
        for value in values:
            given = vars(options) | {"repeats": 3, name: value}
            result = timing.run(timing.TRAIN_STEP, given)
            seconds = 1 / result["frames_per_second"]
            step = result["batch"] * result["length"] * seconds
            print(f"| {value} | {step:.2f} | {1000 * seconds:.3f} | {result['peak_rss_mib']} |")


if __name__ == "__main__":
    main()
