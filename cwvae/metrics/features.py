"""Features of videos on the disk, so that memory does not grow with the number of videos.

P: pieces of a video, N: videos, D: features.
"""

import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

Piece = tuple[int, int]  # first frame, and the one after the last

_ROWS = 256  # videos that are read at a time
_CHECKSUM = hashlib.sha256().digest_size


class Features:
    """Features of the same pieces of all videos, in a file: float32 [P, N, D].

    Attributes:
      pieces: The P pieces.
      written: Videos whose features are there.
    """

    def __init__(self, pieces: Sequence[Piece], num_videos: int, size: int, file: BinaryIO):
        """Takes a file that is open; see `temporary` and `read`."""
        self.pieces, self.written = list(pieces), 0
        # Unlike an array mapped to it, it fails with an error where the disk is full.
        self._file = file
        self._count, self._size = num_videos, size

    @classmethod
    def temporary(cls, pieces: Sequence[Piece], num_videos: int, size: int) -> "Features":
        """Returns an empty one, whose file goes with it.

        Args:
          pieces: The P pieces.
          num_videos: N.
          size: D.
        """
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when nobody has it any more)
        return cls(pieces, num_videos, size, file)

    @classmethod
    def read(
        cls, path: pathlib.Path, pieces: Sequence[Piece], num_videos: int, size: int
    ) -> "Features | None":
        """Returns what `keep` wrote; None where there is nothing, or, as stderr says, damaged."""
        try:
            file = open(path, "rb")  # noqa: SIM115 (features are read as they are needed)
        except FileNotFoundError:
            return None
        length = 4 * len(pieces) * num_videos * size
        if os.fstat(file.fileno()).st_size == length + _CHECKSUM:
            checksum = _checksum(file, length)
            if file.read() == checksum:
                features = cls(pieces, num_videos, size, file)
                features.written = num_videos
                return features
        file.close()
        print(f"warning: {path}: damaged. It is made anew.", file=sys.stderr)
        return None

    def append(self, features: Sequence[np.ndarray]) -> None:
        """Writes those of the next videos, one array [n, D] per piece."""
        for piece, values in zip(self.pieces, features, strict=True):
            self._seek(piece, self.written)
            self._file.write(np.ascontiguousarray(values, "<f4"))
        self._file.flush()
        self.written += len(features[0])

    def chunks(self, piece: Piece) -> Iterator[np.ndarray]:
        """Yields the features of a piece, some [n, D] at a time, from the first video on."""
        for start in range(0, self._count, _ROWS):
            rows = min(_ROWS, self._count - start)
            self._seek(piece, start)
            content = self._file.read(4 * rows * self._size)
            yield np.frombuffer(content, "<f4").reshape(rows, self._size)

    def keep(self, path: pathlib.Path) -> None:
        """Writes them, with a checksum, to where `read` finds them; a failure goes to stderr."""
        aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(aside, "wb") as file:
                    self._file.seek(0)
                    shutil.copyfileobj(self._file, file)
                    file.write(_checksum(self._file, self._file.tell()))
                os.replace(aside, path)  # A file that is there is whole.
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            print(
                f"warning: {path}: cannot be written ({error.strerror}). These features will be"
                " computed again next time.",
                file=sys.stderr,
            )

    def _seek(self, piece: Piece, video: int) -> None:
        row = self.pieces.index(piece) * self._count + video
        self._file.seek(4 * row * self._size)


def _checksum(file: BinaryIO, length: int) -> bytes:
    """Of so many bytes from a file's beginning; what follows them is the next to be read."""
    file.seek(0)
    digest = hashlib.sha256()
    while length and (chunk := file.read(min(length, 1 << 20))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()
