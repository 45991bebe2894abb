"""Divides the videos of a folder between the splits: by lists, by folders, or by a hash."""

import hashlib
import pathlib
import re

from cwvae.errors import UserError
from data_loaders.sources import SPLITS
from data_loaders.video.folder_content import SHOWN, Content, counted, named
from data_loaders.video.frames import ARRAY_SUFFIXES, SUFFIXES
from data_loaders.video.picture_folders import PICTURE_SUFFIXES
from data_loaders.video.split_lists import SplitLists

# The names of folders that are splits, in lower case.
_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VALIDATION = ("val", "valid", "validation")

# Words in names of folders and files that are probably splits, too.
_TRAIN_WORDS = {*_TRAIN, "trainset", "tr", "trn"}
_OTHER_WORDS = {*_TEST, *_VALIDATION, "testset", "valset", "eval", "dev", "te", "tst"}

# The names of the videos of each split, sorted.
Splits = dict[str, list[str]]


def split(
    content: Content, lists: SplitLists | None, test_fraction: float
) -> tuple[Splits, list[str]]:
    """Divides videos by lists if there are any; otherwise by folders, or else by a hash.

    Args:
      content: The folder's content.
      lists: The names of the videos of each split.
      test_fraction: The share of videos for testing when a hash decides.

    Returns:
      The videos of each split, at least one, and sentences that tell the user what was done and
      which videos are not used.

    Raises:
      UserError: A split has no videos, its videos are ambiguous, or a folder cannot be read.
    """
    if lists is not None:
        return _by_lists(content, lists)
    folders, notes = _split_folders(content)
    if folders:
        return _by_folders(content, folders, notes)
    return _by_hash(content, test_fraction)


def hash_fraction(item: str) -> float:
    """Returns a number in [0, 1) that depends only on a video's name, uniform over names."""
    digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _by_lists(content: Content, lists: SplitLists) -> tuple[Splits, list[str]]:
    content.check_readable()
    splits = lists.split(content.holders)
    used = {item for items in splits.values() for item in items}
    unused = [item for item in content.items() if item not in used]
    return splits, [f"{named(unused, 'video')} in no list: not used"] if unused else []


def _by_hash(content: Content, test_fraction: float) -> tuple[Splits, list[str]]:
    content.check_readable()
    videos = content.items()
    if not videos:
        raise UserError(_without_videos(content, None))
    splits = {"train": [], "test": []}
    for item in videos:
        splits["test" if hash_fraction(item) < test_fraction else "train"].append(item)
    for name, items in splits.items():
        if not items:
            raise UserError(
                f"none of the {len(videos)} videos in {content.root} is a {name} video: the hash of"
                f" a name decides, with data.test_fraction={test_fraction:g}. Add videos, set"
                " another data.test_fraction, or sort them into train/ and test/."
            )
    return splits, [
        f"{counted(len(videos), 'video')}{_pooled_folders(content)}; about"
        f" {100 * test_fraction:.4g}% (data.test_fraction) are for testing, by the hash of their"
        f" names{_almost_splits(content)}"
    ]


def _pooled_folders(content: Content) -> str:
    """Returns in words which sub-folders the videos come from, if there are sub-folders."""
    tops = [holder.top_folder for holder in content.holders]
    folders = sorted({top for top in tops if top is not None})
    if not folders:
        return ""
    words = [f"{folder}/" for folder in folders]
    if len(words) > SHOWN:
        words = [*words[: SHOWN - 1], f"{len(words) - SHOWN + 1} others"]
    words = " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    outside = " and outside them" if None in tops else ""
    return f" in the sub-folder{'s' if len(folders) > 1 else ''} {words}{outside} are pooled"


def _almost_splits(content: Content) -> str:
    """Returns in words which folders and files are named like splits, but are not used as such."""
    words = _TRAIN_WORDS | _OTHER_WORDS
    alike = [f"{name}/" for name in content.folders_with_videos() if words & _words(name)]
    files = {h.name: _words(h.name) & words for h in content.holders if not h.is_folder}
    found = set().union(*files.values())
    if found & _TRAIN_WORDS and found & _OTHER_WORDS:  # A single word may be about the content.
        alike += [name for name in files if files[name]]
    if not alike:
        return ""
    shown = ", ".join(alike[:SHOWN]) + (", ..." if alike[SHOWN:] else "")
    return (
        f". Not used as splits: {shown}. If they are splits, move their videos into train/ and"
        " test/ directly in data.videos_dir, or set data.train_list and data.test_list"
    )


def _words(name: str) -> set[str]:
    """Returns the words in the last part of a path, its extension among them, in lower case."""
    return set(re.split(r"[^a-z]+", name.rpartition("/")[2].lower()))


def _split_folders(content: Content) -> tuple[dict[str, str], list[str]]:
    """Returns the folder of each split, if there are such folders, and notes."""
    train, test, validation = (
        [name for name in content.top_folders() if name.lower() in names]
        for names in (_TRAIN, _TEST, _VALIDATION)
    )
    if not (train or test or validation):
        return {}, []
    splits = {"train": train, "test": test or validation}
    for name, folders in splits.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder}/" for folder in folders)
            raise UserError(
                f"{content.root} has {both}, which may both hold the {name} videos. Move the videos"
                " into one of them, or rename the other."
            )
    if not all(splits.values()):
        present, missing = SPLITS if train else SPLITS[::-1]
        [folder] = splits[present]
        raise UserError(
            f"{content.root} has {folder}/, but no {missing}/. Add {missing}/ with videos; or"
            f" rename {folder}/ to have all videos split by data.test_fraction."
        )
    notes = []
    if not test:
        notes.append(f"{validation[0]}/ is used for testing, as there is no test/")
    elif unused := [item for folder in validation for item in content.items(folder)]:
        folders = " and ".join(f"{folder}/" for folder in validation)
        notes.append(
            f"{counted(len(unused), 'video')} in {folders}: not used, as {test[0]}/ has the test"
            " videos"
        )
    return {name: folder for name, [folder] in splits.items()}, notes


def _by_folders(
    content: Content, folders: dict[str, str], notes: list[str]
) -> tuple[Splits, list[str]]:
    splits = {}
    for name, folder in folders.items():
        content.check_readable(folder)
        splits[name] = content.items(folder)
        if not splits[name]:
            raise UserError(_without_videos(content, folder))
    used = " and ".join(f"{folder}/" for folder in folders.values())
    validation = [name for name in content.top_folders() if name.lower() in _VALIDATION]
    outside = [
        item
        for holder in content.holders
        if holder.top_folder not in (*folders.values(), *validation)
        for item in holder.items
    ]
    if outside:
        notes.append(f"{named(outside, 'video')} outside {used}: not used")
    if unread := content.unreadable():
        notes.append(f"{named(unread, 'folder')} outside {used}: cannot be read, and not used")
    return splits, notes


def _without_videos(content: Content, folder: str | None) -> str:
    """Returns the message for a folder without videos: the whole one, or that of a split."""
    if folder is None and content.root_pictures:
        return (
            f"{content.root} directly holds {named(content.root_pictures, 'picture')}. Put the"
            " pictures of each video into its own folder in data.videos_dir."
        )
    others = [n for n in content.others if folder is None or n.startswith(f"{folder}/")]
    names = [pathlib.PurePosixPath(name).name for name in others]
    found = f"{counted(len(names), 'other file')}, such as {names[0]}" if names else "no files"
    return (
        f"{content.root / (folder or '')} has no videos, which are files with names that end in one"
        f" of {', '.join((*SUFFIXES, *ARRAY_SUFFIXES))}, or folders of pictures"
        f" ({', '.join(PICTURE_SUFFIXES)}). Found there: {found}. Set data.videos_dir to the folder"
        " of your videos."
    )
