"""Times the training step and the open-loop prediction of the paper's small model.

    python benchmarks/train_step.py [--precision bfloat16] [--batch 8] [--length 100]
    python benchmarks/train_step.py --yardstick OTHER.py     times another script in turn

Prints one JSON line. Machines are shared and noisy: quote the ratio to something that was timed in
turn, not the frames per second. OTHER.py takes --batch, --length and --repeats, and prints a JSON
line with `train_frames_per_second`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from cwvae import config as configuration
from cwvae.startup import quiet_tensorflow

CONTEXT = 36


def seconds(function, repeats: int) -> float:
    """Returns the time of the fastest of several calls, after two that are not timed."""
    function(), function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(options: argparse.Namespace) -> dict:
    """Returns frames per second of training and of open-loop prediction, on this machine."""
    with quiet_tensorflow():
        import numpy as np
        import tensorflow as tf

        from cwvae import factory, training

    config = configuration.load(None, [f"training.precision={options.precision}"])
    model = factory.build(config, seed=0)
    optimizer = training.build_optimizer(config.training, model)
    step = training.build_step(config, model, optimizer)
    rng = np.random.default_rng(0)
    shape = (options.batch, options.length, 64, 64, 1)
    video = tf.constant(rng.integers(0, 256, shape, np.uint8))
    number = tf.constant(0, tf.int64)
    train = seconds(lambda: step(video, number)["loss"].numpy(), options.repeats)
    context = tf.constant(rng.integers(0, 256, (options.batch, CONTEXT, 64, 64, 1), np.uint8))

    def predict() -> None:
        for chunk in model.predict_chunks(context, options.horizon, 0):
            chunk.numpy()

    rollout = seconds(predict, options.repeats)
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = tf.config.experimental.get_device_details(devices[0])
    return {
        "device": details.get("device_name", f"{devices[0].device_type}, {os.cpu_count()} cores"),
        "precision": options.precision,
        "batch": options.batch,
        "length": options.length,
        "parameters": model.count_params(),
        "train_frames_per_second": round(options.batch * options.length / train, 1),
        "open_loop_frames_per_second": round(options.batch * options.horizon / rollout, 1),
    }


def in_turn(options: argparse.Namespace) -> dict:
    """Runs the yardstick and this script in turn; returns the best of each and the ratios."""
    size = ["--batch", str(options.batch), "--length", str(options.length)]
    size += ["--repeats", str(options.repeats)]
    own = [__file__, *size, "--precision", options.precision, "--horizon", str(options.horizon)]
    best: dict[str, dict] = {}
    for _ in range(options.rounds):
        for name, command in (("yardstick", [options.yardstick, *size]), ("ours", own)):
            output = subprocess.run(
                [sys.executable, *command], check=True, capture_output=True, text=True
            ).stdout
            result = json.loads(output.strip().splitlines()[-1])
            key = "train_frames_per_second"
            if name not in best or result[key] > best[name][key]:
                best[name] = result
    ours, yardstick = best["ours"], best["yardstick"]["train_frames_per_second"]
    return ours | {
        "yardstick_train_frames_per_second": round(yardstick, 1),
        "train_ratio": round(ours["train_frames_per_second"] / yardstick, 2),
        "open_loop_ratio": round(ours["open_loop_frames_per_second"] / yardstick, 2),
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=100, help="frames per clip in training")
    parser.add_argument("--horizon", type=int, default=964, help="frames predicted open loop")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--yardstick", help="another script, run in turn")
    parser.add_argument("--rounds", type=int, default=2, help="of taking turns")
    options = parser.parse_args()
    print(json.dumps(in_turn(options) if options.yardstick else measure(options)))


if __name__ == "__main__":
    main()
