"""A task done by a backend that runs elsewhere: the client of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import requests

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
            record = server.json("GET", path)
    except (GeneratorExit, KeyboardInterrupt):
        server.json("POST", f"{path}/cancel")
        raise
    if record["state"] == "cancelled":
        raise errors.Cancelled("The job was cancelled on the server.", "Run it again.")
    if record["state"] != "done":
        raise errors.from_dict(record.get("error") or {})
    yield decode_result(server.call("GET", f"{path}/result").content)


class _Server:
    def __init__(self, url: str, token: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise errors.BadInput(
                f"{url!r} is not the address of a backend.",
                "It begins with http:// or https://, as `serve` prints it.",
            )
        self._base = url.rstrip("/") + "/v1"
        self._session = requests.Session()
        self._session.headers["Content-Type"] = CONTENT_TYPE
        self._session.headers["X-Fieldforge-Protocol"] = str(PROTOCOL_VERSION)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def json(self, method: str, path: str, data: bytes | None = None) -> dict[str, Any]:
        answer = self.call(method, path, data)
        try:
            record = answer.json()
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise self._stranger()
        return record

    def call(self, method: str, path: str, data: bytes | None = None) -> requests.Response:
        try:
            answer = self._session.request(method, self._base + path, data=data, timeout=_TIMEOUT)
        except requests.RequestException:
            raise errors.Unreachable(
                f"The backend at {self._base} does not answer.",
                "Check the address, and that it runs: python3 -m backend serve",
            ) from None
        if answer.ok:
            return answer
        raise self._error_of(answer)

    def _error_of(self, answer: requests.Response) -> errors.FieldforgeError:
        try:
            return errors.from_dict(answer.json()["error"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._stranger()

    def _stranger(self) -> errors.FieldforgeError:
        return errors.Unreachable(
            f"What answers at {self._base} is not Fieldforge.", "Check the address and the port."
        )
