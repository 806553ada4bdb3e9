"""Who asks: a running server with its address, and a client of a worker without HTTP."""

import contextlib
import dataclasses
import queue
import threading
import time

import httpx
import openai

from rapid_jax.serving.asked import asked_chat, asked_completion
from rapid_jax.serving.jobs import Job, Piece
from rapid_jax.serving.server import Server, address, listen
from rapid_jax.serving.settings import ServerSettings
from rapid_jax.serving.worker import Worker

SETTINGS = ServerSettings(method="lc", seats=3, document_tokens=300, deadline_seconds=120)
MODEL = "tiny"


@dataclasses.dataclass(frozen=True)
class Live:
    """A running server.

    Attributes:
      url: of it.
      worker: behind it.
      server: to end it.
    """

    url: str
    worker: Worker
    server: Server

    def client(self, key="none"):
        """OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    @property
    def model(self):
        """Name of the model."""
        return httpx.get(f"{self.url}/health").json()["model"]

    def post(self, path, body, **more):
        """A request in JSON."""
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def upload(self, text, name="report"):
        """The id of a document."""
        answer = self.post("/v1/documents", dict(text=text, name=name))
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def until_idle(self):
        """Waits until nobody decodes or waits."""
        wait_until(lambda: not self.worker.decoding and not self.worker.waiting)


def wait_until(condition, seconds=60):
    """Fails where a condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(engine, store=None, **settings):
    """A server in a thread."""
    worker = Worker(engine, dataclasses.replace(SETTINGS, **settings), store)
    ready = threading.Event()
    with listen("127.0.0.1", 0) as listening:
        server = Server(worker, ready.set)
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[listening]))
        thread.start()
        try:
            assert ready.wait(60)
            yield Live(address(listening), worker, server)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


class Client:
    """Somebody who waits for a job of a worker."""

    def __init__(self, worker, body, *, chat=True, seconds=120.0):
        self.events = queue.Queue()
        asked = (asked_chat if chat else asked_completion)(body, model=MODEL, method=worker.settings.method)
        self.job = Job(self.events.put, asked, time.monotonic() + seconds)
        self.text = ""
        self.worker = worker
        worker.submit(self.job)

    def first(self):
        """Waits for the first piece."""
        event = self.events.get(timeout=120)
        assert isinstance(event, Piece), event
        self.text += event.text
        return self

    def end(self):
        """The last event."""
        while True:
            event = self.events.get(timeout=120)
            if not isinstance(event, Piece):
                return event
            self.text += event.text


def question(text, document="", **more):
    """The body of a chat completion."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}
    return body | ({"document": document} if document else {})


def call(worker, function):
    """What a function gives that a worker calls."""
    events = queue.Queue()
    worker.submit(Job(events.put, function))
    event = events.get(timeout=120)
    return event.value
