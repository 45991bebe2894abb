"""Measures the cost of scoring: against scikit-image, against the model's time, and in memory.

    python benchmarks/metrics.py speed      PSNR and SSIM next to scikit-image's loop over frames
    python benchmarks/metrics.py share      the part of an evaluation that is not spent in the model
    python benchmarks/metrics.py memory     by the horizon and by the number of videos

Prints Markdown tables. `speed` alternates between both and keeps the fastest of each. Scikit-image
scores only the first 2,000 frames: its time per frame is constant.
"""

import argparse
import functools
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import timing

from cwvae import config as configuration
from cwvae.startup import quiet_tensorflow

VIDEOS, FRAMES, LOOP_FRAMES = 100, 464, 2000


def speed(rounds: int = 5) -> None:
    """Prints frames per second of both, by protocol and number of channels."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    from cwvae.metrics import image

    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    arguments = {"standard": gaussian | {"data_range": 1}, "cwvae2021": {"data_range": 2}}
    print("| PSNR and SSIM of 64x64 frames | frames/s | scikit-image, frames/s | ratio |")
    print("| --- | --- | --- | --- |")
    for channels in (1, 3):
        shape = (VIDEOS, FRAMES, 64, 64, channels)
        truth, prediction = (
            np.random.default_rng(seed).random(shape, np.float32) for seed in range(2)
        )
        pairs = [video.reshape(-1, 64, 64, channels)[:LOOP_FRAMES] for video in (truth, prediction)]
        for protocol, options in arguments.items():

            def ours(truth=truth, prediction=prediction, protocol=protocol):
                image.psnr(truth, prediction, protocol)
                image.ssim(truth, prediction, protocol)

            def loop(pairs=pairs, options=options):
                for x, y in zip(*pairs, strict=True):
                    peak_signal_noise_ratio(x, y, data_range=1)
                    structural_similarity(x, y, channel_axis=-1, **options)

            turns = [[timing.seconds(f, untimed=0) for f in (ours, loop)] for _ in range(rounds)]
            times = np.min(turns, 0)
            rates = VIDEOS * FRAMES / times[0], LOOP_FRAMES / times[1]
            print(
                f"| {protocol}, {channels} channel{'s' * (channels > 1)} | {rates[0]:,.0f} |"
                f" {rates[1]:,.0f} | **{rates[0] / rates[1]:.0f}** |",
                flush=True,
            )


def share(videos: int = 100) -> None:
    """Prints how much of an evaluation is not the model, with the paper's small model.

    The seconds of all cores depend less on what else runs on a machine.
    """
    print(f"| {videos} videos of 464 frames | LPIPS | seconds | outside | of all cores | outside |")
    print("| --- | --- | --- | --- | --- | --- |")
    for lpips, precision in itertools.product(("false", "auto"), ("float32", "bfloat16")):
        settings = f"training.precision={precision}", f"evaluation.lpips={lpips}"
        settings += f"evaluation.num_videos={videos}", "evaluation.horizon=464"
        total, model, _ = _isolated(*settings, rounds=2)
        cells = (
            f"{all_:.1f} | **{1 - own / all_:.0%}**" for all_, own in zip(total, model, strict=True)
        )
        print(
            f"| {precision} | {'no' if lpips == 'false' else 'yes'} | {' | '.join(cells)} |",
            flush=True,
        )


def memory() -> None:
    """Prints the peak memory of evaluations."""
    small = "model.channel_multiplier=0.25", "model.mlp_size=100", "model.levels=2"
    print("| videos | frames predicted | peak MiB |")
    print("| --- | --- | --- |")
    for videos, horizon in ((10, 100), (10, 1000), (1000, 100)):
        settings = f"evaluation.num_videos={videos}", f"evaluation.horizon={horizon}"
        *_, peak = _isolated(*small, *settings)
        print(f"| {videos} | {horizon} | {peak:,.0f} |", flush=True)


def _isolated(*overrides: str, rounds: int = 1) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns what `_evaluate` returns in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_evaluate, (overrides, rounds))


def _evaluate(given: Sequence[str], rounds: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Evaluates an untrained model, which predicts at the same cost, several times.

    Returns:
      The time of an evaluation after the first one, when everything is compiled, learned and in the
      cache; that of the same calls of the model alone, with nothing next to them; the peak memory
      in MiB. Times are [seconds, seconds of all cores], each the shortest of `rounds`, in which
      both take turns.
    """
    import data_loaders

    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    overrides = ["data.test_length=1100", "evaluation.context=36", "evaluation.lpips=false"]
    overrides += [*given, "evaluation.fvd=false"]
    config = configuration.load(None, overrides)
    model = factory.build(config, seed=0)
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    calls = []

    def recorded(function):
        def call(*arguments, **options):
            calls.append(functools.partial(function, *arguments, **options))
            return function(*arguments, **options)

        return call

    def alone():
        for call in calls:
            chunks = call()
            for chunk in () if isinstance(chunks, dict) else chunks:
                chunk.frames.numpy()

    object.__setattr__(model, "predict_chunks", recorded(model.predict_chunks))
    evaluator.elbo_terms = recorded(evaluator.elbo_terms)
    with tempfile.TemporaryDirectory() as folder:

        def evaluate():
            calls.clear()
            evaluator.evaluate(config, model, 0, *data, folder)

        evaluate()
        turns = [[_times(function) for function in (evaluate, alone)] for _ in range(rounds)]
    return *np.min(turns, 0), timing.peak_memory()


def _times(function: Callable[[], None]) -> tuple[float, float]:
    """Returns the seconds of a call, and those of all cores together."""
    starts = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - starts[0], time.process_time() - starts[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = {"speed": speed, "share": share, "memory": memory}
    parser.add_argument("table", choices=tables)
    tables[parser.parse_args().table]()
