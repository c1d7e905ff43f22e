"""Every error that Fieldforge tells a person: a cause and a remedy, in the artist's words.

FieldforgeError
├── BadInput            the input cannot be used (exit 2, HTTP 422)
│   ├── TooLarge        larger than this backend accepts (exit 2, HTTP 413)
│   └── VersionMismatch add-on and backend do not speak the same protocol (exit 2, HTTP 409)
├── NotAuthorized       missing or wrong token (exit 2, HTTP 401)
├── NotFound            no such job, model or file (exit 2, HTTP 404)
├── NotInstalled        the weights of a model are not on this computer (exit 2, HTTP 409)
├── LicenseNotAccepted  a model's licence must be accepted first (exit 2, HTTP 403)
├── NotReady            the job has no result, not yet or not at all (exit 1, HTTP 409)
├── QueueFull           too many jobs are waiting (exit 1, HTTP 429)
├── StorageFailed       disk full, read-only data folder (exit 1, HTTP 507)
├── OutOfMemory         the result does not fit into memory (exit 1, HTTP 507)
├── WorkerDied          the process that did the job was ended (exit 1, HTTP 500)
├── Cancelled           the person cancelled the job (exit 1, HTTP 409)
├── Unreachable         the backend does not answer (exit 1, HTTP 503)
└── InternalError       a fault of ours; the log has the traceback (exit 1, HTTP 500)

Standard library only: the command line, the server and the Blender add-on all import this file.
"""

from __future__ import annotations

from typing import ClassVar


class FieldforgeError(Exception):
    """Something to tell a person: what happened (`cause`) and what to do about it (`remedy`)."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}".strip()

    def to_dict(self) -> dict[str, str]:
        """The wire form; `from_dict` is its inverse."""
        return {"code": self.code, "cause": self.cause, "remedy": self.remedy}


class BadInput(FieldforgeError):
    code = "bad-input"
    exit_code = 2
    status = 422


class TooLarge(BadInput):
    code = "too-large"
    status = 413


class VersionMismatch(BadInput):
    code = "version-mismatch"
    status = 409


class NotAuthorized(FieldforgeError):
    code = "not-authorized"
    exit_code = 2
    status = 401


class NotFound(FieldforgeError):
    code = "not-found"
    exit_code = 2
    status = 404


class NotInstalled(FieldforgeError):
    code = "not-installed"
    exit_code = 2
    status = 409


class LicenseNotAccepted(FieldforgeError):
    code = "license"
    exit_code = 2
    status = 403


class NotReady(FieldforgeError):
    code = "not-ready"
    status = 409


class QueueFull(FieldforgeError):
    code = "queue-full"
    status = 429


class StorageFailed(FieldforgeError):
    code = "storage"
    status = 507


class OutOfMemory(FieldforgeError):
    code = "out-of-memory"
    status = 507


class WorkerDied(FieldforgeError):
    code = "worker-died"


class Cancelled(FieldforgeError):
    code = "cancelled"
    status = 409


class Unreachable(FieldforgeError):
    code = "unreachable"
    status = 503


class InternalError(FieldforgeError):
    code = "internal"


_BY_CODE: dict[str, type[FieldforgeError]] = {
    kind.code: kind
    for kind in (
        BadInput,
        TooLarge,
        VersionMismatch,
        NotAuthorized,
        NotFound,
        NotInstalled,
        LicenseNotAccepted,
        NotReady,
        QueueFull,
        StorageFailed,
        OutOfMemory,
        WorkerDied,
        Cancelled,
        Unreachable,
        InternalError,
    )
}


def from_dict(record: dict[str, str]) -> FieldforgeError:
    """Rebuild an error from its wire form; an unknown code becomes an `InternalError`."""
    kind = _BY_CODE.get(record.get("code", ""), InternalError)
    return kind(record.get("cause", "Unknown error."), record.get("remedy", ""))
