"""Tells which attribute of a video lives in which level of a trained CW-VAE.

    cwvae levels --logdir RUN [--clips N] [--set evaluation.horizon=N ...] [--out NAME]

For data whose attributes are known (moving_digits, procedural_mazes). Linear readouts of the states
of each level are fitted to training clips and scored on held-out clips: while frames are observed,
and by the distance in an open-loop prediction.

The results are in RUN/levels, or RUN/NAME: levels.md, levels.csv and levels.png.
"""

import argparse
import pathlib

import data_loaders
from cwvae import config as configuration
from cwvae import export
from cwvae.config import Config, CWVAEConfig
from cwvae.errors import UserError, exit_on_user_error
from cwvae.evaluation import level_targets, results
from cwvae.run import files
from cwvae.run import folder as run_folder
from cwvae.startup import starting_tensorflow

FOLDER = "levels"
TRAINING_CLIPS = 1000


def levels(
    config: Config,
    logdir: str | pathlib.Path,
    step: int | None = None,
    out: str | pathlib.Path | None = None,
    training_clips: int = TRAINING_CLIPS,
    data=None,
) -> str:
    """Reads the levels of a run's model, and writes levels.md, levels.csv and levels.png.

    See `cwvae.evaluation.level_content`.

    Args:
      config: The run's configuration. `evaluation` has the number of held-out clips, the context
        and the horizon.
      logdir: The folder of a run or an export.
      step: The step of the run's checkpoint; None for the newest.
      out: The folder to write; `levels` in the run's folder if None.
      training_clips: How many training clips to fit the readouts to, if there are as many.
      data: The training and the test data set; None for those of the configuration.

    Returns:
      The tables as Markdown.

    Raises:
      UserError: The model has no levels, the content of the clips is not known, or they are too
        few or too short.
      OSError: The folder cannot be written.
    """
    if not isinstance(config.model, CWVAEConfig):
        raise UserError(
            f"--logdir {logdir}: model.name = {config.model.name}, which has no levels to read."
            " Give a run of cwvae; with model.levels = 1 it is an RSSM."
        )
    if training_clips < 1:
        raise UserError(f"--training-clips {training_clips}: give a number from 1.")
    export.find(logdir, step)
    data = data or [
        data_loaders.load(split=split, **config.data_options()) for split in ("train", "test")
    ]
    run_folder.warn_of_other_data(logdir, data[0])
    level_targets.targets(data[0])  # TensorFlow starts slowly: first check the data.
    folder = pathlib.Path(logdir) / FOLDER if out is None else pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with starting_tensorflow():
        from cwvae import factory, visualize
        from cwvae.evaluation import level_content, level_tables

    model = factory.build(config)
    step = export.restore(logdir, step, model, config.evaluation.ema)
    content = level_content.measure(
        config.evaluation, model, config.training.seq_len, *data, training_clips
    )
    where = str(logdir) if step is None else f"{logdir}, step {step:,}"
    tables = level_tables.markdown(content, f"What the levels of {where} hold")
    drawn = visualize.figure_bytes(level_tables.figure(content), "png")
    files.write(folder / "levels.md", tables)
    files.write(folder / "levels.csv", level_tables.csv_text(content))
    files.write(folder / "levels.png", drawn)
    return tables


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logdir", required=True, help="the folder of a run or an export")
    parser.add_argument("--step", type=int, help="the checkpoint; the newest by default")
    parser.add_argument(
        "--clips", type=int, metavar="N", help="held-out clips (evaluation.num_videos)"
    )
    parser.add_argument(
        "--training-clips",
        type=int,
        default=TRAINING_CLIPS,
        metavar="N",
        help=f"training clips that readouts are fitted to ({TRAINING_CLIPS})",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="section.key=value", help="may be repeated"
    )
    parser.add_argument(
        "--out",
        default=FOLDER,
        metavar="NAME",
        help="the folder to write: a name in the run's folder, or a path such as ./NAME",
    )
    arguments = configuration.parse_arguments(parser)
    settings = list(arguments.set)
    if arguments.clips is not None:
        settings.append(f"evaluation.num_videos={arguments.clips}")
    with exit_on_user_error():
        config = run_folder.load_config(arguments.logdir, settings)
        out = results.folder_at(arguments.logdir, arguments.out)
        tables = levels(config, arguments.logdir, arguments.step, out, arguments.training_clips)
        print(tables)
        print(f"Written to {out}.")


if __name__ == "__main__":
    main()
