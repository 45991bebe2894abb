"""Where archives are found: as pip finds them, with its settings."""

import base64
import os

import pytest
from helpers import http_server

from cwvae.errors import UserError
from cwvae.metrics import package_index

ARCHIVE, CONTENT = "a_b-1.0.tar.gz", b"content" * 1000
PATH = f"/files/{ARCHIVE}"


@pytest.fixture(autouse=True)
def pip(monkeypatch):
    """Sets pip's settings, of which there are none before."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)

    def pip(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"PIP_{name.upper()}", str(value))

    pip(config_file=os.devnull, retries=0)
    return pip


@pytest.fixture
def index(pip):
    with http_server.serve() as server:
        server.files[PATH] = CONTENT
        server.files["/simple/a-b/"] = f'<a href="../..{PATH}#sha256=0">x</a>'.encode()
        pip(index_url=f"{server.url}/simple")
        yield server


def download():
    with package_index.download("a-b", ARCHIVE) as found:
        return b"".join(found.chunks)


def reason():
    with pytest.raises(package_index.Unreachable) as caught:
        download()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "page",
    [
        "<A HREF='../..{0}'>x</A>",
        "<a data-x=1 href=../..{0}>x</a>",
        '<a href="http://[bad/{0}">x</a> <a href="{0}">x</a>',
        '<a href="../../files/a_b-1.0-py3-none-any.whl">x</a><a href="{1}{0}?x=1#y">x</a>',
        '<a href="../..{0}&#35;sha256=0">x</a>',
    ],
)
def test_links_of_every_form(index, page):
    index.files["/simple/a-b/"] = page.format(PATH, index.url).encode()
    index.files[f"{PATH}?x=1"] = CONTENT
    assert download() == CONTENT


def test_the_content_comes_as_it_is_and_without_a_size_if_there_is_none(index):
    # Some servers call the archive's own compression an encoding.
    index.headers[PATH] = {"Content-Encoding": "gzip"}
    assert download() == CONTENT
    index.headers[PATH] = {"Content-Length": "abc"}
    with package_index.download("a-b", ARCHIVE) as found:
        assert found.size is None
    index.lengths = False
    index.headers.clear()
    assert download() == CONTENT


@pytest.mark.parametrize("kind", ["archive", "page", "folder", "address", "index"])
def test_places_on_the_disk(tmp_path, pip, kind):
    (tmp_path / "files" / "a-b").mkdir(parents=True)
    path = tmp_path / "files" / ARCHIVE
    path.write_bytes(CONTENT)
    page = tmp_path / "files" / "a-b" / "index.html"
    page.write_text(f'<a href="../{ARCHIVE}">x</a>')
    if kind == "index":
        pip(index_url=(tmp_path / "files").as_uri())
    else:
        address = path.as_uri().replace("file://", "file://localhost")
        places = {"archive": path, "page": page, "folder": path.parent, "address": address}
        pip(no_index="t", find_links=places[kind])
    assert download() == CONTENT


def test_a_password_is_sent_to_the_indexs_host_and_not_printed(index, pip):
    secret = base64.b64encode(b"joe:se@cret").decode()
    index.authorization = f"Basic {secret}"
    index.files["/simple/a-b/"] = f'<a href="{index.url}{PATH}">x</a>'.encode()
    assert "401" in reason()
    host = index.url.removeprefix("http://")
    pip(index_url=f"http://joe:se%40cret@{host}/simple")
    assert download() == CONTENT
    pip(index_url=f"http://joe:se%40cret@{host}/none")
    message = reason()
    assert f"http://joe:****@{host}/none/a-b/" in message
    assert "cret" not in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"no_index": "y"}, "pip's settings name no place to look (no-index)"),
        ({"index_url": "http://[x"}, "http://[x/a-b/: Invalid IPv6 URL"),
        ({"index_url": "pypi.org/simple"}, "pypi.org/simple/a-b/ does not have it"),
        ({"index_url": "http://localhost:9/"}, "http://localhost:9/a-b/: Failed to establish a"),
        ({"index_url": "https://localhost/", "cert": "/no.pem"}, "invalid path: /no.pem"),
        ({"index_url": "https://localhost/", "client_cert": "/no.pem"}, "invalid path: /no.pem"),
        ({"no_index": "1", "find_links": "/nowhere /dev/null"}, "/dev/null does not have it"),
    ],
)
def test_each_place_says_why_it_has_nothing(pip, settings, words):
    pip(**settings)
    assert words in reason()


def test_settings_that_pip_cannot_read_are_not_skipped(tmp_path, pip):
    pip(config_file=tmp_path / "pip.conf")
    (tmp_path / "pip.conf").write_text("[global\nindex-url = https://mirror\n")
    with pytest.raises(UserError, match=r"pip's settings cannot be read: .*no section header"):
        download()
    (tmp_path / "pip.conf").write_text("[download]\ntimeout = soon\n")
    with pytest.raises(UserError, match="pip's setting timeout is not a number: 'soon'"):
        download()


def test_without_pip_the_default_is_named(monkeypatch, tmp_path, capsys):
    (tmp_path / "python").write_text("#!/bin/sh\necho 'python: No module named pip' >&2; exit 1\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(package_index.sys, "executable", str(tmp_path / "python"))
    assert package_index.settings() == {}
    assert "pip is not installed here" in capsys.readouterr().out
