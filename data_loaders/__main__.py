"""Prepares, describes and verifies the data that training reads.

    cwvae data prepare gqn_mazes          makes the store, as its first use would
    cwvae data info gqn_mazes             counts, lengths, size, a picture of frames
    cwvae data check gqn_mazes            reads every byte and compares checksums

Settings come from configs/NAME.yml if that file exists, or from --config, and from --set.
"""

import argparse
import collections
import contextlib
import inspect
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tqdm
from PIL import Image

import data_loaders
from cwvae import config as configuration
from cwvae import visualize
from cwvae.errors import UserError, exit_on_user_error
from cwvae.installation import CONFIGS, program
from data_loaders.generated.procedural_mazes import ProceduralMazes
from data_loaders.sources import SPLITS, Source
from data_loaders.store import preparation, store
from data_loaders.store.store import Store

_LISTED = 200  # Up to this number of videos, `info` has a line for each.
_SHOWN = (4, 8)  # The number of clips per split, and of frames per clip, in the picture.

# A clip's label in the picture, and its frames [1, H, W, C].
_Row = tuple[str, list[np.ndarray]]


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
    """Prints a summary of a data set, and writes a picture of some frames."""
    if options["name"] in data_loaders.GENERATORS:
        rows, path = _generator_info(options)
    else:
        source = data_loaders.open_source(**options)
        data_dir = data_loaders.data_folder(options["data_dir"])
        stored = store.is_complete(store.folder_of(source, data_dir))
        if isinstance(source, ProceduralMazes) and not stored:
            rows, path = _mazes_info(source, data_dir)
        else:
            rows, path = _store_info(options)
    path = pathlib.Path(out) if out else path
    try:
        if not out:
            path.parent.mkdir(parents=True, exist_ok=True)
        _picture(rows).save(path)
    except (OSError, ValueError) as error:  # ValueError: not the extension of a picture.
        raise UserError(
            f"{path}: the picture cannot be written there ({error}). Give another --out FILE.png."
        ) from None
    print(f"sample frames: {path}")


def _store_info(options: dict) -> tuple[list[_Row], pathlib.Path]:
    """Prints a summary of a store, and returns frames of it and the path of their picture."""
    source, folder = _existing(options)
    content = store.summary(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{content['name']}: {folder}")
    print(f"prepared {content['made']}, {preparation.size_text(size)} on the disk")
    print("from " + json.dumps(content["description"]))
    _print_shape(content["frame_shape"])
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
    rows = []
    for split in SPLITS:
        data = Store(folder, split)
        rows += [_clip_row(split, i, data) for i in _spread(len(data), _SHOWN[0])]
    return rows, folder / "samples.png"


def _generator_info(options: dict) -> tuple[list[_Row], pathlib.Path]:
    """Prints how clips are made that are computed when they are read; returns frames as above."""
    kind = data_loaders.GENERATORS[options["name"]]
    own = {key: options[key] for key in inspect.signature(kind).parameters if key in options}
    _print_generated(options["name"], kind, own, "Clips are computed when they are read.")
    data = {split: data_loaders.load(split=split, **options) for split in SPLITS}
    _print_shape(data["train"].frame_shape)
    _print_counts({split: (len(its), its.clips.longest) for split, its in data.items()})
    rows = [_clip_row(split, i, its) for split, its in data.items() for i in range(_SHOWN[0])]
    return rows, _picture_path(data_loaders.data_folder(options["data_dir"]), options["name"])


def _mazes_info(source: ProceduralMazes, data_dir: pathlib.Path) -> tuple[list[_Row], pathlib.Path]:
    """Prints how walks are made that have no store yet; returns frames as above."""
    description, name = source.describe(), source.name
    remark = f"There is no store yet. The first use makes {store.folder_of(source, data_dir)}."
    _print_generated(name, type(source), description, remark)
    _print_shape(source.frame_shape)
    items = {split: source.items(split) for split in SPLITS}
    _print_counts({k: (len(its), description[f"{k}_length"]) for k, its in items.items()})
    rows = []
    for split, its in items.items():
        for i in _spread(len(its), _SHOWN[0]):
            clip = np.concatenate(list(source.read(split, its[i])))
            rows.append(_row(split, i, len(clip), lambda t, clip=clip: clip[t : t + 1]))
    return rows, _picture_path(data_dir, name)


def _print_generated(name: str, kind: type, settings: Mapping, remark: str) -> None:
    print(f"{name}: {inspect.getdoc(sys.modules[kind.__module__]).splitlines()[0]}")
    print(remark)
    print("from " + json.dumps(settings))


def _print_shape(frame_shape: Sequence[int]) -> None:
    height, width, channels = frame_shape
    print(f"frames of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}")


def _print_counts(counts: Mapping[str, tuple[int, int]]) -> None:
    """Prints the number of videos of each split, and of the frames of each of them."""
    print("      {:>14}{:>18}".format("videos", "frames of each"))
    for split, (videos, frames) in counts.items():
        print(f"{split:6}{videos:14,}{frames:18,}")


def _picture_path(data_dir: pathlib.Path, name: str) -> pathlib.Path:
    return data_dir / "stores" / f"{name}-samples.png"


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


def _spread(count: int, most: int) -> list[int]:
    """Returns at most this many numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def _row(split: str, number: int, length: int, frame: Callable[[int], np.ndarray]) -> _Row:
    """Returns a label, and frames that are evenly spread over a clip. `frame` reads one of them."""
    moments = np.linspace(0, length - 1, _SHOWN[1]).astype(int).tolist()
    return f"{split} {number}", [frame(t) for t in moments]


def _clip_row(split: str, number: int, data: data_loaders.Dataset) -> _Row:
    return _row(split, number, data.length(number), lambda t: data.clip(number, t, 1))


def _picture(rows: Sequence[_Row]) -> Image.Image:
    """Draws a row of frames per clip."""
    labels, frames = zip(*rows, strict=True)
    grid = visualize.grid(frames, scale=max(1, 128 // frames[0][0].shape[1]))
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
        ("info", "summarize a data set, and draw some of its frames"),
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
