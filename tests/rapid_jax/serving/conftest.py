"""A live server on a free port, and a worker without one; both around the tiny engine."""

import contextlib
import dataclasses

import pytest

from rapid_jax.engine.engine import Engine
from rapid_jax.serving.worker import Worker
from tests.rapid_jax.serving.clients import SETTINGS, running


@pytest.fixture(scope="session")
def serving_engine(engine_config):
    """An engine that no other test uses, with bursts of one step: what happens between bursts happens often."""
    return Engine.load(config=dataclasses.replace(engine_config, burst_steps=1))


@pytest.fixture(scope="session")
def serve(serving_engine):
    """A function: settings -> a context with a Live server."""

    def make(**settings):
        return running(settings.pop("engine", serving_engine), **settings)

    return make


@pytest.fixture(scope="module")
def live(serve):
    """A server that the tests of a file share."""
    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def read(serving_engine, document_text):
    """The document outside of the server: what answers are compared with."""
    return serving_engine.read(document_text)


@pytest.fixture
def work(serving_engine):
    """A function: settings -> a running Worker."""
    with contextlib.ExitStack() as stack:

        def make(store=None, **settings):
            worker = Worker(serving_engine, dataclasses.replace(SETTINGS, **settings), store)
            worker.start()
            stack.callback(worker.stop)
            return worker

        yield make
