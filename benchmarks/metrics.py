"""What scoring costs: against scikit-image, against the model's own time, and in memory.

    python benchmarks/metrics.py speed      PSNR and SSIM beside scikit-image's loop over frames
    python benchmarks/metrics.py share      the part of an evaluation that is not spent in the model
    python benchmarks/metrics.py memory     with the horizon, and with the number of videos

Prints Markdown tables. `speed` takes turns and keeps the fastest of each; scikit-image scores the
first 2,000 frames, since each costs it the same.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import timing

from cwvae import config as configuration
from cwvae.startup import quiet_tensorflow

VIDEOS, FRAMES, LOOP_FRAMES = 100, 464, 2000


def speed(rounds: int = 5) -> None:
    """Prints frames per second of both, by protocol and channels."""
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

            times = np.array([(_seconds(ours), _seconds(loop)) for _ in range(rounds)]).min(0)
            rates = VIDEOS * FRAMES / times[0], LOOP_FRAMES / times[1]
            print(
                f"| {protocol}, {channels} channel{'s' * (channels > 1)} | {rates[0]:,.0f} |"
                f" {rates[1]:,.0f} | **{rates[0] / rates[1]:.0f}** |",
                flush=True,
            )


def share(videos: int = 100) -> None:
    """Prints where the time of an evaluation goes, with the paper's small model."""
    print("| 100 videos of 464 frames | seconds | in the model | outside of it |")
    print("| --- | --- | --- | --- |")
    for precision in ("float32", "bfloat16"):
        result = _in_a_process("_share", precision, videos)
        outside = 1 - result["model"] / result["all"]
        print(
            f"| {precision} | {result['all']:.1f} | {result['model']:.1f} | **{outside:.0%}** |",
            flush=True,
        )


def memory() -> None:
    """Prints the peak memory of evaluations, each in a process of its own."""
    print("| videos | frames predicted | peak MiB |")
    print("| --- | --- | --- |")
    for videos, horizon in ((10, 100), (10, 1000), (1000, 100)):
        result = _in_a_process("_memory", videos, horizon)
        print(f"| {videos} | {horizon} | {result['peak']:,.0f} |", flush=True)


def _share(precision: str, videos: str) -> dict:
    """Evaluates an untrained model, whose predictions cost as much, and times what it does."""
    spent = [0.0]
    everything = _evaluate(
        spent,
        f"training.precision={precision}",
        f"evaluation.num_videos={videos}",
        "evaluation.horizon=464",
    )
    return {"all": everything, "model": spent[0]}


def _memory(videos: str, horizon: str) -> dict:
    small = ["model.channel_multiplier=0.25", "model.mlp_size=100", "model.levels=2"]
    _evaluate([0.0], *small, f"evaluation.num_videos={videos}", f"evaluation.horizon={horizon}")
    return {"peak": timing.peak_memory()}


def _evaluate(spent: list[float], *overrides: str) -> float:
    """Returns the seconds of a second evaluation, when all is compiled, and adds the model's."""
    import data_loaders

    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import evaluator

    config = configuration.load(
        None, ["data.test_length=1100", "evaluation.context=36", *overrides]
    )
    model = factory.build(config, seed=0)
    data = [data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")]
    predict, elbo_terms = model.predict_chunks, evaluator.elbo_terms

    def timed_elbo(*arguments):
        start = time.perf_counter()
        try:
            return elbo_terms(*arguments)
        finally:
            spent[0] += time.perf_counter() - start

    def timed_predict(*arguments, **options):
        chunks = predict(*arguments, **options)
        while True:
            start = time.perf_counter()
            try:
                chunk = next(chunks)
                chunk.frames.numpy()
            except StopIteration:
                return
            finally:
                spent[0] += time.perf_counter() - start
            yield chunk

    object.__setattr__(model, "predict_chunks", timed_predict)
    evaluator.elbo_terms = timed_elbo
    with tempfile.TemporaryDirectory() as folder:
        evaluator.evaluate(config, model, 0, *data, folder)
        spent[0] = 0.0
        start = time.perf_counter()
        evaluator.evaluate(config, model, 0, *data, folder)
        return time.perf_counter() - start


def _seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _in_a_process(function: str, *arguments) -> dict:
    command = [sys.executable, __file__, function, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Runs the command line."""
    if len(sys.argv) > 1 and sys.argv[1] in ("_share", "_memory"):
        print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = {"speed": speed, "share": share, "memory": memory}
    parser.add_argument("table", choices=tables)
    tables[parser.parse_args().table]()


if __name__ == "__main__":
    main()
