"""Chat templates, rendered by another process within limits of time and memory."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS = 10  # wall clock that a rendering may take
MEMORY = 1 << 30  # bytes that the rendering process may map, Python itself included
_STARTING_SECONDS = 60
_RESERVED = ("messages", "add_generation_prompt")


def check_arguments(template: str | None, arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that a chat template does not use.

    Args:
      template: its source; None where the tokenizer has none.
      arguments: by name.

    Raises:
      ValueError: an argument that the template does not name, or one that is not for a user to set.
    """
    for name in arguments:
        if name in _RESERVED:
            raise ValueError(f"the chat template argument {name!r} is set by the conversation itself; leave it out")
        if template is None:
            raise ValueError(f"the chat template argument {name!r} is given, and the tokenizer has no chat template")
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(f"the chat template has no argument {name!r}; its source shows those that it has")


def render(template: str, values: Mapping[str, Any], date: str | None = None) -> str:
    """The text that a Jinja chat template makes of values.

    Args:
      template: its source.
      values: variables, of JSON types.
      date: ISO day that `strftime_now` gives, at midnight; None is today.

    Raises:
      ValueError: the template is not right, raises an error, or goes beyond its limits of time and memory; one line.
    """
    day = date or datetime.date.today().isoformat()
    try:
        request = json.dumps({"template": template, "values": values, "date": day})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what the chat template is given must be JSON: {error}") from None
    answer = _WORKER.ask(request.encode())
    if "memory" in answer:
        _WORKER.stop()  # what it has mapped goes with it
        raise ValueError(f"the chat template needs more than {MEMORY >> 20} MiB of memory; use another template")
    if "error" in answer:
        cause = " ".join(answer["error"].split())[:300]
        raise ValueError(f"the chat template refused the messages: {cause}")
    return answer["text"]


class _Worker:
    """The rendering process: started at the first request, ended with this process or when it exceeds a limit."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a fork of this process must not talk to the same one
        self._lock = threading.Lock()

    def ask(self, request: bytes) -> dict[str, str]:
        """The answer to a request, a line of JSON.

        Raises:
          ValueError: there is none within the limits.
        """
        with self._lock:
            try:
                fresh = self._start()
                return json.loads(self._exchange(request, SECONDS + (_STARTING_SECONDS if fresh else 0)))
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Ends the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            process.wait()

    def _start(self) -> bool:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return False
        self.stop()
        self._owner = os.getpid()
        script = Path(__file__).with_name("chat_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(MEMORY), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt at the terminal is for this process
        )
        return True

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        answer, deadline = bytearray(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            with contextlib.suppress(BrokenPipeError):  # the process ended; what it left says why
                process.stdin.write(request + b"\n")
                process.stdin.flush()
            while not answer.endswith(b"\n"):
                ready = selector.select(max(deadline - time.monotonic(), 0))
                part = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
                if not part:
                    self._fail(timed_out=not ready or process.wait() == -14)
                answer += part
        return bytes(answer)

    def _fail(self, timed_out: bool) -> None:
        if timed_out:
            raise ValueError(f"the chat template did not come to an end within {SECONDS} seconds; use another template")
        raise ValueError("the process that renders the chat template broke off; is jinja2 installed for this Python?")


_WORKER = _Worker()
atexit.register(_WORKER.stop)
