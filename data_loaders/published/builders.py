"""The published data sets as data sets of `tensorflow_datasets` (tfds).

To import this module registers them: then `tfds.load(name, data_dir=...)` prepares them, and reads
them. Names, versions and features are the original project's, so that either project reads what the
other has prepared. What is different: downloads go on where they were cut, ffmpeg need not be
installed, videos that cannot be used are left out and listed, and records keep the order of the
videos' names.

tfds writes everything twice before it is done: for a while that takes twice the room. Where it is
killed meanwhile, it leaves a folder called `incomplete.*` beside the version's, to be deleted.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from cwvae.errors import UserError
from cwvae.run.files import locked
from data_loaders.published import kth_actions
from data_loaders.published.sets import ArchivedVideos, Published
from data_loaders.published.tfds_records import find
from data_loaders.sources import SPLITS, BadVideo
from data_loaders.store.store import label

_KEY_BITS = 128  # Of the keys that tfds sorts records by.


class _Videos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the videos of a source, and nothing else that is known of them."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}  # noqa: RUF012 - as tfds declares it

    def __init__(
        self,
        *,
        source: ArchivedVideos | None = None,
        archives_dir: str | os.PathLike | None = None,
        **options: object,
    ):
        """Keeps where videos come from; nothing is downloaded yet.

        Args:
          source: The videos; by default those of `make_source`.
          archives_dir: A folder that has the archives; without it they are downloaded to
            `<data_dir>/downloads`. Not looked at where `source` is given.
          **options: Those of tfds, such as `data_dir`.

        Raises:
          UserError: `source` has frames that are not those of this data set.
        """
        own = self.make_source(options.get("data_dir"), archives_dir)
        self._source = own if source is None else source
        kept, given = own.describe(), self._source.describe()
        if given != kept:
            differ = [key for key in kept if given.get(key) != kept[key]]
            asked = ", ".join(f"{key}={given.get(key)}" for key in differ)
            only = ", ".join(f"{key}={kept[key]}" for key in differ)
            raise UserError(
                f"{self.name} was asked for with {asked}, but in a folder of tensorflow_datasets "
                f"it is kept with {only}. Set these, or data.store=true."
            )
        self._skipped: list[str] = []
        super().__init__(**options)

    @classmethod
    def make_source(
        cls, data_dir: str | os.PathLike | None, archives_dir: str | os.PathLike | None = None
    ) -> ArchivedVideos:
        """Returns the videos of this data set, with the frames that its records have."""
        return Published(cls.name, data_dir=data_dir, archives_dir=archives_dir)

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
        del dl_manager  # It begins again what was cut, and takes archives apart on the disk.
        self._source.fetch()
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        items = self._source.items(split)
        skipped = []
        for number, item in enumerate(items):
            try:
                blocks = list(self._source.read(split, item))
                if not blocks:
                    raise BadVideo("has no frames")
            except BadVideo as error:
                skipped.append(f"{label(split, item)}: {error}")
                continue
            # tfds puts records into files by the first bits of their keys, and sorts each of these
            # in memory. Keys 0, 1, 2, ... would all go to one file.
            yield (number << _KEY_BITS) // len(items), {"video": np.concatenate(blocks)}
        if len(skipped) == len(items):
            raise UserError(
                f"{self.name}: none of the {len(items)} videos of the {split} split can be used. "
                f"The first: {skipped[0]}. The archive seems to be damaged: get it again."
            )
        self._skipped += skipped

    def _post_download_and_prepare_hook(self) -> None:
        if self._skipped:
            path = Path(self.data_dir) / "skipped.txt"
            path.write_text("".join(f"{line}\n" for line in self._skipped))
            print(
                f"warning: {len(self._skipped)} videos cannot be used and were left out; {path} "
                f"lists them, with the reasons. The first: {self._skipped[0]}",
                file=sys.stderr,
            )


class MinerlNavigate(_Videos):
    """`minerl_navigate`."""


class GqnMazes(_Videos):
    """`gqn_mazes`."""


class MovingMnist_2digit(_Videos):
    """`moving_mnist_2digit`; the name of the class makes that of the data set."""


class KthActions(_Videos):
    """`kth_actions`, whole videos, with the split and the frames that most papers use."""

    @classmethod
    def make_source(
        cls, data_dir: str | os.PathLike | None, archives_dir: str | os.PathLike | None = None
    ) -> ArchivedVideos:
        """As for the others; persons 1 to 20 are for training, frames are squeezed to squares."""
        return kth_actions.KthActions(data_dir=data_dir, archives_dir=archives_dir, fit="squeeze")


BUILDERS = {
    builder.name: builder for builder in (MinerlNavigate, GqnMazes, MovingMnist_2digit, KthActions)
}


def build(source: ArchivedVideos, data_dir: str | os.PathLike) -> Path:
    """Prepares a folder for a data set in tfds's format, if it is not there yet.

    Args:
      source: The videos, such as `BUILDERS[name].make_source(data_dir)` gives.
      data_dir: The folder of data sets, made where it is missing.

    Returns:
      The folder, as `tfds_directory.find` returns it.

    Raises:
      UserError: The videos cannot be had, none of them can be used, `source` has other frames than
        those of the data set, or the folder cannot be written.
    """
    data_dir = Path(data_dir).expanduser()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with locked(data_dir / f"{source.name}.lock", f"preparing {source.name}"):
            if find(data_dir, source.name) is None:  # Another process may have made it.
                builder = BUILDERS[source.name](source=source, data_dir=data_dir)
                # tfds would look for these data sets in the bucket of those that it knows.
                config = tfds.download.DownloadConfig(try_download_gcs=False)
                builder.download_and_prepare(download_config=config)
    except (OSError, tf.errors.OpError, RuntimeError) as error:
        problem = error.__cause__ or error  # tfds wraps some in a RuntimeError.
        if not isinstance(problem, OSError | tf.errors.OpError):
            raise
        raise UserError(
            f"{data_dir}: the data set {source.name} cannot be prepared there ({problem}). Make "
            "room, or set data.data_dir to a folder on another disk."
        ) from error
    folder = find(data_dir, source.name)
    if folder is None:
        raise UserError(
            f"{builder.data_dir}: is there, but is not complete. Delete this folder, and run the "
            "same command again."
        )
    return folder
