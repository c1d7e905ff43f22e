"""A server that answers as the Hugging Face hub does, for files that a test gives it."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: (repository, name) -> content. Its behaviour can be changed while it runs.

    cut_after: bytes of a body after which the connection is dropped; cuts: how often that happens.
    lie: the file whose checksum is told wrongly. no_ranges: answers with the whole file always.
    status: of every answer, instead of what would be right. wait: set it to let bodies go on.
    moved_to: where bodies lie in truth, as the hub's own storage does. sign_in: the page that is
    answered in place of bodies. endless: bodies go on and do not say how long they are.
    tokens: of the requests, None where there was none.
    """

    url: str
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=lambda: {"checkpoint.ckpt"})
    cut_after: int = 0
    cuts: int = 0
    lie: str = ""
    no_ranges: bool = False
    status: int = 0
    wait: threading.Event | None = None
    moved_to: str = ""
    sign_in: bytes = b""
    endless: bool = False
    tokens: list[str | None] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def bodies(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file, None for the whole of it."""
        return [
            wanted for method, path, wanted in self.requests if method == "GET" and name in path
        ]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub without files, on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.wait:
            hub.wait.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        wanted = self.headers.get("Range")
        hub.requests.append((self.command, self.path, wanted))
        hub.tokens.append(self.headers.get("Authorization"))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        content = hub.files.get((found[1], found[3])) if found else None
        if hub.status:
            return self._refuse(hub.status, {})
        if content is None:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        if with_body and hub.moved_to:
            return self._refuse(302, {"Location": hub.moved_to + self.path})
        if with_body and hub.sign_in:
            return self._page(hub.sign_in)
        begin = 0
        if wanted and not hub.no_ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if with_body and hub.endless:
            body += bytes(len(content))
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self._digest(hub, found[3], content)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.end_headers()
        if with_body:
            self._send(hub, body)

    def _page(self, text: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _digest(self, hub: Hub, name: str, content: bytes) -> str:
        if name in hub.large:
            digest = hashlib.sha256(content).hexdigest()
        else:
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
        return "0" * len(digest) if hub.lie == name else digest

    def _send(self, hub: Hub, body: bytes) -> None:
        if hub.cuts and len(body) > hub.cut_after:
            hub.cuts -= 1
            self.wfile.write(body[: hub.cut_after])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if hub.wait:
            hub.wait.wait(20)
        self.wfile.write(body[half:])
