"""Reads the videos of a source into files of frames, in this process or in several others.

The others run `worker.py` and exchange lines of JSON. This needs no pickle, and the main program
can be a notebook, which cannot be imported again. A decoder that crashes ends only its own process.
The processes end with the main program even if it is killed.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

from cwvae.errors import UserError
from data_loaders.sources import BadVideo, Source, UnreadableVideo

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Signals that end a process whose decoder crashes on a file.
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


def read_one(source: Source, split: str, item: str, path: pathlib.Path) -> dict[str, object]:
    """Reads one video of a source into the file `path`, uint8 [frames, H, W, C].

    Returns:
      For a good video: `name`, `frames`, `sha256` of the file, `source_sha256`, and per channel
      `sum` and `squares`, the sums of the values and of their squares. For a bad one: `name`,
      `source_sha256` and `skipped`, the reason; the file's content is undefined. It also has
      `unreadable`, true, if the next attempt may succeed. Both have `notes` if the source told any.

    Raises:
      UserError: No video of this source can be read.
    """
    channels = source.frame_shape[-1]
    digest, frames = hashlib.sha256(), 0
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    source_digest, notes = None, {}
    try:
        source_digest = source.digest(split, item)
        with open(path, "wb") as file:
            for block in source.read(split, item, lambda note: notes.setdefault(note)):
                block = np.ascontiguousarray(block)
                file.write(block)
                digest.update(block)
                values = block.reshape(-1, channels)
                total += values.sum(0, dtype=np.int64)
                squares += np.square(values, dtype=np.uint16).sum(0, dtype=np.int64)
                frames += len(block)
        if frames == 0:
            raise BadVideo("has no frames")
    except BadVideo as error:
        answer = {"name": item, "skipped": str(error), "source_sha256": source_digest}
        if isinstance(error, UnreadableVideo):
            answer["unreadable"] = True
    else:
        answer = {
            "name": item,
            "frames": frames,
            "sha256": digest.hexdigest(),
            "source_sha256": source_digest,
            "sum": total.tolist(),
            "squares": squares.tolist(),
        }
    return answer | ({"notes": [*notes]} if notes else {})


Read = Callable[[str, list[str], pathlib.Path], Iterator[tuple[dict, pathlib.Path]]]


@contextlib.contextmanager
def open_readers(source: Source, recipe: dict | None, count: int) -> Iterator[Read]:
    """Starts the processes that read videos, and ends them with the block.

    Args:
      source: The videos.
      recipe: The arguments of `data_loaders.open_source` that create `source` in another process;
        None to read in this process.
      count: The number of processes.

    Yields:
      A function of a split, a list of items and a folder. For each item, in order, it yields the
      result of `read_one` and a file in the folder with the frames.
    """
    alone = recipe is None or count <= 1
    workers = [] if alone else [_Worker(recipe) for _ in range(count)]
    idle = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def read_in_worker(split: str, item: str, path: pathlib.Path) -> dict:
        worker = idle.get()
        try:
            answer = worker.read(split, item, path)
        finally:
            idle.put(worker)
        if "source_sha256" not in answer:  # It crashed. The digest shows later if it is replaced.
            with contextlib.suppress(BadVideo):
                answer["source_sha256"] = source.digest(split, item)
        return answer

    def close() -> None:
        for worker in workers:
            worker.close()

    def read(split, items, folder):
        # With this process's number, since a worker of a killed process may still be writing.
        paths = [folder / f"{split}-{number}.{os.getpid()}.tmp" for number in range(len(items))]
        jobs = zip(items, paths, strict=True)
        if alone:
            yield from ((read_one(source, split, item, path), path) for item, path in jobs)
            return
        waiting = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(count) as threads:
            try:
                for _ in items:
                    for item, path in itertools.islice(jobs, 2 * count + 1 - len(waiting)):
                        waiting.append((threads.submit(read_in_worker, split, item, path), path))
                    future, path = waiting.popleft()
                    yield future.result(), path
            except BaseException:  # Do not wait for the rest: a long video takes minutes.
                for future, _ in waiting:
                    future.cancel()
                close()
                raise

    try:
        yield read
    finally:  # Again, as a thread may have restarted its worker after an abort.
        close()


class _Worker:
    """A process that reads videos, running `worker.py`."""

    def __init__(self, recipe: dict):
        """Stores the arguments of `data_loaders.open_source`. The process starts when needed."""
        self._recipe, self._process = recipe, None

    def read(self, split: str, item: str, path: pathlib.Path) -> dict:
        """Returns the result of `read_one`. A video that crashes the process is skipped."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            self._send([split, item, str(path)])
            text = self._process.stdout.readline()
        except BrokenPipeError:
            text = ""
        if not text:
            return self._crashed(item)
        answer = json.loads(text)
        if "error" in answer:
            raise UserError(answer["error"])
        if "errno" in answer:
            raise OSError(answer["errno"], answer["problem"])
        return answer

    def close(self) -> None:
        """Kills the process; may be called from any thread."""
        if (process := self._process) is not None:  # Another thread may replace it.
            process.kill()
            process.wait()

    def _start(self) -> None:
        root = pathlib.Path(__file__).parent.parent.parent
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "data_loaders.store.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C reaches only the main process, which then ends this one.
            start_new_session=True,
            # One thread each, since there are as many processes as cores.
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self._send(self._recipe)

    def _send(self, request) -> None:
        self._process.stdin.write(json.dumps(request, default=_plain) + "\n")
        self._process.stdin.flush()

    def _crashed(self, item: str) -> dict:
        code = self._process.wait()
        reason = signal.Signals(-code).name if code < 0 else None
        if reason not in _CRASHES:
            raise UserError(
                f"{self._recipe['name']}, {item}: the process that read it ended with"
                f" {reason or f'exit code {code}'}, probably not because of the video. Prepared"
                " videos are kept: the same command resumes. If memory ran out:"
                f" python -m data_loaders prepare {self._recipe['name']} --processes 1"
            )
        return {"name": item, "skipped": f"crashes the decoder with {reason}"}


def _plain(value: object) -> object:
    """Converts NumPy's numbers and paths to types that JSON can write."""
    return value.item() if isinstance(value, np.generic) else str(value)
