"""Times the start of training, from the command to the end of the first step, and its parts.

    python benchmarks/startup.py [--precision bfloat16] [--batch 8]

Prints one JSON line, in seconds: `command` for train.py itself in a separate process, and its parts
in this one.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import timing


def command(options: list[str]) -> float:
    """Returns the seconds from starting train.py to the line that its first step logs."""
    with tempfile.TemporaryDirectory() as logdir:
        lines = pathlib.Path(logdir) / "metrics.jsonl"
        words = [sys.executable, "train.py", "--config", "configs/base.yml", "--logdir", logdir]
        words += ["--set", "training.log_every=1", *options]
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=timing.ROOT, stderr=subprocess.PIPE)
        while not (lines.is_file() and lines.stat().st_size):
            time.sleep(0.02)
            if process.poll() is not None:
                sys.exit(process.stderr.read().decode())
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    return seconds


def parts(options: list[str]) -> dict[str, float]:
    """Returns the seconds of each part of the start, measured in this process."""
    times, start = {}, time.perf_counter()

    def done(part: str) -> None:
        nonlocal start
        times[part] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()

    import data_loaders
    from cwvae import config as configuration
    from cwvae.startup import quiet_tensorflow

    config = configuration.load(None, [word for word in options if word != "--set"])
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    done("configuration and data")
    with quiet_tensorflow():
        import tensorflow as tf

        done("import of TensorFlow")
        from cwvae import factory
        from cwvae.training import loop, strategies
    done("other imports")
    strategy = strategies.build(config.training.strategy)
    with tempfile.TemporaryDirectory() as logdir:
        with strategy.scope():
            model = factory.build(config, config.training.seed)
        trainer = loop.Trainer(config, model, *data, logdir, strategy)
        done("model and optimizer")
        batches = trainer._batches()
        arguments = tf.constant(0, tf.int64), tf.constant(1), tf.constant(0.0)
        trainer._train_steps.get_concrete_function(batches, *arguments)
        done("tracing")
        trainer._check_memory(batches)
        done("estimate")
        trainer._train_steps(batches, *arguments)["loss"].numpy()
        done("first step")
    return times


def main() -> None:
    """Runs the command line."""
    given = timing.options(__doc__, precision="float32", batch=8)
    changes = {"training.precision": given.precision, "training.batch_size": given.batch}
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    seconds = {"command": round(command(options), 2)}
    print(json.dumps(seconds | parts(options)))


if __name__ == "__main__":
    main()
