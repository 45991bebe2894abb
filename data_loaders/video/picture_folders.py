"""Reads videos that are folders with one picture per frame.

The pictures are image files, or .npy files with one picture each. Their order is that of the number
in their names.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from data_loaders.sources import BadVideo, Note, natural_order
from data_loaders.video import animations, frame_arrays, regular_files
from data_loaders.video.frame_arrays import ArrayOptions
from data_loaders.video.frames import ARRAY_SUFFIXES, SUFFIXES

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

_MAYBE_ANIMATED = (".webp", ".png")

# The formats that a picture may have, whatever its name.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")

_ORIENTATION = 0x0112  # The tag of EXIF.


def divide(
    files: Sequence[pathlib.Path], arrays: ArrayOptions
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Finds the videos among the files that lie directly in a folder.

    Animated .webp and .png files are videos. Arrays next to pictures are used only if there is one
    picture, if each picture has an array of the same name, or if there are other videos, too.

    Args:
      files: The files.
      arrays: How arrays are read.

    Returns:
      The files that are videos, sorted, and the pictures of the video that the folder is, in their
      order. One of the two is empty: pictures next to videos are not used.
    """
    files = sorted(files)
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    animated = _animations(pictures)
    pictures = [path for path in pictures if path not in animated]
    videos = [path for path in files if path.suffix.lower() in SUFFIXES or path in animated]
    held = [path for path in files if path.suffix.lower() in ARRAY_SUFFIXES]
    single = [path for path in held if path.suffix.lower() == ".npy"]
    if pictures and not arrays.are_pictures:
        held = [path for path in held if not frame_arrays.is_table(path)]
        # Otherwise they are often the depth, the flow or the poses of the pictures.
        are_previews = {path.stem for path in pictures} <= {path.stem for path in held}
        if videos or are_previews or len(pictures) == 1:
            videos += held
    elif pictures or (arrays.are_pictures and single):
        pictures = pictures or single
    elif arrays.axes is None and _are_pictures(held):
        pictures = held
    else:
        videos += held
    if videos:
        return sorted(videos), []
    return [], sorted(pictures, key=lambda path: natural_order(path.name))


def _animations(pictures: list[pathlib.Path]) -> set[pathlib.Path]:
    """Returns the .webp and .png files that are animations.

    Folders have many pictures, so the others are not read if the first one is none.
    """
    found = set()
    for suffix in _MAYBE_ANIMATED:
        alike = [path for path in pictures if path.suffix.lower() == suffix]
        if alike and _is_animation(alike[0]):
            found.update(filter(_is_animation, alike))
    return found


def _is_animation(path: pathlib.Path) -> bool:
    try:
        with regular_files.opened(path) as file:
            return animations.animation_kind(file) is not None
    except BadVideo:  # Reported when it is read as a picture.
        return False


def _are_pictures(files: list[pathlib.Path]) -> bool:
    """Returns whether the arrays in a folder have two axes; usually reads one header."""
    if any(path.suffix.lower() != ".npy" for path in files):
        return False
    axes = (number for path in files if (number := frame_arrays.num_axes(path)) is not None)
    first_two = list(itertools.islice(axes, 2))  # A single one is more likely a table.
    return first_two == [2, 2] and all(number == 2 for number in axes)


def frames(
    pictures: Sequence[pathlib.Path], arrays: ArrayOptions, note: Note
) -> Iterator[np.ndarray]:
    """Reads pictures of the same size.

    EXIF's orientation is applied, transparent areas are drawn over white, and 16 bits per value are
    reduced to 8.

    Args:
      pictures: The files, as `divide` returns them.
      arrays: How .npy files are read.
      note: See `Source.read`.

    Yields:
      uint8 [h, w] or [h, w, 1 or 3].

    Raises:
      UnreadableVideo: The system cannot read a file.
      BadVideo: A picture is damaged or has another size, or the order is ambiguous.
    """
    if not pictures:
        raise BadVideo("holds no pictures any more, or a video besides them")
    kinds = sorted({path.suffix[1:].lower() for path in pictures})
    note(f"{len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'} ({', '.join(kinds)})")
    if kinds == ["npy"]:
        note(f"each array read as {frame_arrays.words(arrays.axes or 'HW')}")
    _check_order([path.name for path in pictures], note)
    yield from frame_arrays.as_uint8(_of_one_size(pictures, arrays, note), note)


def digest(pictures: Sequence[pathlib.Path]) -> str:
    """Returns the SHA-256 of the names and contents of files.

    Raises:
      UnreadableVideo: The system cannot read a file.
      BadVideo: A file is not a regular one.
    """
    result = hashlib.sha256()
    for path in pictures:
        with _naming(path):
            content = regular_files.sha256(path)
        result.update(os.fsencode(path.name) + b"\0" + content.digest())
    return result.hexdigest()


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Puts a picture's name in front of the reason why it is bad."""
    try:
        yield
    except BadVideo as error:
        raise type(error)(f"{path.name} {error}") from error


def _of_one_size(
    pictures: Sequence[pathlib.Path], arrays: ArrayOptions, note: Note
) -> Iterator[np.ndarray]:
    """Yields the pictures' values; 16 bits become 8, other types are unchanged."""
    first, largest_of_16 = None, None
    for path in pictures:
        with _naming(path):
            if path.suffix.lower() == ".npy":
                values = frame_arrays.picture(path, arrays)
            else:
                values = _picture(path, note)
        if values.dtype.kind in "ui" and values.dtype != np.uint8:
            largest_of_16 = max(largest_of_16 or 0, values.max())
            values = (values >> 8).astype(np.uint8)
        if first is None:
            first = values
        if values.shape[:2] != first.shape[:2]:
            (h, w), (h0, w0) = values.shape[:2], first.shape[:2]
            raise BadVideo(
                f"has pictures of different sizes: {pictures[0].name} has {w0}x{h0} pixels, and"
                f" {path.name} has {w}x{h}"
            )
        if values.dtype != first.dtype:
            raise BadVideo(
                f"has values of different types: {pictures[0].name} has {first.dtype}, and"
                f" {path.name} has {values.dtype}"
            )
        yield values
    if largest_of_16 is not None:
        note(f"16 bits per value: divided by 256 (the largest value was {largest_of_16})")
        if 0 < largest_of_16 < 256:
            raise BadVideo(
                f"has 16-bit pictures with no value above {largest_of_16}, so it would be black;"
                " save them with 8 bits"
            )


def _picture(path: pathlib.Path, note: Note) -> np.ndarray:
    """Decodes an image file to uint8 [h, w] or [h, w, 3], or integers of 16 bits [h, w]."""
    with regular_files.opened(path) as file:
        content = io.BytesIO(file.read())  # So that an OSError while decoding means damage.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Such as for damaged EXIF data.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=_FORMATS) as image:
                return _values(image, note)
    except BadVideo:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadVideo("is too large") from error
    except Exception as error:  # Decoders raise any exception on damage.
        raise BadVideo("cannot be decoded: it is not a picture, or damaged") from error


def _values(image: Image.Image, note: Note) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1:
        if image.format != "MPO":
            raise BadVideo(f"holds {image.n_frames} pictures; save each in its own file")
        note("several pictures in one JPEG file: the first")  # The others are usually previews.
    if ";16" in str(image.tile) and not image.mode.startswith("I"):
        note("16 bits per value: reduced to 8")  # By the decoder.
    if image.getexif().get(_ORIENTATION) in range(2, 9):
        note("turned or mirrored according to EXIF")
    # TIFF may have 32 bits. The others are read in this mode if they have 16.
    is_deeper = image.mode == "I" and image.format == "TIFF"
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        if is_deeper:
            raise BadVideo("has 32 bits per value; save it with 8")
        return np.asarray(image)
    if image.mode == "F":
        raise BadVideo("has values with a fraction; save it with 8 bits per value")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            note("transparent areas: drawn over white")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode not in ("1", "L", "P", "RGB"):
        note(f"{image.mode}: converted to RGB")
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _check_order(names: Sequence[str], note: Note) -> None:
    """Tells what is unusual about the numbers in names in natural order.

    Raises:
      BadVideo: The names are probably not those of consecutive frames.
    """
    stems = [pathlib.PurePath(name).stem for name in names]
    numbers = [tuple(int(digits) for digits in re.findall(r"[0-9]+", stem)) for stem in stems]
    if not any(numbers):
        if len(names) > 1:
            note("pictures in the order of their names, which have no numbers")
        return
    if not all(numbers):
        odd = names[next(i for i, found in enumerate(numbers) if not found)]
        raise BadVideo(f"has {odd} among numbered pictures; move it elsewhere")
    patterns = {}
    for name, stem in zip(names, stems, strict=True):
        patterns.setdefault(re.sub(r"[0-9]+", "0", stem), name)
    if len(patterns) > 1:
        one, other = list(patterns.values())[:2]
        raise BadVideo(
            f"has several series of pictures, such as {one} and {other}; put each series in its own"
            " folder"
        )
    are_times = "0.0" in patterns
    if are_times and len({len(stem.partition(".")[2]) for stem in stems}) > 1:
        raise BadVideo(
            "has pictures with fractions of different lengths as names, whose order is ambiguous;"
            " number them from 1"
        )
    for i in range(1, len(names)):
        if numbers[i] == numbers[i - 1]:
            raise BadVideo(
                f"has two pictures with the same number, {names[i - 1]} and {names[i]}; put each"
                " series in its own folder"
            )
    changing = [values for values in zip(*numbers, strict=True) if len(set(values)) > 1]
    if are_times or not changing:
        return
    if len(changing) > 1:  # Usually of several clips, or of several cameras.
        raise BadVideo(
            f"has pictures whose names have several numbers that change, from {names[0]} to"
            f" {names[-1]}; put each clip into its own folder, or number the pictures with one"
            " number"
        )
    _note_gaps(names, changing[0], note)


def _note_gaps(names: Sequence[str], numbers: Sequence[int], note: Note) -> None:
    """Tells the gaps between rising numbers at least half of which have the same distance."""
    steps = np.diff(np.array(numbers, object)).tolist()
    step, count = min(collections.Counter(steps).items(), key=lambda pair: (-pair[1], pair[0]))
    gaps = [i for i, other in enumerate(steps) if other > step]
    if 2 * count < len(steps) or not gaps:
        return
    missing = sum(steps[i] // step - 1 for i in gaps)
    shown = ", ".join(f"between {names[i]} and {names[i + 1]}" for i in gaps[:3])
    more = ", ..." if len(gaps) > 3 else ""
    verb = "picture seems" if missing == 1 else "pictures seem"
    note(f"{missing} {verb} to be missing: {shown}{more}")
