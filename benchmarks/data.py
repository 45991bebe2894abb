"""Measures the frames per second of batches, and the memory of a long run over a large store.

    python benchmarks/data.py [--seconds 5] [--batches 2000] [--directory /tmp]

Prints Markdown tables; --seconds is the time per rate, --batches the length of the memory table.
Stores have random frames, or for the first table are a sparse file of 10 GB, in a folder that is
removed at the end. They are warm: all reads come from memory.
"""

import hashlib
import json
import math
import pathlib
import tempfile
import time

import numpy as np
import psutil
import timing

import data_loaders
from cwvae.startup import quiet_tensorflow
from data_loaders.pipeline import Dataset
from data_loaders.store import store

BATCH, LENGTH, SHAPE = 50, 100, (64, 64, 3)
CLIP = 300  # Frames per clip of the stores, as in GQN Mazes.
CLIP_BYTES = CLIP * math.prod(SHAPE)


class Mapped(store.Store):
    """A store that is read through a memory map, for comparison."""

    def __init__(self, folder: pathlib.Path, split: str):
        """Maps the frames."""
        super().__init__(folder, split)
        self._frames = np.memmap(store.frames_file(folder, split), np.uint8, "r")
        self._frames = self._frames.reshape(-1, *SHAPE)

    def _read_into(self, video: np.ndarray, i: int, start: int) -> None:
        first = i * CLIP + start
        video[:] = self._frames[first : first + len(video)]


def make_store(folder: pathlib.Path, size: float, sparse: bool = False) -> None:
    """Writes a store of `size` bytes, with random frames or as a sparse file."""
    clips = max(1, int(size / CLIP_BYTES))
    lines = [json.dumps({"name": str(i), "frames": CLIP}) + "\n" for i in range(clips)]
    index = "".join(lines).encode()
    folder.mkdir(parents=True)
    store.index_file(folder, "train").write_bytes(index)
    with open(store.frames_file(folder, "train"), "wb") as file:
        if sparse:
            file.truncate(clips * CLIP_BYTES)
        else:
            rng = np.random.default_rng(0)
            for _ in range(clips):
                file.write(rng.bytes(CLIP_BYTES))
    split = {"clips": clips, "index_sha256": hashlib.sha256(index).hexdigest()}
    store.write_summary(folder, {"frame_shape": SHAPE, "splits": {"train": split}})


def speed(dataset: Dataset, batch: int, length: int, seconds: float) -> float:
    """Returns the frames per second of `batches`."""
    stream = iter(dataset.batches(batch, length, seed=0))
    for _ in range(4):
        next(stream)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(stream)
        count += 1
    return count * batch * length / (time.perf_counter() - start)


def print_stores(folder: pathlib.Path, seconds: float) -> None:
    """Prints the speed of stores of several sizes, and of a memory map."""
    print(f"\n| store, batches of {BATCH} x {LENGTH} x 64x64x3 | frames/s | through a memory map |")
    print("| --- | --- | --- |")
    for size in (0.1e9, 0.5e9, 2.5e9):
        path = folder / f"{size:.0f}"
        make_store(path, size)
        read, mapped = store.Store(path, "train"), Mapped(path, "train")
        rates = [speed(dataset, BATCH, LENGTH, seconds) for dataset in (read, mapped)]
        print(f"| {size / 1e9:.1f} GB | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
    print("\n| windows, store of 2.5 GB | frames/s |\n| --- | --- |")
    for batch, length in ((8, 100), (50, 20), (200, 100)):
        print(f"| {batch} x {length} | {speed(read, batch, length, seconds):,.0f} |", flush=True)


def print_digits(seconds: float) -> None:
    """Prints the speed of moving digits."""
    print(f"\n| moving_digits, batches of {BATCH} x {LENGTH} | frames/s |\n| --- | --- |")
    options = ({}, {"channels": 3}, {"num_digits": 4}, {"frame_size": 128, "digit_size": 56})
    for changes in options:
        dataset = data_loaders.load("moving_digits", "train", **changes)
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) or "2 digits, 64x64x1"
        print(f"| {name} | {speed(dataset, BATCH, LENGTH, seconds):,.0f} |", flush=True)


def print_memory(folder: pathlib.Path, batches: int) -> None:
    """Prints the memory of a run over a store of 10 GB, and with a memory map."""
    make_store(folder / "sparse", 10e9, sparse=True)
    kinds = {"store": store.Store, "through a memory map": Mapped}
    times = [batches * part // 8 for part in range(1, 9)]
    print(f"| resident MiB after batch | {' | '.join(map(str, times))} |")
    print("| --- |" + " --- |" * len(times))
    for name, kind in kinds.items():
        stream = iter(kind(folder / "sparse", "train").batches(BATCH, LENGTH, seed=0))
        held = []
        for number in range(1, batches + 1):
            next(stream)
            if number in times:
                held.append(f"{psutil.Process().memory_info().rss / 2**20:,.0f}")
        print(f"| {name} | {' | '.join(held)} |", flush=True)


def main() -> None:
    """Runs the command line."""
    options = timing.options(__doc__, seconds=5.0, batches=2000, directory="")
    with quiet_tensorflow():
        import tensorflow  # noqa: F401 - keeps its messages out of the tables
    with tempfile.TemporaryDirectory(dir=options.directory or None) as folder:
        print_memory(pathlib.Path(folder), options.batches)
        print_stores(pathlib.Path(folder), options.seconds)
        print_digits(options.seconds)


if __name__ == "__main__":
    main()
