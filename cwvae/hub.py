"""Exports on the Hugging Face Hub, by addresses such as hf://user/name."""

import pathlib
import re
from collections.abc import Sequence

from cwvae.errors import UserError

_PREFIX = "hf://"


def is_address(source: str | pathlib.Path) -> bool:
    """Returns whether a source is an address on the Hub, and not a folder."""
    return isinstance(source, str) and source.startswith(_PREFIX)


def download(address: str, names: Sequence[str]) -> pathlib.Path:
    """Downloads files of a model, unless they are in the Hub's cache, and returns their folder.

    Args:
      address: hf://user/name, or hf://user/name@revision for a branch, a tag or a commit.
      names: The files that an export consists of.

    Raises:
      UserError: `huggingface_hub` is not installed, the address is wrong, or the model cannot be
        downloaded or is not an export.
    """
    match = re.fullmatch(rf"{_PREFIX}([\w.-]+/[\w.-]+)(?:@(\S+))?", address)
    if not match:
        raise UserError(f"{address}: write hf://user/name, or hf://user/name@revision.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{address}: loading from the Hub needs huggingface_hub. Install it:"
            " pip install huggingface_hub"
        ) from None
    name, revision = match.groups()
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(names)
        )
    except (OSError, ValueError) as error:  # The errors of the Hub are both or one of these.
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{address}: cannot be downloaded ({reason}). Check the name, the network and, for a"
            " private model, your login: hf auth login"
        ) from None
    folder = pathlib.Path(found)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(
            f"{address}: not an export of this project: it lacks {' and '.join(missing)}."
        )
    return folder
