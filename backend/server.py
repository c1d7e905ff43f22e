"""The HTTP front end: routes, limits and status codes. The work is done in worker processes.

`create_app` makes the application, `serve` runs it until it is told to end. Every call but
GET /v1/health needs `Authorization: Bearer TOKEN`. Every error has the status of its class in
errors.py and the body {"error": {"code", "cause", "remedy"}}.

On a loopback address, requests must name it in their Host header: a web page that points its own
name at 127.0.0.1 gets no answer. No CORS headers are sent, so browsers keep other pages out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hmac
import ipaddress
import json
import logging
import logging.handlers
import os
import secrets
import signal
import socket
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from . import device as devices
from . import jobs as job_store
from . import parent, pipelines, protocol
from .errors import (
    BadInput,
    Cancelled,
    FieldforgeError,
    InternalError,
    NotAuthorized,
    NotFound,
    OutOfMemory,
    TooLarge,
)
from .jobs import Job, JobStore
from .workers import DEFAULT_ENTRY, MAX_RESULT_BYTES, WorkerOptions, WorkerPool

MAX_BODY_BYTES = 2 << 30
KEEP_ALIVE_SECONDS = 10.0

_CHUNK_BYTES = 1 << 20
_MAX_WORKERS = 64
_LOOPBACK_NAMES = ("localhost",)

_log = logging.getLogger("fieldforge.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server runs. Sizes in bytes.

    data: folder for jobs and results. hosts: names that the Host header may have, empty = any.
    entry, warm: see WorkerOptions.
    """

    data: Path
    token: str
    hosts: frozenset[str] = frozenset({"127.0.0.1", "::1", "localhost"})
    workers: int = 1
    device: str = "auto"
    entry: str = DEFAULT_ENTRY
    warm: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    max_result_bytes: int = MAX_RESULT_BYTES
    max_queued: int = job_store.MAX_QUEUED
    keep_bytes: int = job_store.KEEP_BYTES
    keep_jobs: int = job_store.KEEP_JOBS
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS


# ------------------------------------------------------------------------------------ the answers


class ErrorDetail(BaseModel):
    """What happened, and what to do about it."""

    code: str
    cause: str
    remedy: str


class ErrorBody(BaseModel):
    error: ErrorDetail


class HealthBody(BaseModel):
    """device: what was asked for until a worker knows what there is. busy: a job runs."""

    name: Literal["fieldforge"]
    version: str
    protocol: int
    device: str
    device_name: str | None
    busy: bool


class ModelBody(BaseModel):
    """A model as `pipelines.Model` describes it."""

    id: str
    title: str
    summary: str
    tasks: list[str]
    samples: bool
    family: str
    steps: int
    guidance: float | None
    views: int
    view_kind: str
    cameras: list[int]
    any_views: bool
    ring: dict[str, float] | None
    view_size: int
    own_views: list[tuple[float, float]]
    turns: bool
    names: list[str]
    frames: int
    ready: bool
    bytes: int
    license: str
    license_url: str
    license_words: str
    needs: list[str]
    default_for: list[str]


class JobBody(BaseModel):
    """Times are unix seconds; `fraction` is in 0..1.

    preview: how many previews a running job has shown, 0 before the first and after its end.
    """

    id: str
    kind: str
    name: str
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    fraction: float
    created: float
    started: float | None
    finished: float | None
    result_bytes: int
    preview: int
    error: ErrorDetail | None
    report: dict[str, Any] | None


class JobsBody(BaseModel):
    jobs: list[JobBody]


_REASONS = {
    401: "The token is missing or wrong.",
    404: "There is no such job.",
    409: "Not in this state, or not with this version of the protocol.",
    413: "The body is larger than this backend accepts.",
    422: "The input cannot be used.",
    429: "Too many jobs are waiting.",
    507: "The data folder cannot be used, or memory is short.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorBody, "description": _REASONS[status]} for status in sorted(statuses)
    }


def _bytes_body(description: str) -> dict[int | str, dict[str, Any]]:
    binary = {protocol.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": description, "content": binary}}


# ------------------------------------------------------------------------------------ the backend


class Backend:
    """The parts behind one application: the store, the workers, and who listens to which job."""

    def __init__(self, settings: Settings) -> None:
        _check_settings(settings)
        self.settings = settings
        self.listeners = Listeners()
        self.store = JobStore(
            settings.data,
            keep_bytes=settings.keep_bytes,
            keep_jobs=settings.keep_jobs,
            max_queued=settings.max_queued,
            on_change=self.listeners.changed,
        )
        options = WorkerOptions(
            entry=settings.entry,
            device=settings.device,
            threads=max(1, devices.usable_cores() // settings.workers),
            warm=settings.warm,
            max_result_bytes=settings.max_result_bytes,
        )
        self.pool = WorkerPool(self.store, settings.workers, options)
        self.arriving = 0
        # Checking a task may need as much memory again as the task has, so one at a time.
        self.checking = asyncio.Lock()

    def close(self) -> None:
        """End the workers and give the data folder back. May be called twice."""
        self.listeners.close()
        self.pool.close()
        self.store.close()


def _check_settings(settings: Settings) -> None:
    devices.check_choice(settings.device)
    if not 1 <= settings.workers <= _MAX_WORKERS:
        raise BadInput(
            f"{settings.workers} workers are not possible.", f"Use 1 to {_MAX_WORKERS} workers."
        )
    if not settings.token.isascii() or not settings.token.isprintable() or " " in settings.token:
        raise BadInput(
            "The token has letters that cannot be sent.",
            "Use the letters a to z, digits and dashes, without spaces.",
        )
    if not settings.token:
        raise BadInput("The token is empty.", "Give a token, or leave it out to get a random one.")


class Listeners:
    """Wakes the event streams of a job when the job changes, from whichever thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def changed(self, job_id: str) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._wake, job_id)

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        for job_id in list(self._events):
            self.changed(job_id)

    def _wake(self, job_id: str) -> None:
        for event in self._events.get(job_id, ()):
            event.set()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set after each change of the job."""
        event = asyncio.Event()
        self._events.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            events = self._events[job_id]
            events.discard(event)
            if not events:
                del self._events[job_id]


# -------------------------------------------------------------------------------- the application


def create_app(settings: Settings) -> FastAPI:
    """The application. It takes the data folder at once and starts the workers with its lifespan.

    Raises StorageFailed when the data folder cannot be used, BadInput for impossible settings.
    """
    backend = Backend(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend.listeners.attach(asyncio.get_running_loop())
        backend.pool.start()
        try:
            yield
        finally:
            await run_in_threadpool(backend.close)

    app = FastAPI(
        title="Fieldforge",
        version=version(),
        summary="Generative 3D: tasks in, meshes out.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.backend = backend
    app.include_router(_routes)
    app.add_exception_handler(FieldforgeError, _tell)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _tell_http)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _tell_invalid)  # type: ignore[arg-type]
    app.add_middleware(_Gate, settings=settings)
    return app


@functools.cache
def version() -> str:
    """The version of this Fieldforge, from its manifest (which is shipped with the backend)."""
    manifest = Path(__file__).resolve().parent.parent / "blender_manifest.toml"
    try:
        return str(tomllib.loads(manifest.read_text(encoding="utf-8"))["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "0.0.0"


class _Gate:
    """Lets in who names this machine and has the token; turns what slips through into an answer.

    It stands before everything else, so that nothing is read from, or told to, anyone else.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        started = False

        async def watched_send(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, watched_send)
        except FieldforgeError as error:
            await _answer(error)(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is there to be told
        except Exception:
            _log.exception("%s %s", scope.get("method"), scope.get("path"))
            if started:
                raise  # the answer is cut off; only closing the connection can tell
            log = self._settings.data / "logs" / "server.log"
            fault = InternalError("A fault inside Fieldforge.", f"Report it with the log {log}.")
            await _answer(fault)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["type"] != "http":
            raise NotFound("There is nothing at this address.", "Check the URL.")
        headers = dict(scope["headers"])
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if self._settings.hosts and host not in self._settings.hosts:
            raise NotAuthorized(
                f"The request is for the host {host!r}, which is not this backend.",
                "Use the address that the backend printed at its start.",
            )
        if scope["path"] == "/v1/health":
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self._settings.token.encode())
        if scheme.lower() != b"bearer" or not right:
            raise NotAuthorized(
                "The token is wrong." if given else "The token is missing.",
                "Copy the token of the backend into Preferences.",
            )


def _host_name(host: str) -> str:
    """ "localhost:80" -> "localhost", "[::1]:80" -> "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _answer(error: FieldforgeError, status: int | None = None) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotAuthorized) else {}
    # ASCII, because a cause may quote half a surrogate pair, which UTF-8 cannot carry.
    body = json.dumps({"error": error.to_dict()})
    return Response(body, status or error.status, headers, "application/json")


async def _tell(request: Request, error: FieldforgeError) -> Response:
    return _answer(error)


async def _tell_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        told: FieldforgeError = NotFound("There is nothing at this address.", "Check the URL.")
    elif error.status_code == 405:
        told = BadInput(f"{request.method} is not possible here.", "See /v1/openapi.json.")
    else:
        told = BadInput(str(error.detail), "See /v1/openapi.json.")
    answer = _answer(told, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _tell_invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = " ".join(str(part) for part in first["loc"])
    return _answer(BadInput(f"{place}: {first['msg']}.", "See /v1/openapi.json."))


# ------------------------------------------------------------------------------------- the routes

# The gate checks the token; this only tells the OpenAPI document that there is one.
_bearer = HTTPBearer(auto_error=False, description="The token that the backend printed.")
_routes = APIRouter(prefix="/v1")
_guarded: dict[str, Any] = {"dependencies": [Depends(_bearer)]}

JobId = Annotated[str, PathParameter(pattern="^[0-9a-f]{32}$", description="32 hex digits.")]


def _backend_of(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


BackendHere = Annotated[Backend, Depends(_backend_of)]


@_routes.get("/health", responses=_errors(401))
async def health(backend: BackendHere) -> HealthBody:
    """Whether the backend lives. The only call without a token."""
    found = backend.pool.device or {}
    return HealthBody(
        name="fieldforge",
        version=version(),
        protocol=protocol.PROTOCOL_VERSION,
        device=found.get("kind", backend.settings.device),
        device_name=found.get("words"),
        busy=backend.store.count(job_store.RUNNING) > 0,
    )


@_routes.get("/models", responses=_errors(401), **_guarded)
def models() -> list[ModelBody]:
    """What can be chosen in the panel."""
    return [ModelBody.model_validate(dataclasses.asdict(model)) for model in pipelines.models()]


@_routes.post(
    "/jobs",
    status_code=202,
    responses=_errors(401, 409, 413, 422, 429, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The bytes of protocol.encode_task.",
            "content": {protocol.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    **_guarded,
)
async def create_job(
    request: Request,
    response: Response,
    backend: BackendHere,
    x_fieldforge_protocol: Annotated[int | None, Header()] = None,
) -> JobBody:
    """Queue a task."""
    if x_fieldforge_protocol is not None:
        protocol.check_protocol(x_fieldforge_protocol)
    backend.store.check_room(backend.arriving)
    backend.arriving += 1
    upload = backend.store.folder / "incoming" / f"{secrets.token_hex(16)}.part"
    try:
        await _receive_body(request, upload, backend.settings)
        async with backend.checking:
            kind, name, model = await run_in_threadpool(_check_task, upload)
        job = await run_in_threadpool(backend.store.add, upload, kind, name, model)
    finally:
        backend.arriving -= 1
        with contextlib.suppress(OSError):
            upload.unlink(missing_ok=True)
    backend.pool.wake()
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _body(job)


@_routes.get("/jobs", responses=_errors(401), **_guarded)
async def list_jobs(backend: BackendHere) -> JobsBody:
    """All jobs, newest first."""
    return JobsBody(jobs=[_body(job) for job in backend.store.all()])


@_routes.get("/jobs/{job_id}", responses=_errors(401, 404, 422), **_guarded)
async def get_job(job_id: JobId, backend: BackendHere) -> JobBody:
    """One job as it stands."""
    return _body(backend.store.get(job_id))


_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["state", "progress"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobBody"},
        },
    },
}


@_routes.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events `state` and `progress`, each with the job as data."
            " The stream ends after a final state.",
            "content": {"text/event-stream": {"itemSchema": _EVENT}},
        },
        **_errors(401, 404, 422),
    },
    **_guarded,
)
async def job_events(job_id: JobId, backend: BackendHere) -> StreamingResponse:
    """Follow a job until it ends."""
    events = _events(backend, backend.store.get(job_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@_routes.post("/jobs/{job_id}/cancel", responses=_errors(401, 404, 422), **_guarded)
def cancel_job(job_id: JobId, backend: BackendHere) -> JobBody:
    """End a job. One that has ended already stays as it is."""
    job = backend.store.cancel(job_id)
    backend.pool.wake()
    return _body(job)


@_routes.delete("/jobs/{job_id}", status_code=204, responses=_errors(401, 404, 422), **_guarded)
def delete_job(job_id: JobId, backend: BackendHere) -> None:
    """Remove a job and its files; a running one is cancelled."""
    backend.store.delete(job_id)
    backend.pool.wake()


@_routes.get(
    "/jobs/{job_id}/preview",
    response_class=Response,
    responses={
        **_bytes_body("protocol.encode_result of a MeshSet"),
        **_errors(401, 404, 422),
    },
    **_guarded,
)
def get_preview(job_id: JobId, backend: BackendHere) -> Response:
    """What has formed so far of the result of a running job: small meshes, one per variation."""
    return Response(backend.store.newest_preview(job_id), media_type=protocol.CONTENT_TYPE)


@_routes.get(
    "/jobs/{job_id}/result",
    response_class=Response,
    responses={**_bytes_body("protocol.encode_result"), **_errors(401, 404, 409, 422, 507)},
    **_guarded,
)
def get_result(job_id: JobId, backend: BackendHere) -> Response:
    """The bytes of the result."""
    return _FileBody(backend.store.open_result(job_id))


@_routes.get(
    "/jobs/{job_id}/task",
    response_class=Response,
    responses={**_bytes_body("protocol.encode_task"), **_errors(401, 404, 422, 507)},
    **_guarded,
)
def get_task(job_id: JobId, backend: BackendHere) -> Response:
    """The bytes of the task, to run it again."""
    return _FileBody(backend.store.open_task(job_id))


def _body(job: Job) -> JobBody:
    return JobBody.model_validate(job.to_dict())


# ---------------------------------------------------------------------------- bodies and streams


async def _receive_body(request: Request, path: Path, settings: Settings) -> None:
    """Write the body to `path`. Raises TooLarge, before reading where the length is announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > settings.max_body_bytes:
        raise _too_large(settings.max_body_bytes)
    try:
        with path.open("xb") as file:
            await _copy_body(request, file, settings.max_body_bytes)
            await run_in_threadpool(job_store.sync, file)
    except OSError as error:
        raise job_store.storage_failed(error, settings.data) from error


async def _copy_body(request: Request, file: IO[bytes], limit: int) -> None:
    waiting, total = bytearray(), 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise _too_large(limit)
        waiting += chunk
        if len(waiting) >= _CHUNK_BYTES:
            await run_in_threadpool(file.write, waiting)
            waiting = bytearray()
    await run_in_threadpool(file.write, waiting)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The input is larger than the {limit / 2**20:,.0f} MB that this backend accepts.",
        "Select fewer points, for example after Merge by Distance.",
    )


def _check_task(path: Path) -> tuple[str, str, str]:
    """Kind, name and model of the task in `path`. Raises BadInput when it cannot be worked on."""
    try:
        task = protocol.decode_task(job_store.map_bytes(path))
    except FieldforgeError:
        raise
    except OSError as error:
        raise job_store.storage_failed(error, path.parent.parent) from error
    except MemoryError:
        raise OutOfMemory(
            "There is not enough memory to read the input.",
            "Select fewer points, or close other programs.",
        ) from None
    except Exception as error:
        _log.warning("a task could not be checked", exc_info=error)
        raise BadInput(
            "The input cannot be read.", "Check how the file was made, or send it again."
        ) from None
    model = pipelines.model_for(task)
    return task.kind, job_store.clean_text(task.name), model.id


async def _events(backend: Backend, job: Job) -> AsyncIterator[str]:
    """The job now and after each change; several changes at once give one event."""
    with backend.listeners.listen(job.id) as changed:
        told: Job | None = None
        while True:
            changed.clear()
            job = backend.store.find(job.id) or _deleted(job)
            if told is None or job != told:
                is_state = told is None or job.state != told.state
                yield f"event: {'state' if is_state else 'progress'}\ndata: {_line(job)}\n\n"
                told = job
            if job.final or backend.listeners.closed:
                return
            try:
                await asyncio.wait_for(changed.wait(), backend.settings.keep_alive_seconds)
            except TimeoutError:
                yield ": still here\n\n"


def _line(job: Job) -> str:
    return json.dumps(_body(job).model_dump(mode="json"))


def _deleted(job: Job) -> Job:
    if job.final:
        return job
    gone = Cancelled("The job was deleted.", "Generate anew if you want it.")
    return dataclasses.replace(
        job, state=job_store.CANCELLED, finished=time.time(), error=gone.to_dict()
    )


class _FileBody(Response):
    """A file as the answer. It is open already, so deleting the job meanwhile does no harm."""

    media_type = protocol.CONTENT_TYPE

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        super().__init__(headers={"Content-Length": str(self._size)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file as file:
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            left = self._size
            while left > 0:
                chunk = await run_in_threadpool(file.read, min(left, _CHUNK_BYTES))
                if not chunk:
                    raise OSError("the file became shorter while it was sent")
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
            if not self._size:
                await send({"type": "http.response.body", "body": b""})


# ---------------------------------------------------------------------------------------- serving


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, ends its streams, and returns after a signal."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.backend.listeners.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)

    def end_soon(self) -> None:
        """May be called from any thread."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again afterwards, which would end the process before its time.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            handled.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class _Address:
    listener: socket.socket
    url: str
    hosts: frozenset[str] = field(default_factory=frozenset)


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    data: Path | str = "data",
    workers: int = 1,
    device: str = "auto",
    parent_pid: int | None = None,
    exit_with_stdin: bool = False,
    *,
    entry: str = DEFAULT_ENTRY,
    warm: bool = True,
    **limits: Any,
) -> int:
    """Serve until a signal, the end of stdin or the end of `parent_pid`; returns the exit code.

    Prints one line of JSON once calls are answered: url, version, protocol, pid, and the token
    when none was given (nor in the environment as FIELDFORGE_TOKEN). `limits` are those of
    Settings. Raises BadInput or StorageFailed when it cannot start.
    """
    token = token or os.environ.get("FIELDFORGE_TOKEN") or None
    if token is None and not is_loopback(host):
        raise BadInput(
            "Without a token, anyone who reaches this computer could use its backend.",
            "Give a token (--token or FIELDFORGE_TOKEN), or serve on 127.0.0.1.",
        )
    address = _bind(host, port)
    with address.listener:
        settings = Settings(
            data=Path(data).expanduser().absolute(),
            # No other alphabet: what begins with a hyphen is an option on a command line.
            token=token or secrets.token_hex(32),
            hosts=address.hosts,
            workers=workers,
            device=device,
            entry=entry,
            warm=warm,
            **limits,
        )
        app = create_app(settings)
        ready = {
            "url": address.url,
            "version": version(),
            "protocol": protocol.PROTOCOL_VERSION,
            "pid": os.getpid(),
            **({} if token else {"token": settings.token}),
        }
        try:
            with _logged_to(settings.data / "logs" / "server.log"):
                server = _make_server(app, lambda: _say(ready))
                parent.watch(server.end_soon, parent_pid, exit_with_stdin)
                server.run(sockets=[address.listener])
        finally:
            app.state.backend.close()
    return 0


def _make_server(app: FastAPI, on_ready: Callable[[], None]) -> Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    return Server(config, on_ready)


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int) -> _Address:
    """A socket that listens. Raises BadInput."""
    if not 0 <= port <= 65535:
        raise BadInput(f"The port {port} does not exist.", "Use 1 to 65535, or 0 for any.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: 40 ms less for every call.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        listener.close()
        raise BadInput(
            f"The backend cannot listen on {host} port {port}: {_words(error)}.",
            "Choose another port (0 takes a free one) and an address of this computer.",
        ) from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    hosts = frozenset({"127.0.0.1", "::1", "localhost", host.lower()})
    return _Address(listener, url, hosts if is_loopback(host) else frozenset())


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _say(ready: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads; then nobody needs the line
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Send warnings of ours and of uvicorn to `path` (1 MB, and 1 MB before that)."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=1 << 20, backupCount=1, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("fieldforge", "uvicorn", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()
