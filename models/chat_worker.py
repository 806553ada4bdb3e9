"""Renders chat templates in a process of its own within limits of the kernel: a template is a stranger's program.

Run as a script: a line of JSON on standard input is a request, a line of JSON on standard output its answer, until the
input ends. Nothing of this project is imported.
"""

from __future__ import annotations

import datetime
import functools
import json
import signal
import sys
from typing import Any

import jinja2
from jinja2 import ext, nodes, parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_CHARACTERS = 1 << 24  # that a rendering may have beyond what it was given


class _Generation(ext.Extension):
    """The tags {% generation %} and {% endgeneration %}, which only training looks at: what is between them."""

    tags = {"generation"}

    def parse(self, parser: parser.Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


def _answer(line: bytes) -> dict[str, str]:
    try:
        request = json.loads(line)
        today = datetime.datetime.fromisoformat(request["date"])
        values = {"strftime_now": today.strftime, **request["values"]}
        text = _compiled(request["template"]).render(**values)
    except MemoryError:
        return {"memory": ""}
    except Exception as error:  # jinja2, Python and the template itself raise what they like
        return {"error": (str(error) or type(error).__name__)[:2000]}
    if len(text) > len(line) + _MOST_CHARACTERS:
        return {"error": f"it makes a text of {len(text)} characters of them"}
    return {"text": text}


def _serve(memory_bytes: int, seconds: int) -> None:
    """Answers requests.

    Args:
      memory_bytes: address space of this process at most.
      seconds: of wall clock for a request, after which this process ends itself; whoever asked may end it before.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (ImportError, ValueError, OSError):
        pass  # a system without it keeps the limit of time alone
    for line in sys.stdin.buffer:
        if hasattr(signal, "alarm"):
            signal.alarm(seconds)
        try:
            answer = json.dumps(_answer(line))
        except MemoryError:
            answer = json.dumps({"memory": ""})
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
