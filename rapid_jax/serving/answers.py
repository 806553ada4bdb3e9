"""Answers as OpenAI's clients read them: objects, chunks of a stream, counts of tokens."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from typing import Any

from rapid_jax.serving.asked import Asked
from rapid_jax.serving.errors import ApiError
from rapid_jax.serving.jobs import Answered

_FINISH = {"stop_string": "stop", "stopped": "stop"}
LAST_CHUNK = "data: [DONE]\n\n"


@dataclasses.dataclass(frozen=True)
class Form:
    """How one answer is written down.

    Attributes:
      asked: the request.
      model: name of the model that is served.
      id: of the answer.
      created: seconds since 1970.
    """

    asked: Asked
    model: str
    id: str
    created: int

    @classmethod
    def of(cls, asked: Asked, model: str) -> Form:
        """With an id of its own."""
        kind = "chatcmpl" if asked.chat else "cmpl"
        return cls(asked, model, f"{kind}-{uuid.uuid4().hex}", int(time.time()))

    def whole(self, text: str, event: Answered) -> dict[str, Any]:
        """The answer in one object."""
        part = {"message": {"role": "assistant", "content": text}} if self.asked.chat else {"text": text}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": _finish_reason(event)}
        kind = "chat.completion" if self.asked.chat else "text_completion"
        return {**self._object(kind, [choice]), "usage": usage(event), "rapid_jax": self.about(event)}

    def piece(self, text: str, *, first: bool) -> str:
        """A chunk of a stream."""
        part: dict[str, Any] = {"delta": {"content": text}} if self.asked.chat else {"text": text}
        if self.asked.chat and first:
            part["delta"]["role"] = "assistant"
        return self._chunk([{"index": 0, **part, "logprobs": None, "finish_reason": None}])

    def end(self, event: Answered) -> str:
        """The last chunks of a stream."""
        part: dict[str, Any] = {"delta": {}} if self.asked.chat else {"text": ""}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": _finish_reason(event)}
        chunks = self._chunk([choice], rapid_jax=self.about(event))
        if self.asked.include_usage:
            chunks += self._chunk([], usage=usage(event))
        return chunks + LAST_CHUNK

    def about(self, event: Answered) -> dict[str, Any]:
        """What OpenAI's objects have no place for."""
        answer = event.answer
        told = {
            "method": answer.method,
            "document": event.document or None,
            "truncated_tokens": answer.truncated_tokens,
            "acceptance": answer.acceptance.to_dict(),
            "seconds": answer.seconds.to_dict(),
        }
        return told | ({"trace": answer.trace.to_dict()} if self.asked.trace else {})

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        kind = "chat.completion.chunk" if self.asked.chat else "text_completion"
        counts = {"usage": None} if self.asked.include_usage else {}
        return _event({**self._object(kind, choices), **counts, **more})


def failed_chunk(error: ApiError) -> str:
    """The end of a stream that has begun and cannot go on."""
    return _event(error.body())


def usage(event: Answered) -> dict[str, Any]:
    """Counts of tokens."""
    prompt, generated = event.answer.target_tokens, len(event.answer.token_ids)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
    }


def _finish_reason(event: Answered) -> str:
    reason = event.answer.finish_reason
    return _FINISH.get(reason, reason)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
