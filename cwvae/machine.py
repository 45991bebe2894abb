"""Measures a machine once: how fast it computes in bfloat16, and with which kernels.

Answers are kept in `files.cache_folder()`, so that all runs on a machine get the same ones. A file
that cannot be read is measured again.
"""

import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import sys
import time
import timeit
from collections.abc import Callable, Sequence

import tensorflow as tf

from cwvae.installation import VERSION
from cwvae.run import files

# bfloat16 is used where its matrix products are this many times as fast as those in float32. Where
# they were 1.7 times as fast, a training step gained only 1.1 to 1.5 times: half of it is not
# products, and gains nothing. So with less than this a step would gain next to nothing.
BFLOAT16_GAIN = 1.3

# Products of one size take turns: for this time in seconds, within these numbers of turns.
_SECONDS, _LEAST_TURNS, _MOST_TURNS = 0.2, 6, 30
# Sizes of the matrices. A GPU needs large ones; a processor without bfloat16 may need seconds for
# the second.
_SMALLEST, _LARGEST = 256, 8192
# The duration of a product in seconds: long enough to make the time to start it negligible, and
# short enough that other programs do not interrupt all of them.
_LONG_ENOUGH = 0.002

# Beginnings of the lines of /proc/cpuinfo that tell processors apart.
_TELLING = ("model name", "flags", "CPU part", "Features")
# Environment variables that change the speed of oneDNN, TensorFlow's library for CPUs.
_ENVIRONMENT = ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS")

# How a device says that it cannot compute such products. Other errors, such as a lack of memory,
# pass, and must not become an answer that is kept.
_NO_SUCH_PRODUCT = (
    tf.errors.UnimplementedError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
)

# What was read or measured in this process, by file.
_known: dict[pathlib.Path, float] = {}


def has_gpu() -> bool:
    """Returns whether TensorFlow computes on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def precision() -> str:
    """Returns the value that `training.precision=auto` stands for on this machine."""
    return "bfloat16" if bfloat16_gain() >= BFLOAT16_GAIN else "float32"


def bfloat16_gain() -> float:
    """Returns how many times as fast as in float32 matrix products in bfloat16 are.

    0 if the device cannot compute in bfloat16. The first call on a machine takes up to a second.
    """
    return remembered("bfloat16", _measure_bfloat16)


def _measure_bfloat16() -> float:
    # TensorFlow 2.21 asks the processor what it can do, not oneDNN, and crashes with such a limit.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit and not limit.startswith(("AVX512", "AVX10", "ALL", "DEFAULT")) and not has_gpu():
        return 0.0
    # Of a CPU the time that it computes, not that of the clock, in which other programs run, too.
    timer = time.perf_counter if has_gpu() else time.process_time
    try:
        plain, rounded = product_rates(tf.float32, tf.bfloat16, timer=timer)
    except _NO_SUCH_PRODUCT:
        return 0.0
    return rounded / plain


def product_rates(*dtypes: tf.DType, timer: Callable[[], float] = time.perf_counter) -> list[float]:
    """Measures the speed of matrix products on the default device, in a fraction of a second.

    The types take turns, and the fastest product of each counts, because other programs may be at
    work on the machine.

    Args:
      *dtypes: The types of the matrices.
      timer: Returns the time in seconds.

    Returns:
      Floating-point operations per second for each type.
    """
    size = _SMALLEST
    while True:
        products = [_product(size, dtype) for dtype in dtypes]
        seconds = fastest(products, _LEAST_TURNS, _MOST_TURNS, _SECONDS, timer)
        if max(seconds) > _LONG_ENOUGH or size == _LARGEST:
            return [2 * size**3 / each for each in seconds]
        size *= 2


def _product(size: int, dtype: tf.DType) -> Callable[[], object]:
    a = tf.cast(tf.random.stateless_normal((size, size), (0, 0)), dtype)
    return lambda: tf.linalg.matmul(a, a)[0, 0].numpy()


def fastest(
    functions: Sequence[Callable[[], object]],
    least: int,
    most: int,
    limit: float,
    timer: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Returns the time of the fastest call of each function, in seconds.

    Args:
      functions: Functions, which take turns after one call of each that is not timed.
      least: The smallest number of turns.
      most: The largest number of turns.
      limit: Seconds after which no further turn begins, once there are enough.
      timer: Returns the time in seconds.
    """
    for function in functions:
        function()
    best, end = [math.inf] * len(functions), time.perf_counter() + limit
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        for i, function in enumerate(functions):
            best[i] = min(best[i], timeit.timeit(function, timer=timer, number=1))
    return best


def known(name: str, **about: object) -> float | None:
    """Returns the answer of an earlier measurement on this machine; None without one.

    Args:
      name: What was measured.
      **about: All that the answer depends on besides the machine and the versions.
    """
    path = _path(name, about)
    if path not in _known:
        try:
            value = float(json.loads(path.read_text(encoding="utf-8"))["value"])
        except (OSError, ValueError, KeyError, TypeError):  # Missing or damaged.
            return None
        if not math.isfinite(value):
            return None
        _known[path] = value
    return _known[path]


def remembered(name: str, measure: Callable[[], float], **about: object) -> float:
    """Returns the answer of an earlier measurement on this machine, or measures and keeps it.

    Of several processes that need the same answer one measures, and the others wait for it.

    Args:
      name: What is measured.
      measure: Measures it.
      **about: As for `known`.
    """
    if (value := known(name, **about)) is not None:
        return value
    path = _path(name, about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path.with_name(f".{path.stem}.lock"), "measuring this machine's speed"):
            if known(name, **about) is None:
                _known[path] = measure()
                content = _machine() | about | {"value": _known[path]}
                with files.cached(path) as aside:
                    aside.write_text(json.dumps(content, indent=1))
    except OSError as error:
        print(
            f"warning: {path}: cannot be written ({error.strerror}). The next run measures the"
            " speed of this machine again.",
            file=sys.stderr,
        )
        if path not in _known:
            _known[path] = measure()
    return _known[path]


def _path(name: str, about: dict[str, object]) -> pathlib.Path:
    text = json.dumps(_machine() | about, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return files.cache_folder() / "machine" / f"{name}-{digest}.json"


def _machine() -> dict[str, object]:
    """Returns what answers depend on: the device, the processor and the versions."""
    return {
        "cwvae": VERSION,
        "tensorflow": tf.__version__,
        "device": _device(),
        "processor": _processor(),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
    }


def _device() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


@functools.cache
def _processor() -> list[str]:
    """Returns what tells processors apart. Virtual machines call different ones "AMD EPYC"."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Not Linux.
        return [platform.processor(), platform.machine()]
    return sorted({line for line in lines if line.startswith(_TELLING)})
