"""What every request passes: where it comes from, its key, its size, and the count of it."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.metrics import Metrics

_OPEN = ("/", "/health")  # need no key
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/documents", "/metrics")


class Door:
    """Middleware around the app.

    Args:
      app: what is behind it.
      max_bytes: of a request's body.
      api_key: that requests must bring; "" asks for none.
      metrics: count them.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, api_key: str, metrics: Metrics):
        self._app, self._max_bytes, self._metrics = app, max_bytes, metrics
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path, read, status = Headers(scope=scope), scope["path"], 0, 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._max_bytes:
                    raise self._too_large()
            return message

        try:
            error = self._refusal(path, headers)
            if error is not None:
                await JSONResponse(error.body(), error.status)(scope, receive, counted)
            else:
                await self._app(scope, limited, counted)
        finally:
            self._metrics.requested(_counted_as(path), status)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Why a request may not pass; None where it may."""
        if path not in _OPEN and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return ApiError(403, "a page of another site may not ask this server", code="cross_site")
        kind, _, key = headers.get("authorization", "").partition(" ")
        if self._api_key and path not in _OPEN:
            given = key.strip().encode("utf-8", "replace") if kind.lower() == "bearer" else b""
            if not hmac.compare_digest(given, self._api_key):
                message = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
                return ApiError(401, message, code="invalid_api_key")
        length = headers.get("content-length", "0")
        return self._too_large() if length.isdecimal() and int(length) > self._max_bytes else None

    def _too_large(self) -> ApiError:
        message = f"the request is larger than {self._max_bytes:,} bytes: send less, or let the server take more"
        return ApiError(413, message, code="request_too_large")


def _counted_as(path: str) -> str:
    """The path as the metrics name it: few names, whatever strangers ask for."""
    return path if path in _OPEN else next((known for known in _PATHS if path.startswith(known)), "other")
