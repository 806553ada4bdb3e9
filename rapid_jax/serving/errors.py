"""Errors as HTTP answers in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from absl import logging

from models.memory import TooLittleMemory
from rapid_jax.decoding.state import NotFinite
from rapid_jax.evaluation.writing import encoded

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
_TYPES |= {504: "timeout_error"}


class ApiError(Exception):
    """What a client is told.

    Attributes:
      status: of HTTP.
      message: one line that says what is wrong and what would be right.
      code: for programs, such as "queue_full"; None where the status says it all.
      param: the field of the request that is wrong, or None.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """The JSON object that OpenAI's clients read."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        param = None if self.param is None else encoded(self.param).decode()  # what a client wrote may be no Unicode
        return {"error": {"message": encoded(self.message).decode(), "type": kind, "param": param, "code": self.code}}


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error inside of the engine: its own mistakes word for word, ours without details."""
    if isinstance(error, ApiError):
        return error
    line = " ".join(str(error).split())
    if isinstance(error, NotFinite):
        return ApiError(500, line, code="not_finite")
    if isinstance(error, TooLittleMemory) or "RESOURCE_EXHAUSTED" in line:
        return ApiError(503, f"too little memory: {line[:300]}", code="out_of_memory")
    if isinstance(error, ValueError | FileNotFoundError):
        return ApiError(400, line)
    logging.exception("a request failed inside of the server")
    return ApiError(500, "the server failed inside; its log says where", code="internal_error")
