"""What a client asks for: the JSON of OpenAI's chat and text completions, checked field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.fields import shown
from rapid_jax.config.methods import METHODS
from rapid_jax.serving.errors import ApiError

Message = dict[str, str]

_OURS: tuple[str, ...] = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
)
_OURS += ("stop", "document", "method", "eta", "gamma", "trace")
# Fields that change nothing here, whatever they say.
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# Fields that are taken with the value that changes nothing.
_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SAMPLING = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "eta": "eta", "gamma": "gamma"}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request for an answer.

    Attributes:
      messages: role and content of each turn; empty for a text completion.
      prompt: of a text completion; "" for a conversation.
      document: id of an uploaded document, or "".
      method: a name in METHODS.
      overrides: fields of SpeculationConfig and SamplingConfig that the request sets.
      stream: whether the answer comes piece by piece.
      include_usage: whether a stream ends with the counts of tokens.
      trace: whether the answer tells who wrote each token.
    """

    messages: tuple[Message, ...]
    prompt: str
    document: str
    method: str
    overrides: Mapping[str, Any]
    stream: bool
    include_usage: bool
    trace: bool

    @property
    def chat(self) -> bool:
        """Whether it is a conversation."""
        return bool(self.messages)


def asked_chat(body: Any, *, model: str, method: str) -> Asked:
    """The request in the body of /v1/chat/completions.

    Args:
      body: JSON.
      model: the name of the one that is served.
      method: that answers where the body names none.

    Raises:
      ApiError: a field that is missing, wrong, unknown, or of something that this server does not do.
    """
    fields = _fields(body, model, "messages")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, f"messages must be a list of at least one message, got {shown(messages)}", param="messages")
    turns = tuple(_message(index, message) for index, message in enumerate(messages))
    if turns[-1]["role"] != "user":
        raise ApiError(400, "the last message must be one of the user", param="messages")
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise ApiError(400, "a system message must be the first one", param="messages")
    return _asked(fields, method, messages=turns, prompt="")


def asked_completion(body: Any, *, model: str, method: str) -> Asked:
    """The request in the body of /v1/completions; as `asked_chat`."""
    fields = _fields(body, model, "prompt")
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise ApiError(400, f"prompt must be one text that is not empty, got {shown(prompt)}", param="prompt")
    return _asked(fields, method, messages=(), prompt=prompt)


def _fields(body: Any, model: str, content: str) -> dict[str, Any]:
    """The fields that are given; null is as good as not given."""
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be a JSON object, got {shown(body)}")
    fields = {name: value for name, value in body.items() if value is not None}
    known = {content, *_OURS, *_IGNORED, *_ONLY}
    for name, value in fields.items():
        if name not in known:
            raise ApiError(400, f"unknown field {shown(name)}; known: {', '.join(sorted(known))}", param=name)
        if name in _ONLY and not any(value == one and type(value) is type(one) for one in _only(name)):
            right = " or ".join(map(shown, _ONLY[name]))
            raise ApiError(400, f"{name} must be {right} here, got {shown(value)}: leave it out", param=name)
    if fields.get("model", model) not in (model, ""):
        message = f"there is no model {shown(fields['model'])} here; this server has {model}"
        raise ApiError(404, message, code="model_not_found", param="model")
    return fields


def _only(name: str) -> tuple[Any, ...]:
    return (*_ONLY[name], *(float(one) for one in _ONLY[name] if type(one) is int))


def _asked(fields: Mapping[str, Any], method: str, *, messages: tuple[Message, ...], prompt: str) -> Asked:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise ApiError(400, "stream_options must be an object with include_usage", param="stream_options")
    flags = {name: fields.get(name, False) for name in ("stream", "trace")}
    flags["include_usage"] = options.get("include_usage", False)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ApiError(400, f"{name} must be true or false, got {shown(value)}", param=name)
    method = fields.get("method", method)
    if not isinstance(method, str) or method not in METHODS:
        raise ApiError(400, f"unknown method {shown(method)}; known: {', '.join(METHODS)}", param="method")
    document = fields.get("document", "")
    if not isinstance(document, str):
        message = f"document must be the id of an uploaded document, got {shown(document)}"
        raise ApiError(400, message, param="document")
    return Asked(messages, prompt, document, method, _overrides(fields), **flags)


def _overrides(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of drafting and sampling; EngineConfig.overridden checks their values."""
    overrides = {ours: fields[name] for name, ours in _SAMPLING.items() if name in fields}
    limits = {fields[name] for name in ("max_tokens", "max_completion_tokens") if _hashable(fields.get(name))}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
    for name in ("max_tokens", "max_completion_tokens"):
        if name in fields:
            overrides["max_new_tokens"] = fields[name]
    stop = fields.get("stop", ())
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, list | tuple):
        raise ApiError(400, f"stop must be a text or a list of texts, got {shown(stop)}", param="stop")
    return {**overrides, "stop": tuple(stop)} if stop else overrides


def _hashable(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _message(index: int, message: Any) -> Message:
    """A message with its text in one piece."""
    place = f"messages[{index}]"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise ApiError(400, f"{place} must have a role, one of {', '.join(_ROLES)}, and a content", param="messages")
    content, role = message.get("content"), _ROLES[message["role"]]
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ApiError(
                400, f"{place}: the parts of a content must be texts; nothing else is read", param="messages"
            )
        content = "".join(map(str, parts))
    if not isinstance(content, str) or not (content or role == "assistant"):
        raise ApiError(400, f"{place} must have a content, a text or a list of texts", param="messages")
    if message.get("tool_calls") or message.get("function_call"):
        raise ApiError(400, f"{place}: there are no tools here", param="messages")
    return {"role": role, "content": content}
