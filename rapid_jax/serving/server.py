"""The process: it listens, and ends in good order when it is told to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from absl import logging

from rapid_jax.serving.app import make_app
from rapid_jax.serving.worker import Worker

_CLOSING_SECONDS = 5  # that connections get behind the last answer


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; who connects before the server runs waits for it.

    Args:
      host: a name or an address; "127.0.0.1" is this machine alone, "0.0.0.0" all of its addresses.
      port: 0 takes a free one.

    Raises:
      OSError: the port is taken, or the host is not this machine; one line.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        code = getattr(error, "errno", None) or 0
        reason = os.strerror(code) if code > 0 else getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen at {host}, port {port}: {reason}; give another host or port") from None


def address(listening: socket.socket) -> str:
    """The URL of what listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """A server that refuses new requests and finishes those under way before it ends.

    The first SIGTERM or SIGINT begins that; it goes on listening meanwhile, so that clients are told. A second one ends
    it at once.

    Args:
      worker: answers.
      ready: called once requests are taken.
    """

    def __init__(self, worker: Worker, ready: Callable[[], None] = lambda: None):
        app = make_app(worker)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_CLOSING_SECONDS, lifespan="on"
        )
        super().__init__(config)
        self._worker, self._ready = worker, ready
        self._ending: threading.Thread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._ending is not None:
            self.should_exit = self.force_exit = True
            return
        self._ending = threading.Thread(target=self.end, name="rapid_jax ending", daemon=True)
        self._ending.start()

    def end(self) -> None:
        """Lets answers under way come to their end, then the server."""
        grace = self._worker.settings.grace_seconds
        if not self._worker.drain(grace):
            logging.warning("answers that were not done within %g s were ended", grace)
        self.should_exit = True
