"""Predictions files: a model's predicted frames of held-out clips, in one .npz file.

Anybody can write one: `np.savez(path, frames=frames)`. `eval.py --predictions` scores it, and
`eval.py --save-predictions` writes one. The arrays are:

  frames: [N, T, H, W, C], or [N, S, T, H, W, C] with S samples per clip. uint8, or floats in
    [0, 1]. Clip n continues the n-th evaluated clip.
  context: Optional. The frames that the model saw, [N, context frames, H, W, C]. They are compared
    with those of the evaluated clips.
  unclipped: Optional. Whether floats may leave [0, 1], as a decoder's means do.

Files are read and written a batch of clips at a time. No TensorFlow.

Symbols: N videos, S samples, T predicted frames, H, W: height and width, C: channels.
"""

import contextlib
import math
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from cwvae.errors import UserError
from cwvae.visualize import to_uint8

FRAMES, CONTEXT, UNCLIPPED = "frames", "context", "unclipped"

# Floats may leave [0, 1] by this much, for instance after resizing.
_TOLERANCE = 1e-3
_PIECE = 1 << 20  # Bytes read at a time.
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(
            f"{path}: not a whole .npz file of predictions ({error}). Write it again with np.savez."
        ) from None


class _Array:
    """An array in a .npz file, of which some rows are read at a time."""

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile, name: str):
        self._path, self._stream = path, archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._stream)
        if version not in _HEADERS:
            raise ValueError(f"{name} has an unknown format {version}")
        self.shape, fortran, self.dtype = _HEADERS[version](self._stream)
        known = "b" if name == UNCLIPPED else "f"
        if self.dtype.kind != known and self.dtype != np.uint8:
            raise UserError(f"{path}: {name} holds {self.dtype}. Save uint8, or floats in [0, 1].")
        if fortran and len(self.shape) > 1:
            raise UserError(
                f"{path}: {name} is in Fortran order. Save np.ascontiguousarray({name})."
            )
        self._begin = self._stream.tell()

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns `array[first : first + count]`. Reading in order is fast, also if compressed."""
        rows = np.empty((count, *self.shape[1:]), self.dtype)
        content = rows.reshape(-1).view(np.uint8)
        begin = self._begin + first * math.prod(self.shape[1:]) * self.dtype.itemsize
        done = 0
        with _reading(self._path):
            if self._stream.tell() != begin:  # A seek may end the check of the checksum.
                self._stream.seek(begin)
            while done < len(content):
                piece = self._stream.read(min(_PIECE, len(content) - done))
                if not piece:
                    raise EOFError(f"it ends after {begin + done} bytes")
                content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
            if first + count == math.prod(self.shape[:1]) and self._stream.read(1):
                raise ValueError("it has more bytes than its shape says")
        return rows


class Predictions:
    """The content of a predictions file. `rollouts.predict` takes it in place of a model."""

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile):
        """Reads the headers of the arrays; `opened` calls this."""
        self._path = path
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        if FRAMES not in names:
            raise UserError(
                f"{path}: the array {FRAMES!r} is missing; there is only"
                f" {', '.join(sorted(names))}. Save the predictions with"
                f" np.savez(path, {FRAMES}=...)."
            )
        self._frames = _Array(path, archive, FRAMES)
        self._context = _Array(path, archive, CONTEXT) if CONTEXT in names else None
        self._unclipped = UNCLIPPED in names and _Array(path, archive, UNCLIPPED).rows(0, 1).any()
        shape = self._frames.shape
        if len(shape) not in (5, 6) or 0 in shape:
            hint = " Gray frames need an axis of channels: frames[..., None]." * (len(shape) == 4)
            raise UserError(
                f"{path}: {FRAMES} must be [N, T, H, W, C], or [N, S, T, H, W, C] with S samples"
                f" per clip, not {list(shape)}.{hint}"
            )
        self._held = 0, np.empty((0, *shape[1:]))  # Number of the first row, and rows.

    @property
    def num_samples(self) -> int:
        """S."""
        return self._frames.shape[1] if len(self._frames.shape) == 6 else 1

    def boundaries(self, video, seed) -> None:
        """Returns None, as models without segments do."""

    def sample(self, first: int, count: int, number: int) -> np.ndarray:
        """Returns a sample of clips `first` to `first + count`: uint8 or floats [B, T, H, W, C].

        Memory holds all samples of these clips.
        """
        begin, rows = self._held
        if (begin, len(rows)) != (first, count):
            rows = self._frames.rows(first, count)
            self._held = first, rows
        return rows[:, number] if rows.ndim == 6 else rows

    def check_fit(self, options, frame_shape: tuple[int, int, int]) -> None:
        """Checks the shape against the section `evaluation` and the frames of a configuration.

        Raises:
          UserError: It does not fit. The message says which settings do.
        """
        clips, *_, frames, height, width, channels = self._frames.shape
        found = height, width, channels
        if found != tuple(frame_shape):
            hint = ""
            if found == (frame_shape[2], *frame_shape[:2]):
                hint = " Channels come last: np.moveaxis(frames, -3, -1)."
            raise UserError(
                f"{self._path}: frames of {_size(found)}, but the configuration has clips of"
                f" {_size(frame_shape)}.{hint or ' Give the --config of these clips.'}"
            )
        counts = {"num_videos": clips, "num_samples": self.num_samples, "horizon": frames}
        wrong = {key: count for key, count in counts.items() if count != getattr(options, key)}
        if wrong:
            given = ", ".join(f"evaluation.{key} = {getattr(options, key)}" for key in wrong)
            sets = " ".join(f"--set evaluation.{key}={count}" for key, count in wrong.items())
            raise UserError(
                f"{self._path}: predictions of {clips} clips, {self.num_samples} samples each, of"
                f" {frames} frames, but {given}. To score all of them: {sets}"
            )

    def check_values(self) -> None:
        """Reads the whole file.

        Raises:
          UserError: It is damaged, or holds values other than frames in [0, 1].
        """
        low, high = math.inf, -math.inf
        for clip in range(self._frames.shape[0]):
            rows = self._frames.rows(clip, 1)
            if rows.dtype.kind == "f" and not np.isfinite(rows).all():
                raise UserError(
                    f"{self._path}: clip {clip} (from 0) holds a NaN or an infinity. Save finite"
                    " values."
                )
            low, high = min(low, rows.min()), max(high, rows.max())
        if self._frames.dtype == np.uint8:
            if high <= 1:
                raise UserError(
                    f"{self._path}: {FRAMES} holds uint8 of at most {high}, which is black. Save"
                    " values from 0 to 255, or floats in [0, 1]."
                )
            return
        if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
            return
        # A few units away from [0, 1], values are in other units, whatever the file says.
        if self._unclipped and max(-low, high - 1) < 2:
            return
        if low >= 0 and high > 2:
            advice = "If they are from 0 to 255, save them as uint8."
        else:
            advice = (
                "If they are from -1 to 1, save (frames + 1) / 2. If they are the unclipped output"
                f" of a model for values in [0, 1], clip them, or save {UNCLIPPED}=True with them."
            )
        raise UserError(
            f"{self._path}: floats must be in [0, 1], not from {low:.6g} to {high:.6g}. {advice}"
        )

    def check_context(self, held_out, context: int) -> None:
        """Compares the context in the file, if there is one, with that of the evaluated clips.

        Args:
          held_out: The evaluated clips.
          context: `evaluation.context`.

        Raises:
          UserError: They differ: the predictions are of other clips.
        """
        if self._context is None:
            return
        advice = (
            "Give the --config, and with --set the settings of data and evaluation, that the"
            " predictions were made with."
        )
        shape = (self._frames.shape[0], context, *self._frames.shape[-3:])
        if self._context.shape != shape:
            raise UserError(
                f"{self._path}: {CONTEXT} is {list(self._context.shape)}, but evaluation.context ="
                f" {context} needs {list(shape)}. {advice}"
            )
        for clip in range(shape[0]):
            seen = to_uint8(self._context.rows(clip, 1)[0])
            if not np.array_equal(seen, held_out.clip(clip, 0, context)):
                raise UserError(
                    f"{self._path}: the context of clip {clip} (from 0) is not that of held-out"
                    f" clip {clip}. {advice}"
                )


def _size(frame_shape: tuple[int, ...]) -> str:
    return "x".join(map(str, frame_shape))


@contextlib.contextmanager
def opened(path: str | pathlib.Path) -> Iterator[Predictions]:
    """Opens a predictions file within a `with` block.

    Raises:
      UserError: It is missing, damaged or another kind of file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the .npz file of predictions.")
    with contextlib.ExitStack() as stack:
        with _reading(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            content = Predictions(path, archive)
        yield content


def size_text(count: int) -> str:
    """Returns a number of bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def size(options, frame_shape: tuple[int, int, int]) -> int:
    """Returns about how many bytes `written` will write."""
    pixels = options.num_videos * math.prod(frame_shape)
    return pixels * (4 * options.num_samples * options.horizon + options.context) + 4096


def check_room(folder: pathlib.Path, needed: int) -> None:
    """Raises a UserError unless a folder that exists has room for a file of `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the predictions need {size_text(needed)}, but {size_text(free)} are"
            " free. Make room, write elsewhere with --out, or lower evaluation.num_videos,"
            " evaluation.num_samples or evaluation.horizon."
        )


class Writer:
    """Writes the array `frames` a batch of clips at a time; `written` calls this."""

    def __init__(self, stream, options, frame_shape: tuple[int, int, int]):
        self._stream, self._clip = stream, (options.num_samples, options.horizon, *frame_shape)
        self._batch: np.ndarray | None = None
        _write_header(stream, (options.num_videos, *self._clip), np.float32)

    def add(self, videos: range, sample: int, start: int, frames: np.ndarray) -> None:
        """Takes a stretch [B, t, H, W, C] of the predictions of a batch, from frame `start` on.

        The batches come in order, each with all its samples and frames, also in order.
        """
        if self._batch is None:
            self._batch = np.empty((len(videos), *self._clip), np.float32)
        stop = start + frames.shape[1]
        self._batch[:, sample, start:stop] = frames
        if (sample + 1, stop) == self._clip[:2]:
            self._stream.write(self._batch.data)
            self._batch = None


@contextlib.contextmanager
def written(path: pathlib.Path, options, held_out) -> Iterator[Writer]:
    """Writes a predictions file of float32 frames, of which memory holds one batch of clips.

    Args:
      path: The file to write.
      options: The section `evaluation` of a configuration.
      held_out: The evaluated clips, whose context is written, too.
    """
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{FRAMES}.npy", "w", force_zip64=True) as stream:
            yield Writer(stream, options, held_out.frame_shape)
        with archive.open(f"{CONTEXT}.npy", "w", force_zip64=True) as stream:
            shape = (options.num_videos, options.context, *held_out.frame_shape)
            _write_header(stream, shape, np.uint8)
            for clip in range(options.num_videos):
                stream.write(np.ascontiguousarray(held_out.clip(clip, 0, options.context)).data)
        with archive.open(f"{UNCLIPPED}.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array(True), allow_pickle=False)


def _write_header(stream, shape: tuple[int, ...], kind: type) -> None:
    header = {"shape": shape, "fortran_order": False, "descr": np.dtype(kind).str}
    np.lib.format.write_array_header_1_0(stream, header)
