"""Kill -9 at random moments of every command. The same command resumes and changes no result."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers.numbered import content
from helpers.runs import assert_same_run
from helpers.scripts import ENVIRONMENT, ROOT, TINY, Forked, start
from helpers.video_files import scene, write_video

from cwvae.run import checkpoints

SEED = 0
# Of each command; there are two runs.
KILLS = {"prepare": 8, "train": 5, "eval": 4, "export": 4, "compare": 6}


@dataclasses.dataclass
class Command:
    """A command of a chain.

    Attributes:
      name: Its key in KILLS.
      words: The command line.
      output: The folder it writes to.
      env: Its environment.
      forks: Whether processes that need not be fresh are forks that have imported TensorFlow.
      resumes: Whether a finished command has nothing left to do. Otherwise, it does its work again
        and replaces its results.
    """

    name: str
    words: list
    output: pathlib.Path
    env: dict
    forks: bool = False
    resumes: bool = False

    def start(self, fresh=True):
        if self.forks and not fresh:
            return Forked(*self.words, env=self.env, log=self._beside("log"))
        with open(self._beside("log"), "w") as log:
            return start(*self.words, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def finish(self, process):
        assert process.wait(timeout=300) == 0, self._beside("log").read_text()

    def _beside(self, end):
        return self.output.with_name(f"{self.output.name}.{self.name}.{end}")

    @property
    def result(self):
        """A copy of the folder as this command left it, without the work of later commands."""
        return self._beside("result")

    def observe(self):
        """Runs the command to its end; stores its duration, and when its output changed."""
        began, process = time.monotonic(), self.start(fresh=False)
        self.changes = [moment - began for moment in changes(self.output, process) if moment]
        self.finish(process)
        self.duration = time.monotonic() - began
        shutil.copytree(self.output, self.result)
        print(f"{self.name}: {self.duration:.1f} s, {len(self.changes)} changes", flush=True)

    def kill_often(self, whole):
        """Kills the command many times, then lets it finish.

        Args:
          whole: The same command of another chain, after `observe`.
        """
        rng = random.Random(f"{SEED} {self.name} {self.output.name}")
        killed = self.writing = 0
        while killed < KILLS[self.name]:
            before = {*self.output.rglob("*.tmp")}
            kind = rng.choice(["any", "work", "write", "write"])
            process = self.start(fresh=kind == "any")
            wait(kind, self.output, process, rng, whole)
            process.kill()
            if process.wait() != -signal.SIGKILL:  # It has finished.
                self.finish(process)
                self.check(whole.result)
                print(f"{self.name} {self.output.name}, {kind}: finished", flush=True)
                if self.resumes:
                    shutil.rmtree(self.output)
                continue
            killed += 1
            left = sorted(path.name for path in {*self.output.rglob("*.tmp")} - before)
            self.writing += bool(left)
            for path in checkpoints.steps(self.output).values():
                checkpoints.read(path)  # Whole, or it raises an error.
            print(f"{self.name} {self.output.name}, kill {killed}, {kind}: {left}", flush=True)
        self.finish(self.start())
        print(f"{self.name} {self.output.name} resumed and finished", flush=True)
        self.check(whole.result)

    def check(self, result):
        """Checks that the finished command's output equals the result without a kill."""
        assert files_of(self.output) == files_of(result)
        if self.name == "train":
            assert_same_run(result, self.output)
        elif self.name == "prepare":
            want, got = (next(f.glob("stores/*/")) for f in (result, self.output))
            assert content(got) == content(want)
        else:
            for path in result.glob("eval/*" if self.name == "eval" else "*"):
                if path.name not in (".lock", "report.html"):  # Its animations hold the time.
                    other = self.output / path.relative_to(result)
                    assert other.read_bytes() == path.read_bytes(), other


def changes(folder, process):
    """Polls a folder until a process ends. Yields the time of a change, None for no change."""
    before = None
    while process.poll() is None:
        now = []
        for root, _, names in os.walk(folder):
            now.append(root)
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(os.path.join(root, name))
                    now.append((root, name, status.st_size, status.st_mtime_ns))
        yield time.monotonic() if before is not None and now != before else None
        before = now
        time.sleep(0.0005)


def wait(kind, folder, process, rng, whole):
    """Waits until a random moment of a process that writes to a folder.

    Args:
      kind: "any" for the whole duration of the command; "work" for the time since its first change
        in the folder; "write" for the milliseconds after any change.
      folder: The folder.
      process: The process.
      rng: The random numbers.
      whole: The command without kills, after `observe`.
    """
    began = time.monotonic()
    if kind == "any":
        left, delay = 0, rng.uniform(0, whole.duration)
    elif kind == "work":
        left, delay = 1, rng.uniform(0, whole.duration - whole.changes[0])
    else:
        # Work that is resumed must last for many kills.
        share = 2 / KILLS[whole.name] if whole.resumes else 1
        left = rng.randint(1, max(10, int(share * len(whole.changes))))
        delay = rng.uniform(0, 0.004)
    for moment in changes(folder, process):
        if left and moment:
            left, began = left - 1, moment
        if not left and time.monotonic() - began >= delay:
            break


def files_of(folder):
    """Returns the names of files; TensorBoard's records have others in each process."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(path for path in paths if not path.name.endswith(".v2"))


def chain(folder, config):
    """Returns the stages from videos to a table: commands in order, by what can run at once."""
    folder.mkdir()
    env = ENVIRONMENT | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TFDS_DATA_DIR": str(folder / "data"),
        "CWVAE_CACHE": str(folder.parent / "cache"),  # Messages name it.
    }
    words = ["-m", "data_loaders", "prepare", "video_folder", "--config", config]
    prepare = Command("prepare", [*words, "--processes", 2], folder / "data", env, resumes=True)
    runs = []
    for seed, label in enumerate("ab"):
        logdir, exported = folder / label, folder / f"{label}_export"
        words = ["train.py", "--config", config, "--logdir", logdir]
        train = [*words, "--set", f"training.seed={seed}"]
        # Without --overwrite, an export that is complete is refused.
        export = ["-m", "cwvae.export", "--logdir", logdir, "--out", exported, "--overwrite"]
        runs.append(
            [
                Command("train", train, logdir, env, forks=True, resumes=True),
                Command("eval", ["eval.py", "--logdir", logdir], logdir, env, forks=True),
                Command("export", export, exported, env, forks=True),
            ]
        )
    words = ["compare.py", folder / "a", folder / "b", "--out", folder / "table"]
    return [[prepare]], runs, [[Command("compare", words, folder / "table", env)]]


def go_through(do, *chains):
    """Calls a function of each command of a chain, and of the same commands of other chains."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for stages in zip(*chains, strict=True):
            tracks = [[*zip(*track, strict=True)] for track in zip(*stages, strict=True)]
            futures = [
                threads.submit(lambda track: [do(*same) for same in track], track)
                for track in tracks
            ]
            for future in futures:
                future.result()


@pytest.fixture
def config(tmp_path):
    """The configuration of tiny runs on videos made here."""
    for i in range(8):
        path = tmp_path / "videos" / ("train" if i < 5 else "test") / f"{i}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.roll(scene(20 + i, 1), i, axis=2))
    values = {name: value for name, value in TINY.items() if not name.startswith("data.")} | {
        "model.levels": 1,
        "model.frame_size": 32,
        "data.name": "video_folder",
        "data.videos_dir": str(tmp_path / "videos"),
        "training.steps": 120,
        "training.save_every": 2,
        "training.keep": 1,
        "training.log_every": 3,
        "training.strategy": "single",
        "evaluation.num_samples": 1,
    }
    sections = {}
    for name, value in values.items():
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    path = tmp_path / "tiny.yml"
    path.write_text(json.dumps(sections))
    return path


@pytest.mark.slow
def test_forty_kills_leave_no_trace(config, tmp_path, monkeypatch):
    """The moments are seeded, and printed on stdout."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    whole, killed = (chain(tmp_path / name, config) for name in ("whole", "killed"))
    go_through(Command.observe, whole)
    go_through(Command.kill_often, killed, whole)
    every = [command for stage in killed for track in stage for command in track]
    assert sum(KILLS[command.name] for command in every) == 40
    writing = {command.name: command.writing for command in every}
    print(f"kills that left a half-written file: {writing}")
    assert sum(command.writing for command in every) >= 6
