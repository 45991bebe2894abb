"""Finds the videos in a folder and its sub-folders, and the files that are not read."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from cwvae.errors import UserError
from data_loaders.video import frame_arrays, picture_folders
from data_loaders.video.frame_arrays import ArrayOptions
from data_loaders.video.frames import ARRAY_SUFFIXES, SUFFIXES
from data_loaders.video.picture_folders import PICTURE_SUFFIXES

# The names of folders in which systems keep previews, deleted files and the like, in lower case.
_SYSTEM_FOLDERS = {"@eadir", "$recycle.bin", "system volume information", "__macosx", "lost+found"}

SHOWN = 3  # Names that messages show where there may be many.


@dataclasses.dataclass(frozen=True)
class Holder:
    """A file or a folder that holds videos.

    Attributes:
      name: Its path relative to the folder of all videos, with slashes.
      items: The names of its videos: its own, or for a file with many videos `name#000000`,
        `name#000001`, ...
      paths: The files that they are read from.
      is_folder: Whether it is a folder of pictures, which is one video.
    """

    name: str
    items: list[str]
    paths: list[pathlib.Path]
    is_folder: bool = False

    @property
    def is_encoded(self) -> bool:
        """Whether it is a file that needs a video decoder."""
        return not self.is_folder and suffix_of(self.name) in SUFFIXES

    @property
    def top_folder(self) -> str | None:
        """The name of the sub-folder that it is in, or that it is itself; None for other files."""
        return self.name.split("/")[0] if self.is_folder or "/" in self.name else None

    def stamp(self) -> str:
        """Returns the size in bytes, and in ns the times of modification and of change.

        For a folder it is a digest of those of all pictures. The time of change differs even if a
        file is replaced by one of the same size and time of modification. That of the link to a
        file is also there.
        """
        if not self.is_folder:
            return _stamp(self.paths[0])
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(f"{path.name}/{_stamp(path)}/"))
        return digest.hexdigest()


class Content:
    """The content of a folder and its sub-folders.

    Attributes:
      root: The folder.
      holders: The files and folders with videos, sorted.
      others: The names of the files that are not read.
      root_pictures: The names of pictures that lie directly in the folder.
      errors: The reasons why folders cannot be read.
    """

    def __init__(self, root: pathlib.Path, arrays: ArrayOptions):
        """Lists everything. Reads headers of arrays where these decide.

        Args:
          root: The folder.
          arrays: How arrays are read.
        """
        self.holders, self.others, self.errors = [], [], []
        self.root_pictures = []
        self.root, self._folders = root, set()
        for folder, files in walk(root, self.errors):
            videos, pictures = picture_folders.divide(files, arrays)
            if folder == root:
                self.root_pictures, pictures = [path.name for path in pictures], []
            else:
                self._folders.add(self._name(folder))
            if pictures:
                name = self._name(folder)
                self.holders.append(Holder(name, [name], pictures, is_folder=True))
            for path in videos:
                name = self._name(path)
                self.holders.append(Holder(name, _items(name, path, arrays), [path]))
            used = {*videos, *pictures}
            self.others += [self._name(path) for path in files if path not in used]
        self._folders.update(self.unreadable())
        self.holders.sort(key=lambda holder: holder.name)

    def items(self, folder: str | None = None) -> list[str]:
        """Returns the sorted names of all videos, or of those in a sub-folder of the top level."""
        chosen = [h for h in self.holders if folder is None or h.top_folder == folder]
        return sorted(item for holder in chosen for item in holder.items)

    def used(self, splits: dict[str, list[str]]) -> list[Holder]:
        """Returns the files and folders that hold videos of splits."""
        used = {item for items in splits.values() for item in items}
        return [holder for holder in self.holders if not used.isdisjoint(holder.items)]

    def top_folders(self) -> list[str]:
        """Returns the sorted names of the sub-folders of the top level."""
        return sorted({name.split("/")[0] for name in self._folders})

    def folders_with_videos(self) -> list[str]:
        """Returns the sorted names of all folders that are or hold videos, at any level."""
        found = set()
        for holder in self.holders:
            path = pathlib.PurePosixPath(holder.name)
            found |= {parent.as_posix() for parent in path.parents}
            if holder.is_folder:
                found.add(holder.name)
        return sorted(found - {"."})

    def unreadable(self) -> list[str]:
        """Returns the names of the folders that cannot be read."""
        return [self._name(pathlib.Path(error.filename)) for error in self.errors]

    def check_readable(self, folder: str = ".") -> None:
        """Raises a UserError if a folder or something in it cannot be read."""
        path = self.root / folder
        for error in self.errors:
            if path in (pathlib.Path(error.filename) / "any").parents:
                raise UserError(f"{error.filename}: {error.strerror}. Make it readable.")

    def notes(self) -> list[str]:
        """Returns sentences on files that are not read, and on videos with almost the same name."""
        suffixes = (*SUFFIXES, *ARRAY_SUFFIXES, *PICTURE_SUFFIXES)
        in_root = ("picture", " directly in data.videos_dir: not used")
        pictures = ("picture", ": not used, as there are videos in the same folder")
        arrays = ("array", ": not used, as there are pictures or videos in the same folder")
        files = ("file", f": not used, as their names end in none of {', '.join(suffixes)}")
        kinds = {in_root: [*self.root_pictures], pictures: [], arrays: [], files: []}
        for name in sorted({*self.others}.difference(self.root_pictures)):
            if suffix_of(name) in PICTURE_SUFFIXES:
                kinds[pictures if "/" in name else in_root].append(name)
            else:
                kinds[arrays if suffix_of(name) in ARRAY_SUFFIXES else files].append(name)
        notes = [f"{named(names, noun)}{text}" for (noun, text), names in kinds.items() if names]
        if alike := self._alike():
            notes.append(
                f"{named(alike, 'video')} differ only in the extension: all are used; remove copies"
                " of the same video, which may be in different splits"
            )
        return notes

    def _alike(self) -> list[str]:
        """Returns the names that another file or folder has, too, but for the extension."""
        by_stem = collections.defaultdict(list)
        for holder in self.holders:
            path = pathlib.PurePosixPath(holder.name)
            stem, shown = path.with_suffix("").as_posix(), holder.name
            if holder.is_folder:
                stem, shown = holder.name, f"{holder.name}/"
            by_stem[stem].append(shown)
        return [name for names in by_stem.values() if len(names) > 1 for name in names]

    def _name(self, path: pathlib.Path) -> str:
        return path.relative_to(self.root).as_posix()


def _items(name: str, path: pathlib.Path, arrays: ArrayOptions) -> list[str]:
    count = frame_arrays.videos_in(path, arrays)
    if count is None:
        return [name]
    # The number of digits must not depend on the count: the hash of a name decides on its split.
    return [f"{name}#{number:06}" for number in range(count)]


def walk(
    folder: pathlib.Path, errors: list[OSError], above: tuple[pathlib.Path, ...] = ()
) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
    """Lists a folder and its sub-folders; follows links without cycles.

    What is hidden, or named like a folder that systems make, is left out.

    Args:
      folder: The folder.
      errors: A list to which the reasons are added why folders cannot be read.
      above: The folders that lead to this one, without links.

    Yields:
      A folder, and everything in it that is not a folder, sorted. This includes links that lead
      nowhere, pipes and devices, which are reported when they are read.
    """
    folders, files = [], []
    try:
        real = folder.resolve()
        if real in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FOLDERS:
                    continue
                # Unlike is_dir(), isdir() takes a link whose target is unreadable for a file.
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                (folders if is_folder else files).append(folder / entry.name)
    except OSError as error:
        error.filename = str(folder)
        errors.append(error)
        return
    yield folder, sorted(files)
    for sub in sorted(folders):
        yield from walk(sub, errors, (*above, real))


def status_of(path: pathlib.Path) -> os.stat_result:
    """Returns the status of a file, or of the link to it if it does not exist."""
    try:
        return os.stat(path)
    except OSError:
        return os.lstat(path)


def _stamp(path: pathlib.Path) -> str:
    status, changed = status_of(path), os.lstat(path).st_ctime_ns  # Of a link, when it was made.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {changed}"


def suffix_of(path: str | pathlib.PurePath) -> str:
    """Returns the extension of a name in lower case."""
    return pathlib.PurePath(path).suffix.lower()


def counted(number: int, noun: str) -> str:
    """Returns a number of things in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str], noun: str) -> str:
    """Returns the number of things and the names of the first ones in words."""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{counted(len(names), noun)} ({shown})"
