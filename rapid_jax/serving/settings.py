"""Settings of the server, checked once."""

from __future__ import annotations

import dataclasses

from models.fields import shown
from rapid_jax.config.checks import check_number, is_integer, require
from rapid_jax.config.methods import METHODS

_WHOLE = {
    "seats": "rows of a document", "groups": "batches", "queue": "requests", "document_tokens": "tokens",
    "memory_bytes": "bytes", "max_request_bytes": "bytes", "max_documents": "documents",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How requests are taken in and answered.

    Attributes:
      method: that answers where a request names none.
      seats: requests about one document that are decoded together.
      groups: batches that take turns, burst by burst: documents, methods or settings that differ.
      queue: requests that may wait for a seat; more are refused with 429.
      deadline_seconds: from a request's arrival to the end of its answer; 504 behind it.
      patience_seconds: how much later than a request that waits for a group of its own others may still join theirs.
      gather_seconds: that a request whose rows cannot join later waits for others to start with.
      grace_seconds: that answers under way get when the server is told to stop.
      document_tokens: a first message of at least so many tokens is taken for a document.
      memory_bytes: of the documents' keys and values in memory; what was used longest ago goes.
      max_documents: that may be uploaded.
      max_request_bytes: of a request's body; more is refused with 413.
      api_key: that requests must bring; "" asks for none.
    """

    method: str = "auto"
    seats: int = 4
    groups: int = 2
    queue: int = 64
    deadline_seconds: float = 600.0
    patience_seconds: float = 10.0
    gather_seconds: float = 0.01
    grace_seconds: float = 30.0
    document_tokens: int = 1024
    memory_bytes: int = 4 * 10**9
    max_documents: int = 1000
    max_request_bytes: int = 64 * 10**6
    api_key: str = dataclasses.field(default="", repr=False)

    def __post_init__(self) -> None:
        known = ", ".join(METHODS)
        require(self.method in METHODS, f"method must be one of {known}, got {shown(self.method)}")
        for name, unit in _WHOLE.items():
            value = getattr(self, name)
            require(
                is_integer(value) and value >= 1, f"{name} must be a whole number of at least 1 {unit}, got {value!r}"
            )
        for name in ("deadline_seconds", "patience_seconds", "gather_seconds", "grace_seconds"):
            check_number(name, getattr(self, name), 0, 10**6, "seconds of at least 0")
        require(isinstance(self.api_key, str) and self.api_key.isascii(), "api_key must be a text of ASCII characters")
