"""The published data sets as data sets of `tensorflow_datasets` (tfds).

Importing this module registers them: then `tfds.load(name, data_dir=...)` prepares and reads them.
Names, versions and features are those of the original project, so each project reads what the other
has prepared. The differences: downloads resume, ffmpeg need not be installed, videos that cannot be
used are skipped and listed, and records keep the order of the videos' names.

tfds writes everything twice, so it needs twice the disk space for a while. If it is killed, it
leaves a folder called `incomplete.*` next to the version's folder, which can be deleted.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

import data_loaders
from cwvae.errors import UserError
from data_loaders.published.sets import ArchivedVideos
from data_loaders.sources import SPLITS, BadVideo
from data_loaders.store.store import label

_KEY_BITS = 128  # Of the keys that tfds sorts records by.


class _Videos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the videos of a source, without their attributes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 - as tfds declares it
    SOURCE_OPTIONS = {}  # noqa: RUF012 - never changed

    def __init__(self, *, archives_dir: str | os.PathLike | None = None, **options: object):
        """Stores where videos come from. Nothing is downloaded yet.

        Args:
          archives_dir: A folder that has the archives. None: they are downloaded to
            `<data_dir>/downloads`.
          **options: The options of tfds, such as `data_dir`.
        """
        self._source = self.make_source(options.get("data_dir"), archives_dir)
        self._skipped: list[str] = []
        super().__init__(**options)

    @classmethod
    def make_source(
        cls, data_dir: str | os.PathLike | None, archives_dir: str | os.PathLike | None
    ) -> ArchivedVideos:
        """Returns the videos of this data set, with the frames that its records have."""
        folders = {"data_dir": data_dir, "archives_dir": archives_dir}
        return data_loaders.SOURCES[cls.name](**folders, **cls.SOURCE_OPTIONS)

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self._source.facts
        video = tfds.features.Video(shape=(None, *self._source.frame_shape))
        return tfds.core.DatasetInfo(
            builder=self,
            description=facts.description,
            features=tfds.features.FeaturesDict({"video": video}),
            homepage=facts.homepage,
            citation=facts.citation,
            license=facts.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        # Without `dl_manager`: it restarts interrupted downloads, and unpacks archives.
        self._source.fetch()
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        items = self._source.items(split)
        skipped = []
        for number, item in enumerate(items):
            try:
                blocks = list(self._source.read(split, item))
            except BadVideo as error:
                skipped.append(f"{label(split, item)}: {error}")
                continue
            # tfds distributes records over files by the first bits of their keys, and sorts each
            # file in memory. Keys 0, 1, 2, ... would all go to one file.
            yield (number << _KEY_BITS) // len(items), {"video": np.concatenate(blocks)}
        if len(skipped) == len(items):
            raise UserError(
                f"{self.name}: none of the {len(items)} videos of the {split} split can be used. "
                f"The first: {skipped[0]}. The archive seems to be damaged: download it again."
            )
        self._skipped += skipped

    def _post_download_and_prepare_hook(self) -> None:
        if self._skipped:
            path = Path(self.data_dir) / "skipped.txt"
            path.write_text("".join(f"{line}\n" for line in self._skipped))
            print(
                f"warning: {len(self._skipped)} videos cannot be used and were skipped; {path} "
                f"lists them, with the reasons. The first: {self._skipped[0]}",
                file=sys.stderr,
            )


class MinerlNavigate(_Videos):
    """`minerl_navigate`."""


class GqnMazes(_Videos):
    """`gqn_mazes`."""


class MovingMnist_2digit(_Videos):
    """`moving_mnist_2digit`: tfds makes the data set's name from the name of the class."""


class KthActions(_Videos):
    """`kth_actions`: whole videos, squeezed to squares, with the split that most papers use."""

    SOURCE_OPTIONS = {"fit": "squeeze"}  # noqa: RUF012


BUILDERS = {
    builder.name: builder for builder in (MinerlNavigate, GqnMazes, MovingMnist_2digit, KthActions)
}
