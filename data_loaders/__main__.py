"""Prepares, describes and verifies the stores that training reads.

    cwvae data prepare gqn_mazes          makes the store, as its first use would
    cwvae data info gqn_mazes             counts, lengths, size, a picture of frames
    cwvae data check gqn_mazes            reads every byte and compares checksums

Settings come from configs/NAME.yml if that file exists, or from --config, and from --set.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import tqdm
from PIL import Image

import data_loaders
from cwvae import config as configuration
from cwvae import visualize
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import CONFIGS, program
from data_loaders.sources import SPLITS, Source
from data_loaders.store import preparation, store
from data_loaders.store.store import Store

_LISTED = 200  # Up to this number of videos, `info` has a line for each.
_SHOWN = (4, 8)  # The number of clips per split, and of frames per clip, in the picture.


def prepare(options: dict, processes: int | None, again: bool) -> None:
    """Makes the store of a data set."""
    source = data_loaders.open_source(**options)
    data_dir = data_loaders.data_folder(options["data_dir"])
    try:
        folder = preparation.prepare(source, data_dir, options, processes, again)
    except KeyboardInterrupt:
        print("Stopped. The same command resumes from here.", file=sys.stderr)
        raise
    for split in SPLITS:
        Store(folder, split)  # An existing store may be damaged.
    print(f"{folder} is ready.")


def info(options: dict, out: str | None) -> None:
    """Prints a summary of a store, and writes a picture of some frames."""
    source, folder = _existing(options)
    content = store.summary(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{content['name']}: {folder}")
    print(f"prepared {content['made']}, {preparation.size_text(size)} on the disk")
    print("from " + json.dumps(content["description"]))
    height, width, channels = content["frame_shape"]
    print(f"frames of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}")
    head = "videos", "frames", "shortest", "longest", "skipped"
    print("      {:>8}{:>12}{:>10}{:>9}{:>10}  mean, standard deviation".format(*head))
    for split in SPLITS:
        numbers = content["splits"][split]
        mean, stddev = numbers["mean"], numbers["stddev"]
        print(
            f"{split:6}{numbers['clips']:8,}{numbers['frames']:12,}{numbers['shortest']:10,}"
            f"{numbers['longest']:9,}{numbers['skipped']:10,}  {mean}, {stddev}"
        )
    print("videos:")
    for line in _treatments(folder):
        print(f"  {line}")
    with contextlib.suppress(UserError):  # If the original videos no longer exist.
        for remark in source.remarks():
            print(f"note: {remark}")
    path = pathlib.Path(out) if out else folder / "samples.png"
    try:
        _picture(folder).save(path)
    except (OSError, ValueError) as error:  # ValueError: not the extension of a picture.
        raise UserError(
            f"{path}: the picture cannot be written there ({error}). Give another --out FILE.png."
        ) from None
    print(f"sample frames: {path}")


def _treatments(folder: pathlib.Path) -> Iterator[str]:
    """Yields what was read of each video, changed in it and assumed, or why it was skipped.

    In large stores, a line stands for all videos of a split that were treated in the same way.
    """
    videos = list(store.report(folder))
    groups = collections.defaultdict(list)
    for number, (split, name, frames, notes, reason) in enumerate(videos):
        done = f"skipped: {reason}" if reason else "; ".join(notes)
        key = number if len(videos) <= _LISTED else None
        groups[split, done, key].append((store.label(split, name), frames))
    for (_, done, _), members in groups.items():
        more = f" and {len(members) - 1:,} more" if members[1:] else ""
        count = sum(frames or 0 for _, frames in members)
        frames = f"{count:,} frame{'s' * (count != 1)}" + ("; " * bool(done)) if count else ""
        yield f"{members[0][0]}{more}: {frames}{done}"


def check(options: dict) -> None:
    """Reads every byte of a store.

    Raises:
      UserError: There is no store, or clips are damaged.
    """
    _, folder = _existing(options)
    count = sum(part["clips"] for part in store.summary(folder)["splits"].values())
    damaged = [
        store.label(split, name)
        for split, name, intact in tqdm.tqdm(store.verify(folder), total=count, unit="video")
        if not intact
    ]
    if damaged:
        shown = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
        raise UserError(
            f"{folder}: {len(damaged)} of {count} videos are damaged: {shown}. Prepare it again, on"
            f" a working disk: python -m data_loaders prepare {options['name']} --again, with the"
            " same --config and --set."
        )
    print(f"{folder}: all {count} videos are intact.")


def _existing(options: dict) -> tuple[Source, pathlib.Path]:
    """Returns the source of a data set, and its store."""
    source = data_loaders.open_source(**options)
    folder = store.folder_of(source, data_loaders.data_folder(options["data_dir"]))
    if not store.is_complete(folder):
        raise UserError(
            f"{source.name}: there is no store {folder} yet. Make it: python -m data_loaders"
            f" prepare {source.name}, with the same --config and --set."
        )
    try:
        store.check_unchanged(source, folder)
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
    return source, folder


def _picture(folder: pathlib.Path) -> Image.Image:
    """Draws frames from clips of both splits, spread evenly over splits and clips."""
    rows, labels = [], []
    for split in SPLITS:
        data = Store(folder, split)
        for i in np.linspace(0, len(data) - 1, min(_SHOWN[0], len(data))).astype(int).tolist():
            moments = np.linspace(0, data.length(i) - 1, _SHOWN[1]).astype(int).tolist()
            rows.append([data.clip(i, t, 1) for t in moments])
            labels.append(f"{split} {i}")
    grid = visualize.grid(rows, scale=max(1, 128 // rows[0][0].shape[1]))
    return Image.fromarray(visualize.label_rows(grid, labels)[0])


def _options(arguments: argparse.Namespace) -> dict:
    """Returns the arguments of `data_loaders.open_source`."""
    name, path = arguments.name, arguments.config
    if path is None and (CONFIGS / f"{name}.yml").is_file():
        path = CONFIGS / f"{name}.yml"
    changes = [*arguments.set, f"data.name={json.dumps(name)}"]
    config = configuration.load(path, changes, purpose="data")
    return config.data_options()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog=program("data_loaders"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("prepare", "make the store of a data set"),
        ("info", "summarize a store, and draw some of its frames"),
        ("check", "read every byte of a store, and compare checksums"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", metavar="NAME", help="a data set, as in data.name")
        command.add_argument("--config", help="an experiment's YAML file, for its settings")
        command.add_argument("--set", action="append", default=[], metavar="section.key=value")
        if name == "prepare":
            command.add_argument("--processes", type=_count, help="default: one per core")
            command.add_argument("--again", action="store_true", help="replace an existing store")
        if name == "info":
            command.add_argument("--out", metavar="FILE", help="the picture to write")
    arguments = configuration.parse_arguments(parser)
    for stream in (sys.stdout, sys.stderr):  # Names of files may have any bytes.
        stream.reconfigure(errors="backslashreplace")
    with exit_on_user_error():
        options = _options(arguments)
        if arguments.command == "prepare":
            prepare(options, arguments.processes, arguments.again)
        elif arguments.command == "info":
            info(options, arguments.out)
        else:
            check(options)


if __name__ == "__main__":
    sys.exit(main())
