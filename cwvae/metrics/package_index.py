"""Downloads a package's archive from where pip is configured to look, and runs nothing of it.

The settings are those of `pip download`: index-url, extra-index-url, find-links, no-index, proxy,
cert, client-cert, trusted-host, timeout, retries; from pip's files and the environment.
"""

import ast
import contextlib
import html.parser
import pathlib
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cwvae.errors import UserError

PYPI = "https://pypi.org/simple"

_CHUNK = 2**18  # Bytes.
_TIMEOUT, _RETRIES = 15, 5  # pip's own: seconds without an answer, and attempts after the first.


class Unreachable(Exception):
    """Raised if an archive cannot be downloaded; the message says why, without passwords."""

    def __init__(self, reason: str):
        super().__init__(re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:****@", reason))


def settings() -> dict[str, str]:
    """Returns pip's settings for downloads by name. Without pip it says so: there are none.

    Raises:
      UserError: pip cannot read its settings.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        print(f"pip is not installed here, so its settings are not used, but {PYPI}.", flush=True)
        return {}
    if done.returncode:
        raise UserError(f"pip's settings cannot be read: {' '.join(done.stderr.split())}")
    found = {}
    for section in ("global", "download", ":env:"):  # The last one wins.
        for name, value in re.findall(rf"(?m)^{section}\.(\S+?)=(.*)$", done.stdout):
            found[name] = str(ast.literal_eval(value))
    return found


class Download(NamedTuple):
    """An archive on its way: its size in bytes, None if the server does not tell, and content."""

    size: int | None
    chunks: Iterator[bytes]


@contextlib.contextmanager
def download(project: str, archive: str) -> Iterator[Download]:
    """Yields the content of an archive of a project.

    Raises:
      Unreachable: Nobody has the archive, or it cannot be read; also while the chunks are read.
      UserError: As `settings`.
    """
    index = _Index(settings())
    place = index.find(project, archive)
    with contextlib.ExitStack() as stack:
        try:
            if path := _path(place):
                file = stack.enter_context(open(path, "rb"))
                size, chunks = path.stat().st_size, iter(lambda: file.read(_CHUNK), b"")
            else:
                # As it is: some servers call the archive's own compression an encoding.
                response = index.get(place, stream=True, headers={"Accept-Encoding": "identity"})
                stack.callback(response.close)
                length = response.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
                chunks = response.raw.stream(_CHUNK, decode_content=False)
        except OSError as error:  # Also those of requests.
            raise Unreachable(_reason(place, error)) from None
        yield Download(size, _readable(place, chunks))


def _readable(place: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    import urllib3

    try:
        yield from chunks
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise Unreachable(_reason(place, error)) from None


class _Index:
    """The places that pip looks in."""

    def __init__(self, given: Mapping[str, str]):
        import requests  # Late: evaluations do not need it.

        self._settings = given
        self._session = requests.Session()
        retries = int(_number(given, "retries", _RETRIES))
        adapter = requests.adapters.HTTPAdapter(max_retries=retries)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        if proxy := given.get("proxy"):
            self._session.proxies = {"http": proxy, "https": proxy}

    def get(self, url: str, **options):
        """Returns the response to a request, sent as pip would; raises an OSError."""
        given, where = self._settings, urllib.parse.urlparse(url)
        trusted = given.get("trusted-host", "").split()
        verify = False if {where.hostname, where.netloc} & {*trusted} else given.get("cert", True)
        response = self._session.get(
            url,
            timeout=_number(given, "timeout", _TIMEOUT),
            verify=verify,
            cert=given.get("client-cert"),
            auth=self._credentials(where),
            **options,
        )
        response.raise_for_status()
        return response

    def _credentials(self, where: urllib.parse.ParseResult) -> tuple[str, str] | None:
        """Returns the name and password that pip's settings hold for a host."""
        for place in [where.geturl(), *self._indexes()]:
            known = urllib.parse.urlparse(place)
            if known.username and known.hostname == where.hostname:
                unquote = urllib.parse.unquote
                return unquote(known.username), unquote(known.password or "")
        return None

    def _indexes(self) -> list[str]:
        given = self._settings
        if given.get("no-index", "").lower() in ("1", "true", "t", "yes", "y", "on"):
            return []
        return [given.get("index-url", PYPI), *given.get("extra-index-url", "").split()]

    def find(self, project: str, archive: str) -> str:
        """Returns the address of an archive; raises `Unreachable` with what each place said."""
        places = [f"{index.rstrip('/')}/{project}/" for index in self._indexes()]
        places += self._settings.get("find-links", "").split()
        reasons = []
        for place in places:
            try:
                found = self._search(place, archive)
            except (OSError, ValueError) as error:
                reasons.append(_reason(place, error))
                continue
            if found:
                return found
            reasons.append(f"{place} does not have it")
        raise Unreachable("; ".join(reasons) or "pip's settings name no place to look (no-index)")

    def _search(self, place: str, archive: str) -> str | None:
        """Returns the address of an archive in a folder or on a page; None if it is not there."""
        if urllib.parse.urlparse(place).path.endswith(f"/{archive}"):
            return place
        if path := _path(place):
            if (path / archive).is_file():
                return (path / archive).absolute().as_uri()
            page = path / "index.html" if path.is_dir() else path
            if not page.is_file():
                return None
            base, text = page.absolute().as_uri(), page.read_text(errors="replace")
        else:
            response = self.get(place, headers={"Accept": "text/html"})
            base, text = response.url, response.text
        links = _Links()
        links.feed(text)
        for link in links.found:
            with contextlib.suppress(ValueError):  # As pip, which skips bad links.
                url = urllib.parse.urljoin(base, link)
                if urllib.parse.urlparse(url).path.endswith(f"/{archive}"):
                    return urllib.parse.urldefrag(url).url
        return None


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(given.get(name, default))
    except ValueError:
        raise UserError(f"pip's setting {name} is not a number: {given[name]!r}.") from None


class _Links(html.parser.HTMLParser):
    """Collects the targets of a page's links in `found`."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


def _path(place: str) -> pathlib.Path | None:
    """Returns the path that an address in a file system means; None for other addresses."""
    if "://" not in place and not place.startswith("file:"):
        return pathlib.Path(place).expanduser()
    parts = urllib.parse.urlparse(place)
    return pathlib.Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _reason(place: str, error: Exception) -> str:
    """Returns a place and the innermost reason of an error in a line."""
    inner = error
    while (below := getattr(inner, "reason", None) or (*inner.args, None)[0]) is not None:
        if not isinstance(below, Exception):
            break
        inner = below
    text = getattr(inner, "strerror", None) or " ".join(str(inner).split()) or type(inner).__name__
    # Without urllib3's "HTTPConnection(host='localhost', port=9): " before it.
    return f"{place}: {re.sub(r'^HTTPS?Connection.*?[)]: ', '', text)[:300].rstrip('.')}"
