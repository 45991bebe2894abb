"""Training and evaluation as separate processes: their start, share of the machine, and end.

No TensorFlow. A process that runs next to others has its own cores and, if there are GPUs, one GPU.
Its output goes to a file in the run's folder.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from cwvae.comparison import costs
from cwvae.errors import UserError
from cwvae.installation import CLONE, IS_CLONE, command

# Seconds between updates of a run's seconds.json; a power cut loses at most this much.
_TICK = 10
_MESSAGE = 2000  # most characters of a message from a log

# Makes the kernel end this process with its parent, even if that is killed, and starts a script.
# This is not done in a function between fork and exec, which is not safe in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class ScriptFailed(UserError):
    """Raised when a script fails. Its own message is on stderr or in its log."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of the machine that one of several processes uses.

    Attributes:
      cores: Numbers of its cores; empty if cores cannot be chosen here.
      environment: Environment variables of the process.
    """

    cores: Sequence[int]
    environment: dict[str, str]


def shares(jobs: int) -> list[Share]:
    """Divides the cores and GPUs that this process may use among a number of jobs."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus, count = _gpus(), len(cores)
    found = []
    for job in range(jobs):
        own = cores[job * count // jobs : (job + 1) * count // jobs]
        # One update a minute of progress bars, which go to a file.
        environment = {"TQDM_MININTERVAL": "60"}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]
        if 0 < len(gpus) < jobs:  # By default, TensorFlow takes all of a GPU's memory.
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        found.append(Share(own or cores[job % max(1, count) :][:1], environment))
    return found


def _gpus() -> list[str]:
    """Returns the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # The driver is missing, or hangs.
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


def log_path(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the file for the output of `train` or `eval` if it runs next to others."""
    return folder / f"{name}.log"


def start_script(
    name: str, folder: pathlib.Path, share: Share | None = None, settings: Sequence[str] = ()
) -> subprocess.Popen:
    """Starts `train` or `eval` on a run's folder, with `section.key=value` settings of `--set`.

    Alone, without a share of the machine, it shows its progress but not its stdout. The process
    inherits the cores of the thread that starts it.
    """
    words = ["-m", "cwvae", name, "--logdir", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    if sys.platform == "linux":
        words = ["-c", _LAUNCHER, str(os.getpid()), *words]
    environment = dict(os.environ)
    if IS_CLONE:  # Python finds the package from any working directory.
        paths = [str(CLONE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    words = [sys.executable, *words]
    if share is None:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment)
    with open(log_path(name, folder), "ab") as log:
        environment |= share.environment
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )


class Scripts(contextlib.AbstractContextManager):
    """Runs scripts, one in each of several threads.

    Within the block, SIGINT and SIGTERM end all of them; `stopped_by` is the first signal.
    """

    def __init__(self, start: Callable[..., subprocess.Popen] = start_script):
        self.stopped_by: signal.Signals | None = None
        self._start, self._running, self._here = start, set(), threading.local()

    def __enter__(self):
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._stop) for number in signals}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def use(self, share: Share | None) -> None:
        """Sets the part of the machine for the scripts that the calling thread runs."""
        self._here.share = share
        if share and share.cores:
            os.sched_setaffinity(0, share.cores)  # Of this thread; its processes inherit it.

    def run(
        self,
        name: str,
        folder: pathlib.Path,
        part: str,
        before: float = 0,
        settings: Sequence[str] = (),
    ) -> float:
        """Runs a script, and returns its seconds plus those of earlier sessions, `before`.

        `settings` are those of `--set`.

        Records them as a part of seconds.json. Raises `ScriptFailed` if it fails, unless it was
        stopped by a signal.
        """
        share = getattr(self._here, "share", None)
        log = log_path(name, folder) if share else None
        length = log.stat().st_size if log and log.exists() else 0
        began, code = time.monotonic() - before, None
        process = self._start(name, folder, share, settings)
        self._running.add(process)
        try:
            if self.stopped_by:  # The signal arrived during the start.
                process.terminate()
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=_TICK)
                seconds = time.monotonic() - began
                # The script reports a full disk itself, and may survive it.
                with contextlib.suppress(OSError):
                    costs.write_seconds(folder, part, seconds)
        finally:
            if code is None:
                process.terminate()
                process.wait()
            self._running.discard(process)
        if code and not self.stopped_by:
            raise _failure(name, folder, code, log, length)
        return seconds

    def _stop(self, number: int, _) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number)
        # Always SIGTERM: Ctrl-C in a terminal sends SIGINT to the scripts as well, and a second
        # SIGINT would end them without saving.
        for process in list(self._running):
            process.terminate()


def _failure(name, folder, code, log, length) -> ScriptFailed:
    how = f"ended with exit code {code}" + "; see its message above" * (log is None)
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
        code = 128 - code
        if code == 128 + signal.SIGKILL:
            how += ", which happens when memory runs out"
    lines = [f"{folder}: {command(name)} {how}."]
    if log is not None:
        lines[0] += f" Its output is in {log}."
        if message := _last_message(log, length):
            lines[0] += " It ends with:"
            lines.append(message)
    after = " " if len(lines) == 1 else "\n"
    advice = "Fix the cause, then run the same command to resume."
    return ScriptFailed("\n".join(lines) + after + advice, code)


def _last_message(log: pathlib.Path, length: int) -> str:
    """Returns the last error in a log after a number of bytes, or its last line; "" if empty."""
    text = log.read_bytes()[length:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    return "\n".join(lines[starts[-1] :] if starts else lines[-1:])[:_MESSAGE]
