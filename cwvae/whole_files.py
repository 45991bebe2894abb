"""Files that are there whole or not at all."""

import os
import pathlib


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file aside and then renames it; text as UTF-8.

    Raises:
      OSError: It cannot be written; what was there before stays.
    """
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(aside, path)
