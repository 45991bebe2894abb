"""Features of videos on the disk, so that memory use does not depend on the number of videos.

P: pieces of a video, N: videos, D: features.
"""

import hashlib
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from cwvae.run import files

Piece = tuple[int, int]  # The first frame, and the one after the last.

_ROWS = 256  # Videos read at a time.


class Features:
    """Features of the same `pieces` of all videos, of which `written` are in the file so far."""

    def __init__(
        self, pieces: Sequence[Piece], num_videos: int, size: int, file: BinaryIO | None = None
    ):
        """Takes the pieces, N, D, and an open file of float32 [P, N, D]; by default a new one."""
        self.pieces, self.written = list(pieces), 0
        self._count, self._size = num_videos, size
        # Not a memory map: on a full disk that ends the process instead of raising an error.
        self._file = file or tempfile.TemporaryFile()  # noqa: SIM115 (closed with the object)

    @classmethod
    def read(
        cls, path: pathlib.Path, pieces: Sequence[Piece], num_videos: int, size: int
    ) -> "Features | None":
        """Returns the features that `keep` wrote; None without them, or with a warning if bad."""
        try:
            file = open(path, "rb")  # noqa: SIM115 (features are read as they are needed)
            checksum = _checksum(file, 4 * len(pieces) * num_videos * size)
            if file.read(len(checksum) + 1) == checksum:
                features = cls(pieces, num_videos, size, file)
                features.written = num_videos
                return features
            file.close()
            problem = "damaged"
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        print(f"warning: {path}: {problem}. These features are computed again.", file=sys.stderr)
        return None

    def append(self, features: Sequence[np.ndarray]) -> None:
        """Writes the features of the next videos, one array [n, D] per piece."""
        for piece, values in zip(self.pieces, features, strict=True):
            self._seek(piece, self.written)
            self._file.write(np.ascontiguousarray(values, "<f4"))
        self._file.flush()
        self.written += len(features[0])

    def chunks(self, piece: Piece) -> Iterator[np.ndarray]:
        """Yields the features of a piece in chunks [n, D], from the first video on."""
        for start in range(0, self._count, _ROWS):
            rows = min(_ROWS, self._count - start)
            self._seek(piece, start)
            content = self._file.read(4 * rows * self._size)
            yield np.frombuffer(content, "<f4").reshape(rows, self._size)

    def keep(self, path: pathlib.Path) -> None:
        """Writes the features, with a checksum, to a file for `read`. A failure is a warning."""
        try:
            with files.cached(path) as aside, open(aside, "wb") as file:
                self._file.seek(0)
                shutil.copyfileobj(self._file, file)
                file.write(_checksum(self._file, self._file.tell()))
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
    """Returns the SHA-256 of the first `length` bytes, and leaves the file behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while length and (chunk := file.read(min(length, 1 << 20))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()
