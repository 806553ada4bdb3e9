"""The HTTP interface: OpenAI's completions, documents, health, metrics, and a page to try them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from models.fields import shown
from rapid_jax import __version__
from rapid_jax.files.reading import read_bytes
from rapid_jax.serving.answers import Form, failed_chunk
from rapid_jax.serving.asked import Asked, asked_chat, asked_completion
from rapid_jax.serving.door import Door
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.jobs import Answered, Event, Failed, Job, Piece, Returned
from rapid_jax.serving.library import Held
from rapid_jax.serving.metrics import Metrics
from rapid_jax.serving.worker import Worker

_POLL_SECONDS = 0.25  # between two looks whether the client is still there


def make_app(worker: Worker) -> Starlette:
    """The app around a worker, which it starts and stops."""
    metrics = Metrics(worker)
    server = _Server(worker, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(worker.stop)

    settings = worker.settings
    door = Middleware(Door, max_bytes=settings.max_request_bytes, api_key=settings.api_key, metrics=metrics)
    return Starlette(
        routes=[
            Route("/", server.page),
            Route("/health", server.health),
            Route("/metrics", server.metrics),
            Route("/v1/models", server.models),
            Route("/v1/models/{id:path}", server.model),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/documents", server.documents, methods=["GET"]),
            Route("/v1/documents", server.upload, methods=["POST"]),
            Route("/v1/documents/{id}", server.document, methods=["GET"]),
            Route("/v1/documents/{id}", server.delete, methods=["DELETE"]),
        ],
        middleware=[door],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _gone},
        lifespan=lifespan,
    )


class _Server:
    """The endpoints."""

    def __init__(self, worker: Worker, metrics: Metrics):
        self._worker, self._metrics = worker, metrics
        self._name = Path(worker.engine.target.path).name
        self._created = int(time.time())
        self._page = importlib.resources.files("rapid_jax.serving").joinpath("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page)

    async def health(self, request: Request) -> Response:
        stopping = self._worker.draining
        told = {"status": "stopping" if stopping else "ok", "version": __version__, "model": self._name}
        return JSONResponse(told, 503 if stopping else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["id"] != self._name:
            message = f"there is no model {shown(request.path_params['id'])} here; this server has {self._name}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, asked_chat)

    async def completions(self, request: Request) -> Response:
        return await self._complete(request, asked_completion)

    async def documents(self, request: Request) -> Response:
        listed = [held.to_dict() for held in self._worker.library.listed()]
        return JSONResponse({"object": "list", "data": listed})

    async def document(self, request: Request) -> Response:
        return JSONResponse(self._worker.library.get(request.path_params["id"]).to_dict())

    async def upload(self, request: Request) -> Response:
        text, name = await _uploaded(request)
        library = self._worker.library

        def read() -> Held:
            held = library.upload(text, name)
            library.read(held)
            return held

        held = await self._called(request, read)
        return JSONResponse(held.to_dict(), 201)

    async def delete(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        await self._called(request, lambda: self._worker.library.remove(id_))
        return JSONResponse({"id": id_, "object": "document", "deleted": True})

    def _model(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._created, "owned_by": "rapid_jax"}

    async def _complete(self, request: Request, parse: Callable[..., Asked]) -> Response:
        settings = self._worker.settings
        asked = parse(await _json(request), model=self._name, method=settings.method)
        try:
            self._worker.engine.config.overridden(asked.overrides)  # what is wrong with a value is said at once
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        job, events = self._submitted(request, asked, settings.deadline_seconds)
        form = Form.of(asked, self._name)
        first = await anext(events)
        if isinstance(first, Failed):
            raise first.error
        if asked.stream:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            chunks = self._chunks(form, job, first, events)
            return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
        text = ""
        event: Event = first
        while isinstance(event, Piece):
            text += event.text
            event = await anext(events)
        if isinstance(event, Failed):
            raise event.error
        assert isinstance(event, Answered)
        self._metrics.answered(job, event)
        return JSONResponse(form.whole(text, event))

    async def _chunks(
        self, form: Form, job: Job, first: Event, events: AsyncGenerator[Event, None]
    ) -> AsyncIterator[str]:
        """The chunks of a stream."""
        event, begun = first, False
        try:
            while isinstance(event, Piece):
                if event.text or not begun:
                    yield form.piece(event.text, first=not begun)
                    begun = True
                event = await anext(events)
            if isinstance(event, Failed):
                yield failed_chunk(event.error)
            elif isinstance(event, Answered):
                self._metrics.answered(job, event)
                yield form.end(event)
        except ClientDisconnect:
            return
        finally:
            self._worker.cancel(job)

    async def _called(self, request: Request, function: Callable[[], Any]) -> Any:
        """What a function gives that the worker calls."""
        _, events = self._submitted(request, function, float("inf"))
        event = await anext(events)
        if isinstance(event, Failed):
            raise event.error
        assert isinstance(event, Returned)
        return event.value

    def _submitted(
        self, request: Request, work: Asked | Callable[[], Any], seconds: float
    ) -> tuple[Job, AsyncGenerator[Event, None]]:
        """A job in the queue, and its events; a client that goes away takes it along.

        Raises:
          ApiError: the queue is full, or the server ends.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the worker
                loop.call_soon_threadsafe(queue.put_nowait, event)

        job = Job(emit, work, time.monotonic() + seconds)

        async def events() -> AsyncGenerator[Event, None]:
            try:
                while True:
                    try:
                        yield await asyncio.wait_for(queue.get(), _POLL_SECONDS)
                    except TimeoutError:
                        if await request.is_disconnected():
                            raise ClientDisconnect from None
            finally:
                self._worker.cancel(job)

        self._worker.submit(job)
        return job, events()


async def _json(request: Request) -> Any:
    """The body of a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(400, "send the body as JSON, with Content-Type: application/json")
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({error})") from None


async def _uploaded(request: Request) -> tuple[str, str]:
    """Text and name of a document, out of JSON or of a form with a file."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1) as form:
            file, name, encoding = form.get("file"), form.get("name"), form.get("encoding", "")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "the form has no file: send one in the field file", param="file")
            given = file.filename or "document"
            data = await file.read()
        try:
            text, _ = await run_in_threadpool(read_bytes, data, given, str(encoding))
        except (ValueError, LookupError) as error:
            raise ApiError(400, str(error), param="file") from None
        return text, _name(name or given)
    body = await _json(request)
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise ApiError(400, "send a JSON object with a text, or a form with a file", param="text")
    unknown = sorted(set(body) - {"text", "name"})
    if unknown:
        raise ApiError(400, f"unknown field {shown(unknown[0])}; known: name, text", param=unknown[0])
    return body["text"], _name(body.get("name", "document"))


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable():
        raise ApiError(400, f"name must be a text of 1 to 200 characters, got {shown(name)}", param="name")
    return name


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body(), error.status, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message).body(), error.status_code, error.headers)
