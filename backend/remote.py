"""A task done by a backend that runs elsewhere: the client of the command line."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from . import errors
from .protocol import (
    CONTENT_TYPE,
    PROTOCOL_VERSION,
    Progress,
    Result,
    Task,
    decode_result,
    encode_task,
)

_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 15.0  # how long the backend may be silent while it has the job
_TIMEOUT = (10, 300)  # seconds to connect, and between two bytes of an answer


def run(task: Task, url: str, token: str | None) -> Iterator[Progress | Result]:
    """Like `pipelines.run`, on the backend at `url`. Closing the generator cancels the job.

    Raises Unreachable, NotAuthorized, and whatever the job itself failed with.
    """
    task.validate()
    server = _Server(url, token)
    record = server.json("POST", "/jobs", data=encode_task(task))
    path = f"/jobs/{record['id']}"
    try:
        while record["state"] in ("queued", "running"):
            stage = record.get("stage") or "Waiting"
            yield Progress(stage, float(record.get("fraction") or 0.0))
            time.sleep(_POLL_SECONDS)
            record = server.patient_json(path)
    except (GeneratorExit, KeyboardInterrupt):
        server.cancel(path)
        raise
    if record["state"] == "cancelled":
        raise errors.Cancelled("The job was cancelled on the server.", "Run it again.")
    if record["state"] != "done":
        raise errors.from_dict(record.get("error") or {})
    yield decode_result(server.call("GET", f"{path}/result").content)


class _Bearer(AuthBase):
    """Given as `auth`, so that a .netrc file cannot put another header in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Server:
    def __init__(self, url: str, token: str | None) -> None:
        self._url = _checked_url(url)
        self._base = self._url + "/v1"
        self._session = requests.Session()
        # A proxy stands between this computer and others, never between it and itself.
        self._session.trust_env = not _is_loopback(self._url)
        self._session.headers["Content-Type"] = CONTENT_TYPE
        self._session.headers["X-Fieldforge-Protocol"] = str(PROTOCOL_VERSION)
        if token:
            self._session.auth = _Bearer(_checked_token(token))

    def json(self, method: str, path: str, data: bytes | None = None) -> dict[str, Any]:
        answer = self.call(method, path, data)
        try:
            record = answer.json()
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise self._stranger()
        return record

    def patient_json(self, path: str) -> dict[str, Any]:
        """GET `path`, again and again for a while when nobody answers: a job is at stake."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return self.json("GET", path)
            except errors.Unreachable:
                if time.monotonic() >= end:
                    raise errors.Unreachable(
                        f"The backend at {self._url} has gone away while the job was running.",
                        "Nothing was written. Check that it runs (its log tells why it ended), "
                        "then run this again.",
                    ) from None
            time.sleep(_POLL_SECONDS)

    def cancel(self, path: str) -> None:
        """Tell the backend that the job is not wanted; when nobody listens, so be it."""
        try:
            self.call("POST", f"{path}/cancel")
        except errors.FieldforgeError:
            return

    def call(self, method: str, path: str, data: bytes | None = None) -> requests.Response:
        try:
            answer = self._session.request(
                method, self._base + path, data=data, timeout=_TIMEOUT, allow_redirects=False
            )
        except (requests.RequestException, UnicodeError):
            raise errors.Unreachable(
                f"The backend at {self._url} does not answer.",
                "Check the address, and that it runs: python3 -m backend serve",
            ) from None
        if answer.status_code < 300:
            return answer
        raise self._error_of(answer)

    def _error_of(self, answer: requests.Response) -> errors.FieldforgeError:
        try:
            return errors.from_dict(answer.json()["error"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._stranger()

    def _stranger(self) -> errors.FieldforgeError:
        return errors.Unreachable(
            f"What answers at {self._url} is not Fieldforge.", "Check the address and the port."
        )


def _checked_url(url: str) -> str:
    """`url` without its last slash. Raises BadInput."""
    url = url.rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises when it is no number
    except ValueError:
        usable = False
    if not usable:
        raise errors.BadInput(
            f"{url!r} is not the address of a backend.",
            "It begins with http:// or https://, as `serve` prints it.",
        )
    return url


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_token(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        raise errors.BadInput(
            "The token has letters that cannot be sent.", "Copy it again, as `serve` printed it."
        )
    return token
