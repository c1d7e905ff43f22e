"""HTTP to the backend. No bpy: every call waits for the network, so it belongs into a thread."""

from __future__ import annotations

import io
import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from ..backend.errors import (
    BadInput,
    FieldforgeError,
    InternalError,
    NotAuthorized,
    NotFound,
    Unreachable,
    from_dict,
)
from ..backend.protocol import CONTENT_TYPE, PROTOCOL_VERSION, check_protocol

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
SEND_SECONDS = 300.0
PREVIEW_SECONDS = 5.0
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 15.0
FINAL_STATES = frozenset({"done", "failed", "cancelled"})

Record = dict[str, Any]


class _Bearer(AuthBase):
    """Given as `auth`, so that a .netrc file of the user cannot put another header in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def is_loopback(url: str) -> bool:
    """True when `url` can only be this computer."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, online: bool) -> str:
    """The base URL without its last slash; raises BadInput, or Unreachable when offline."""
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(
            f"{url or 'The empty text'} is not the address of a server.",
            "Enter one such as http://127.0.0.1:8765 in Preferences > Add-ons > Fieldforge.",
        )
    if not online and not is_loopback(url):
        raise Unreachable(
            "Blender is set to stay offline, so no other computer is contacted.",
            "Turn on Preferences > System > Allow Online Access, or choose a local backend.",
        )
    return url


@dataclass(frozen=True)
class Client:
    """One backend. url: checked by `check_url`; token: sent with every call but health."""

    url: str
    token: str = field(repr=False)

    def health(self) -> Record:
        """The backend's own words about itself; raises VersionMismatch when it is another one's."""
        record = self._json("GET", "/health")
        if record.get("name") != "fieldforge":
            raise BadInput(
                f"What answers at {self.url} is not a Fieldforge backend.",
                "Check the address and the port in Preferences > Add-ons > Fieldforge.",
            )
        check_protocol(record.get("protocol"))
        return record

    def models(self) -> list[Record]:
        listed = self._json("GET", "/models")
        return listed if isinstance(listed, list) else listed.get("models", [])

    def submit(self, body: bytes) -> Record:
        """Send the bytes of `protocol.encode_task`; returns the record of the new job."""
        headers = {"Content-Type": CONTENT_TYPE, "X-Fieldforge-Protocol": str(PROTOCOL_VERSION)}
        # Bytes would be sent in one call, which the time for connecting would limit; a file is
        # sent in pieces, each with that time of its own.
        data = io.BytesIO(body)
        return self._json("POST", "/jobs", data=data, headers=headers, seconds=SEND_SECONDS)

    def jobs(self) -> list[Record]:
        return self._json("GET", "/jobs")["jobs"]

    def job(self, job_id: str) -> Record:
        return self._json("GET", f"/jobs/{job_id}")

    def cancel(self, job_id: str) -> Record:
        return self._json("POST", f"/jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Forget a job and its files; one that is gone already is fine."""
        try:
            self._call("DELETE", f"/jobs/{job_id}").close()
        except NotFound:
            return

    def result(self, job_id: str) -> bytes:
        return self._bytes(f"/jobs/{job_id}/result")

    def preview(self, job_id: str) -> bytes:
        """What a running job has formed so far; raises NotFound before the first and at its end."""
        return self._bytes(f"/jobs/{job_id}/preview", PREVIEW_SECONDS)

    def task(self, job_id: str) -> bytes:
        return self._bytes(f"/jobs/{job_id}/task")

    def follow(
        self,
        job_id: str,
        unwanted: Callable[[], bool] = lambda: False,
        alive: Callable[[], bool] = lambda: True,
        patience: float | None = None,
    ) -> Iterator[Record]:
        """Yield the job's record whenever it changes, the final one last.

        Listens to the server's events and, when that line drops, asks again and again. `unwanted`
        ends the iteration early; `alive` says whether a local backend still runs. Raises
        Unreachable when nothing was heard for `patience` seconds, or at once when not alive.
        """
        patience = PATIENCE_SECONDS if patience is None else patience
        heard = time.monotonic()
        while not unwanted():
            try:
                for record in self._events(job_id):
                    heard = time.monotonic()
                    yield record
                    if record["state"] in FINAL_STATES or unwanted():
                        return
                record = self.job(job_id)  # the events ended, or there were none
                heard = time.monotonic()
                yield record
                if record["state"] in FINAL_STATES:
                    return
            except Unreachable:
                if not alive() or time.monotonic() - heard > patience:
                    raise gone(alive()) from None
            time.sleep(POLL_SECONDS)

    def _events(self, job_id: str) -> Iterator[Record]:
        """The records of the server's event stream until it ends or drops."""
        try:
            response = self._call(
                "GET",
                f"/jobs/{job_id}/events",
                headers={"Accept": "text/event-stream"},
                stream=True,
            )
        except NotFound:
            return  # no such job, or no events there: the question that follows tells which
        with response:
            lines = response.iter_lines(chunk_size=1)
            while True:
                try:
                    line = next(lines, None)
                except (requests.RequestException, OSError):
                    return
                if line is None:
                    return
                if line.startswith(b"data:"):
                    record = _record(line[5:])
                    if record is not None:
                        yield record

    def _json(self, method: str, path: str, **options: Any) -> Any:
        with self._call(method, path, **options) as response:
            try:
                return response.json()
            except ValueError:
                raise BadInput(
                    f"What answers at {self.url} is not a Fieldforge backend.",
                    "Check the address and the port in Preferences > Add-ons > Fieldforge.",
                ) from None
            except requests.RequestException as error:
                raise _unreachable(self.url, error) from None

    def _bytes(self, path: str, seconds: float = ANSWER_SECONDS) -> bytes:
        with self._call("GET", path, seconds, stream=True) as response:
            try:
                return response.content
            except requests.RequestException as error:
                raise _unreachable(self.url, error) from None

    def _call(
        self,
        method: str,
        path: str,
        seconds: float = ANSWER_SECONDS,
        **options: Any,
    ) -> requests.Response:
        with requests.Session() as session:
            # A proxy stands between this computer and others, never between it and itself.
            session.trust_env = not is_loopback(self.url)
            try:
                response = session.request(
                    method,
                    f"{self.url}/v1{path}",
                    auth=_Bearer(self.token) if self.token else None,
                    timeout=(CONNECT_SECONDS, seconds),
                    allow_redirects=False,
                    **options,
                )
            except (requests.RequestException, OSError, UnicodeError) as error:
                raise _unreachable(self.url, error) from None
        if response.status_code >= 300:
            with response:
                raise _error_of(response)
        return response


def _record(text: bytes) -> Record | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "state" in record else None


def _error_of(response: requests.Response) -> FieldforgeError:
    """The error that the server tells, or the best words for a status that tells nothing."""
    try:
        told = response.json()["error"]
        return from_dict(told)
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):
        pass
    if response.status_code in {401, 403}:
        return NotAuthorized(
            "The backend does not accept the token.",
            "Enter the token that the server was started with, in Preferences.",
        )
    if response.status_code == 404:
        return NotFound(
            "The backend does not know what was asked for.",
            "Install the same version of Fieldforge on both sides.",
        )
    return InternalError(
        f"The backend answered with status {response.status_code}.",
        "Look into the backend's log, and check that nothing else answers at this address.",
    )


def _unreachable(url: str, error: BaseException) -> Unreachable:
    if isinstance(error, requests.exceptions.SSLError):
        return Unreachable(
            f"The certificate of {url} is not trusted.",
            "Check the address, or install the server's certificate on this computer.",
        )
    if isinstance(error, requests.exceptions.Timeout):
        return Unreachable(
            f"The backend at {url} does not answer in time.",
            "Check that it runs, then Test Connection in Preferences.",
        )
    return Unreachable(
        f"The backend at {url} cannot be reached.",
        "Check that it runs and that the address is right, then Test Connection in Preferences.",
    )


def gone(local_runs: bool) -> Unreachable:
    """The backend went away while a job was in its hands."""
    cause = "The connection to the backend was lost" if local_runs else "The backend has ended"
    return Unreachable(
        f"{cause} while the job was running.",
        "Nothing is lost: click Fetch Again, here or in the history. The log in Preferences "
        "says what happened.",
    )
