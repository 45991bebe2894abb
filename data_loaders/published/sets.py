"""Data sets that are published as zip archives of videos, and the facts about each."""

import abc
import dataclasses
import hashlib
import io
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping

import numpy as np

from cwvae.errors import UserError
from data_loaders.published import archives
from data_loaders.published.downloads import archive_org_checksum, data_folder, download
from data_loaders.sources import SPLITS, Note, Source, check_choice, ignore_note, natural_order
from data_loaders.video.frames import FrameFormat, read_video


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a published data set.

    Attributes:
      description: The content of the videos, in one line.
      homepage: The address of its page.
      licence: Its terms, as far as the source states them.
      citation: BibTeX entries.
      files: The URLs of each file, by file name.
      frame_shape: (height, width, channels) of the original frames.
      frames_per_video: The approximate length of a video, by split.
      num_frames: The approximate number of frames of both splits.
      item: The archive.org item that has the files and their checksums.
      folders: The archive's folder with the videos of each split; by default the split's name.
    """

    description: str
    homepage: str
    licence: str
    citation: str
    files: Mapping[str, tuple[str, ...]]
    frame_shape: tuple[int, int, int]
    frames_per_video: Mapping[str, int]
    num_frames: int
    item: str | None = None
    folders: Mapping[str, str] = dataclasses.field(default_factory=lambda: {s: s for s in SPLITS})


# Published numbers of frames are rounded or guessed. Below this ratio it is another data set.
_SIMILAR = 0.5

_CLOCKWORK = """\
@article{saxena2021clockwork,
  title = {Clockwork Variational Autoencoders},
  author = {Saxena, Vaibhav and Ba, Jimmy and Hafner, Danijar},
  journal = {arXiv preprint arXiv:2102.09532},
  year = {2021}
}
"""

_MINERL = """\
@inproceedings{guss2019minerl,
  title = {{MineRL}: A Large-Scale Dataset of {Minecraft} Demonstrations},
  author = {Guss, William H. and Houghton, Brandon and Topin, Nicholay and others},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year = {2019}
}
"""

_GQN = """\
@article{eslami2018gqn,
  title = {Neural scene representation and rendering},
  author = {Eslami, S. M. Ali and others},
  journal = {Science},
  year = {2018},
  doi = {10.1126/science.aar6170}
}
"""

_MOVING_MNIST = """\
@inproceedings{srivastava2015unsupervised,
  title = {Unsupervised Learning of Video Representations using {LSTMs}},
  author = {Srivastava, Nitish and Mansimov, Elman and Salakhutdinov, Ruslan},
  booktitle = {International Conference on Machine Learning},
  year = {2015}
}
"""

_ARCHIVE_ORG = "https://archive.org/download"

FACTS = {
    "minerl_navigate": Facts(
        description="People walking through Minecraft worlds.",
        homepage="https://archive.org/details/minerl_navigate",
        licence="CC BY-NC-SA 4.0 (stated by https://github.com/vaibhavsaxena11/minerl_navigate)",
        citation=_CLOCKWORK + _MINERL,
        files={"minerl_navigate.zip": (f"{_ARCHIVE_ORG}/minerl_navigate/minerl_navigate.zip",)},
        frame_shape=(64, 64, 3),
        frames_per_video={"train": 500, "test": 500},
        num_frames=608_000,
        item="minerl_navigate",
    ),
    "gqn_mazes": Facts(
        description="Walks through pairs of rooms with random textures.",
        homepage="https://archive.org/details/gqn_mazes",
        licence="not stated by the source; see https://archive.org/details/gqn_mazes",
        citation=_CLOCKWORK + _GQN,
        files={"gqn_mazes.zip": (f"{_ARCHIVE_ORG}/gqn_mazes/gqn_mazes.zip",)},
        frame_shape=(64, 64, 3),
        frames_per_video={"train": 300, "test": 300},
        num_frames=9_000_000,
        item="gqn_mazes",
    ),
    "moving_mnist_2digit": Facts(
        description="Two handwritten digits that drift and bounce off the edges.",
        homepage="https://archive.org/details/moving_mnist",
        licence="not stated by the source; see https://archive.org/details/moving_mnist",
        citation=_CLOCKWORK + _MOVING_MNIST,
        files={
            "moving_mnist_2digit.zip": (f"{_ARCHIVE_ORG}/moving_mnist/moving_mnist_2digit.zip",)
        },
        frame_shape=(64, 64, 1),
        frames_per_video={"train": 100, "test": 1000},
        num_frames=2_000_000,
        item="moving_mnist",
        folders={"train": "train-seq100", "test": "test-seq1000"},
    ),
}


class ArchivedVideos(Source):
    """Videos in archives, which it downloads. A subclass knows the layout of the archives."""

    version = "1.0.0"
    kind = "archives"

    def __init__(
        self,
        name: str,
        facts: Facts,
        *,
        frame_size: int = 64,
        channels: int | None = None,
        data_dir: str | None = None,
        archives_dir: str | None = None,
        fit: str = "crop",
        resize: str = "area",
    ):
        """Stores the options. No files are read yet.

        Args:
          name: The data set's name.
          facts: The facts about it.
          frame_size: H and W, in pixels.
          channels: C, 1 or 3; None for that of the original.
          data_dir: The folder of data sets; archives are kept in its folder `downloads`. None for
            the folder of `tensorflow_datasets`.
          archives_dir: A folder that has the archives, instead of `downloads`.
          fit: See `FrameFormat`.
          resize: See `FrameFormat`.

        Raises:
          UserError: An option out of range.
        """
        channels = facts.frame_shape[-1] if channels is None else channels
        super().__init__(name, frame_size, channels)
        self.facts = facts
        self._format = FrameFormat(frame_size, channels, fit, resize)
        self._data_dir, self._archives_dir = data_dir, archives_dir
        self._files = dict(facts.files)

    def describe(self) -> dict[str, object]:
        """As in `Source`, without the place of the archives."""
        options = {"frame_size": self._format.size, "channels": self._format.channels}
        if self.facts.frame_shape[:2] != self.frame_shape[:2]:  # Otherwise these have no effect.
            options |= {"fit": self._format.fit, "resize": self._format.resize}
        return {"name": self.name, "version": self.version, **options}

    def fetch(self) -> None:
        """Downloads missing archives, after printing what they are, and lists their videos.

        Raises:
          UserError: A given folder does not exist, archives are missing from `archives_dir` or
            cannot be downloaded, or they are damaged.
        """
        missing = self._missing()
        if missing:
            self._download(self._folder(), missing)
        for remark in self.remarks():
            print(f"Note: {self.name}: {remark}.", file=sys.stderr)

    def remarks(self) -> list[str]:
        """As in `Source`."""
        for split in SPLITS:
            self.items(split)
        expected, published = self.expected_frames(), self.facts.num_frames
        if _SIMILAR * published <= expected <= published / _SIMILAR:
            return []
        return [
            f"the archives in {self._folder()} hold about {expected:,} frames, but {published:,}"
            " were published"
        ]

    def expected_frames(self) -> int:
        """Returns the published number, or an estimate once the archives exist."""
        if self._missing():
            return self.facts.num_frames
        return sum(len(self.items(split)) * self.facts.frames_per_video[split] for split in SPLITS)

    def stamps(self) -> dict[str, str] | None:
        """Returns the CRC-32 and the size of each video's file; None if an archive is missing.

        Ranges of frames in KTH Actions are part of the names.
        """
        if not all((self._folder() / file).is_file() for file in self._files):
            return None
        found = {
            file: archives.stamps(self._folder() / file)
            for file in self._files
            if file.endswith(".zip")
        }
        members = {item: self._member(item) for split in SPLITS for item in self.items(split)}
        return {item: found[archive][name] for item, (archive, name) in members.items()}

    def digest(self, split: str, item: str) -> str:
        """As in `Source`."""
        return hashlib.sha256(self._content(item)).hexdigest()

    def read(self, split: str, item: str, note: Note = ignore_note) -> Iterator[np.ndarray]:
        """As in `Source`. A video is bad if its frames have another size than the original's."""
        file, name = io.BytesIO(self._content(item)), self._member(item)[1]
        size = self.facts.frame_shape[:2]
        yield from read_video(file, name, self._format, exact_size=size, note=note)

    @abc.abstractmethod
    def _member(self, item: str) -> tuple[str, str]:
        """Returns the archive's file name and the name in the archive of an item's video."""

    def _content(self, item: str) -> bytes:
        archive, member = self._member(item)
        return archives.read_member(self._folder() / archive, member)

    def _folder(self) -> pathlib.Path:
        """Returns the folder of the archives, which need not exist yet."""
        if self._archives_dir is not None:
            return pathlib.Path(self._archives_dir).expanduser()
        return data_folder(self._data_dir) / "downloads"

    def _missing(self) -> list[str]:
        """Returns the archives to download; raises a UserError if they must not be downloaded."""
        folder = self._folder()
        missing = [file for file in self._files if not (folder / file).is_file()]
        if self._archives_dir is None or not missing:
            return missing
        if not folder.is_dir():
            raise UserError(f"data.archives_dir: {folder} is not a folder. Correct the setting.")
        where = "; ".join(f"{file} from {self._files[file][0]}" for file in missing)
        raise UserError(
            f"{self.name}: data.archives_dir {folder} has no {', no '.join(missing)}. Get {where};"
            " or unset data.archives_dir to have them downloaded."
        )

    def _download(self, folder: pathlib.Path, files: list[str]) -> None:
        facts = self.facts
        print(
            f"{self.name}: {facts.description} About {facts.num_frames:,} frames.\n"
            f"  homepage: {facts.homepage}\n"
            f"  licence: {facts.licence}",
            file=sys.stderr,
        )
        for file in files:
            checksum = archive_org_checksum(facts.item, file) if facts.item else None
            size = f" ({checksum.size / 1e9:.2f} GB)" if checksum else ""
            print(f"Downloading {file}{size} to {folder}.", file=sys.stderr, flush=True)
            try:
                download(self._files[file], folder / file, checksum)
            except UserError as error:
                raise UserError(
                    f"{error} Without a download, you can try configs/quickstart.yml and"
                    " configs/procedural_mazes.yml."
                ) from None


class Published(ArchivedVideos):
    """A data set of archive.org: one archive, with a folder of mp4 files for each split."""

    in_tfds = True

    def __init__(self, name: str, **options: object):
        """Stores the options: those of `ArchivedVideos`; `name` is a key of `FACTS`."""
        check_choice("data set", name, FACTS)
        super().__init__(name, FACTS[name], **options)

    def items(self, split: str) -> list[str]:
        """Returns the names in the archive, 2.mp4 before 10.mp4.

        A split's folder is at the archive's root or one level below.
        """
        check_choice("split", split, SPLITS)
        path, folder = self._folder() / next(iter(self._files)), self.facts.folders[split]
        place = re.compile(rf"([^/]+/)?{folder}/[^/]+")
        found = [video for video in archives.members(path, (".mp4",)) if place.fullmatch(video)]
        if not found:
            raise UserError(
                f"{path}: has no mp4 files in a folder {folder}/, where the {split} split of"
                f" {self.name} should be. It is not the archive of {self.facts.homepage}: replace"
                " it, or delete it to have it downloaded."
            )
        return sorted(found, key=natural_order)

    def _member(self, item: str) -> tuple[str, str]:
        return next(iter(self._files)), item
