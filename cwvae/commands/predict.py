"""Predicts how videos continue, with a trained model.

    cwvae predict RUN video.mp4 [more videos] --horizon 200 --samples 3 --out out.mp4
    cwvae predict RUN        held-out clips of the run's own data set, next to what is true
    cwvae predict            the small model that comes with this package

RUN is the folder of a run or an export. The model sees the last frames of each video and predicts
the next ones. With --start N it sees the frames from N on, and the video shows what is true below.
Videos are cut and resized as those of the data set video_folder: `--set data.fit=squeeze` and other
settings of data and evaluation change that.

The extension of --out decides what is written: an mp4 or gif with a column per video and a row per
sample, blue around frames that the model sees and orange around predicted ones; or the predicted
frames as arrays in a npz file.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

import data_loaders
from cwvae import export, prediction
from cwvae.config import Config
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import PRETRAINED
from cwvae.prediction import Prediction
from cwvae.run import folder as run_folder
from cwvae.startup import quiet_tensorflow
from data_loaders.sources import BadVideo
from data_loaders.store import store
from data_loaders.video import frames as video_files
from data_loaders.video.folder import VideoFolder

_CLIPS = 4  # Held-out clips that are predicted if there are no videos.
_FPS = 10.0  # Of videos whose file does not say.


def predict(
    run: str | pathlib.Path | None = None,
    videos: Sequence[str | pathlib.Path] = (),
    horizon: int = 100,
    samples: int = 3,
    *,
    context: int | None = None,
    start: int | None = None,
    step: int | None = None,
    settings: Iterable[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> Prediction:
    """Predicts how videos continue.

    Args:
      run: The folder of a run or an export; None for the small model that comes with the package.
      videos: Files of videos, arrays, or folders of pictures; see `VideoFolder`. None: the first
        held-out clips of the run's data set, from their first frame.
      horizon: Predicted frames, T.
      samples: Predictions of each video, S.
      context: Frames that the model sees; None for `evaluation.context` of the run.
      start: The first of these frames. None: they are the last of each video.
      step: The step of the run's checkpoint; None for the newest.
      settings: `section.key=value` of the sections `data` and `evaluation`.
      report: Takes a line of text on what is done.

    Returns:
      The prediction. Memory holds all of it.

    Raises:
      UserError: The run or a video cannot be used, or an argument is out of range.
    """
    for name, value, least in (
        ("horizon", horizon, 1),
        ("samples", samples, 1),
        ("context", context, 1),
        ("start", start, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a number from {least}.")
    whose = "the small model of this package" if run is None else f"the model in {run}"
    run = PRETRAINED if run is None else pathlib.Path(run)
    config = run_folder.load_config(run, settings)
    export.find(run, step)
    context = config.evaluation.context if context is None else context
    if videos:
        report(f"Reading {', '.join(map(str, videos))}")
        read = [_read(pathlib.Path(path), config, context, start, horizon) for path in videos]
        names, fps = [str(path) for path in videos], _rate(pathlib.Path(videos[0]), config)
    else:
        report(f"Reading {_CLIPS} held-out clips of {config.data.name}")
        data = _held_out(config)
        read = list(_clips(data, context, start or 0, horizon))
        names, fps = [f"clip {i}" for i in range(len(read))], _FPS
    seen = np.stack([frames[:context] for frames in read])

    report(f"Starting TensorFlow, loading {whose}")
    with quiet_tensorflow():
        from cwvae import factory
        from cwvae.evaluation import rollouts

    model = factory.build(config)
    export.restore(run, step, model)
    report(
        f"Predicting {len(seen)} video{'s' * (len(seen) > 1)}: {context} frames seen, {horizon}"
        f" predicted, {samples} sample{'s' * (samples > 1)}"
    )
    # The statistics of a batch would depend on the other videos.
    options = dataclasses.replace(config.evaluation, horizon=horizon, batch_statistics=False)
    predicted = np.empty((len(seen), samples, horizon, *seen.shape[2:]), np.float32)
    size = options.batch_size
    try:
        for first in range(0, len(seen), size):
            batch = seen[first : first + size]
            for sample in range(samples):
                for begin, rollout in rollouts.predict(model, batch, options, sample, first):
                    stretch = slice(begin, begin + rollout.frames.shape[1])
                    predicted[first : first + size, sample, stretch] = rollout.frames
    except ValueError as error:
        raise UserError(f"{run}: cannot predict: {error}") from None
    np.clip(predicted, 0, 1, out=predicted)
    truth = tuple(frames[context:] for frames in read)
    return Prediction(predicted, seen, truth, tuple(names), fps)


def _read(
    path: pathlib.Path, config: Config, context: int, start: int | None, horizon: int
) -> np.ndarray:
    """Returns a video's context and the frames after it that matter, uint8 [t, H, W, C]."""
    if not path.exists():
        raise UserError(f"{path}: no such file. Give a video.")
    whole, options = path.absolute(), config.data_options()
    keys = ("frame_size", "channels", "fps", "array_axes", "array_key", "fit", "resize")
    source = VideoFolder(videos_dir=str(whole.parent), **{key: options[key] for key in keys})
    frames, count = np.empty((0, *source.frame_shape), np.uint8), 0
    try:
        for block in source.read("test", whole.name):
            used = block if start is None else block[max(0, start - count) :]
            frames, count = np.concatenate([frames, used]), count + len(block)
            if start is None:
                frames = frames[-context:]
            elif len(frames) >= context + horizon:
                break
    except BadVideo as error:
        raise UserError(f"{path}: this video {error}.") from None
    needed = context if start is None else start + context
    if count < needed:
        from_start = "" if start is None else f"--start {start} and "
        raise UserError(
            f"{path}: it has {count} frame{'s' * (count != 1)}, fewer than {from_start}the"
            f" {context} that the model sees. Give a longer video, or --context with fewer frames."
        )
    return frames[: context + horizon]


def _rate(path: pathlib.Path, config: Config) -> float:
    """Returns the frames per second of a video as it is read."""
    is_video = path.suffix.lower() in video_files.SUFFIXES
    found = video_files.frames_and_rate(path) if is_video else None
    return config.data.fps or (found and found[1]) or _FPS


def _held_out(config: Config):
    """Returns the run's held-out clips, if they are there already."""
    name, options = config.data.name, config.data_options()
    if name not in data_loaders.GENERATORS:
        try:
            source = data_loaders.open_source(**options)
            folder = store.folder_of(source, data_loaders.data_folder(options["data_dir"]))
            ready = store.is_complete(folder)
        except UserError:
            ready = False
        if not ready:
            raise UserError(
                f"the data set {name} of this run is not prepared on this machine. Give videos to"
                f" predict, or prepare it: python -m data_loaders prepare {name}, with the run's"
                " config.yml as --config"
            )
    return data_loaders.load(split="test", **options)


def _clips(data, context: int, start: int, horizon: int) -> Iterator[np.ndarray]:
    """Yields the context and the frames after it of some clips."""
    for i in data.at_least(start + context)[:_CLIPS]:
        length = min(context + horizon, data.length(int(i)) - start)
        yield data.clip(int(i), start, length)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", metavar="RUN VIDEO", help="the model, then videos")
    parser.add_argument("--horizon", type=int, default=100, help="frames to predict (100)")
    parser.add_argument("--samples", type=int, default=3, help="predictions of each video (3)")
    parser.add_argument("--context", type=int, help="frames that the model sees (the run's)")
    parser.add_argument("--start", type=int, help="the first of these frames (the last ones)")
    parser.add_argument("--step", type=int, help="the run's checkpoint (the newest)")
    parser.add_argument("--out", default="prediction.gif", help="the file (prediction.gif)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    arguments = parser.parse_intermixed_args()
    run, videos = _divided(arguments.paths)
    with exit_on_user_error():
        out = prediction.check_out(arguments.out, [pathlib.Path(path) for path in videos])
        found = predict(
            run,
            videos,
            arguments.horizon,
            arguments.samples,
            context=arguments.context,
            start=arguments.start,
            step=arguments.step,
            settings=arguments.set,
            report=lambda line: print(f"{line} ...", flush=True),
        )
        shown = prediction.write(found, out)
        if shown < len(found.context):
            print(f"{out} shows the first {shown} videos. For all: --out FILE.npz")
        print(f"Written to {out}.")


def _divided(paths: list[str]) -> tuple[str | None, list[str]]:
    """Returns the run, if the first path is not that of a video, and the videos."""
    suffixes = (*video_files.SUFFIXES, *video_files.ARRAY_SUFFIXES)
    if not paths or (paths[0].lower().endswith(suffixes) and not pathlib.Path(paths[0]).is_dir()):
        return None, paths
    return paths[0], paths[1:]
