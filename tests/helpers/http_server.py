"""A small file server on localhost that can imitate failing servers and networks."""

import contextlib
import dataclasses
import http.server
import re
import threading
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Request:
    """A request and its response; `sent` is the number of bytes of content."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


@dataclasses.dataclass
class FileServer:
    """The files and the behavior of a server, which may be changed while it runs.

    Attributes:
      url: The server's address, such as 'http://localhost:1234'.
      files: Contents by path, such as '/a/b.zip'. Any other path is a 404.
      cuts: By path, the number of bytes after which to close each of the next responses.
      stalls: By path, the number of bytes after which each of the next responses stalls.
      etags: By path; the default depends on the content. None omits the header.
      statuses: By path, the status of the next responses, instead of the content.
      ranges: Whether the server supports Range requests.
      lengths: Whether it sends the length of a file.
      headers: More headers of each response, by path.
      authorization: The header `Authorization` that all requests need, if any.
      requests: All requests so far.
    """

    url: str
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    cuts: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    stalls: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    etags: dict[str, str | None] = dataclasses.field(default_factory=dict)
    statuses: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    headers: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    authorization: str | None = None
    requests: list[Request] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[FileServer]:
    """Runs a server within a `with` block; yields its state."""
    state = FileServer("")
    handler = type("Handler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        state.url = f"http://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    state: FileServer

    def do_GET(self):
        state, path = self.state, self.path
        request = Request(path, self.headers.get("Range"), self.headers.get("If-Range"))
        state.requests.append(request)
        request.status = _next(state.statuses, path) or (200 if path in state.files else 404)
        if state.authorization not in (None, self.headers.get("Authorization")):
            request.status = 401
        if request.status != 200:
            self.send_response(request.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = state.files[path]
        etag = state.etags.get(path, f'"{hash(content):x}"')
        start = self._start(request, etag)
        if start is not None and start >= len(content):
            request.status, start, content = 416, 0, b""
        elif start:
            request.status = 206
        self.send_response(request.status)
        if request.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag is not None:
            self.send_header("ETag", etag)
        body = content[start:]
        headers = state.headers.get(path, {})
        if state.lengths:
            headers = {"Content-Length": str(len(body))} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        cut, stall = _next(state.cuts, path), _next(state.stalls, path)
        body = body[: cut if stall is None else stall]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()
            request.sent = len(body)
            if stall is not None:
                time.sleep(2)

    def _start(self, request: Request, etag: str | None) -> int | None:
        """Returns the first byte to send; None for the whole file."""
        wanted = re.fullmatch(r"bytes=(\d+)-", request.range or "")
        same = request.if_range is None or request.if_range == etag
        return int(wanted[1]) if wanted and same and self.state.ranges else None

    def log_message(self, *_):
        pass


def _next(by_path: dict[str, list[int]], path: str) -> int | None:
    values = by_path.get(path)
    return values.pop(0) if values else None
