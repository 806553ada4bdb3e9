"""Load on a running server: several requests at a time against one after another."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

_SECONDS = 3600.0  # until a server that says nothing is given up


@dataclasses.dataclass(frozen=True)
class Timed:
    """An answer on the clock of whoever waits for it.

    Attributes:
      first_token: seconds from the request to the first text.
      seconds: from the request to the end.
      tokens: of the answer.
      text: of the answer.
    """

    first_token: float
    seconds: float
    tokens: int
    text: str


@dataclasses.dataclass(frozen=True)
class Load:
    """A round of requests.

    Attributes:
      at_a_time: requests under way together.
      seconds: from the first request to the end of the last answer.
      answers: in the order of the requests.
    """

    at_a_time: int
    seconds: float
    answers: Sequence[Timed]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all answers over the time of the round."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    def first_token(self, percent: float) -> float:
        """A percentile of the seconds to the first text."""
        return float(np.percentile([answer.first_token for answer in self.answers], percent))

    def whole(self, percent: float) -> float:
        """A percentile of the seconds of whole answers."""
        return float(np.percentile([answer.seconds for answer in self.answers], percent))


class Caller:
    """A client of a server.

    Args:
      url: of the server, without a path.
      api_key: that it asks for, or "".
      fields: of each request's body, beside its messages: document, method, max_tokens.

    Raises:
      ValueError: the server is not there, or refuses; one line.
    """

    def __init__(self, url: str, api_key: str = "", **fields: Any):
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_SECONDS)
        models = self._sent("GET", "/v1/models").json()
        self.model = models["data"][0]["id"]
        self._fields = {"model": self.model, **fields}

    def upload(self, text: str, name: str) -> dict[str, Any]:
        """The document that all later requests are about, as the server describes it."""
        made = self._sent("POST", "/v1/documents", json={"text": text, "name": name}).json()
        self._fields["document"] = made["id"]
        return made

    def ask(self, question: str) -> Timed:
        """Asks and waits for the end of the answer."""
        messages = [{"role": "user", "content": question}]
        body = {**self._fields, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        begun, first, tokens, text = time.perf_counter(), None, 0, ""
        with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                raise ValueError(_refusal(answer))
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise ValueError(f"the server broke off: {chunk['error']['message']}")
                piece = "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
                if piece and first is None:
                    first = time.perf_counter() - begun
                text += piece
                if chunk.get("usage"):
                    tokens = chunk["usage"]["completion_tokens"]
        seconds = time.perf_counter() - begun
        return Timed(seconds if first is None else first, seconds, tokens, text)

    def round(self, questions: Sequence[str], at_a_time: int) -> Load:
        """Asks all questions, so many at a time."""
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
            answers = list(pool.map(self.ask, questions))
        return Load(at_a_time, time.perf_counter() - begun, answers)

    def _sent(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            url = self._client.base_url
            raise ValueError(f"no server answers at {url} ({error}): start launch.serve, or give its URL") from None
        if answer.status_code >= 400:
            raise ValueError(_refusal(answer))
        return answer


def measure(caller: Caller, questions: Sequence[str], requests: int, at_a_time: int) -> tuple[Load, Load]:
    """One after another, and several at a time; the same questions in both, behind a round that does not count.

    Args:
      caller: with a document.
      questions: asked in turn.
      requests: of each round.
      at_a_time: of the second round.
    """
    asked = list(itertools.islice(itertools.cycle(questions), requests))
    caller.round(asked[:at_a_time], at_a_time)  # compiles, and teaches methods that copy from earlier answers
    caller.round(asked[:1], 1)
    return caller.round(asked, 1), caller.round(asked, at_a_time)


def _refusal(answer: httpx.Response) -> str:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = "no reason given"
    return f"the server refuses with status {answer.status_code}: {message}"
