"""Runs launch.generate inside this process, as `python -m launch.generate` would."""

import contextlib
import dataclasses
import io
import runpy
import sys
from unittest import mock

import pytest
from absl import flags


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a user sees: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def _forget_flags() -> None:
    """absl keeps flags for the whole process; a second run needs them undefined again."""
    registered = flags.FLAGS
    for name in list(registered):
        home = registered.find_module_defining_flag(name, "")
        if name.startswith("config.") or home.startswith("launch.") or home.endswith("generate.py"):
            delattr(registered, name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("launch", "config_config")]:
        del sys.modules[name]
    registered.unparse_flags()


@pytest.fixture(scope="session")
def generate():
    """A function: flags and bytes of standard input -> Outcome."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        _forget_flags()
        argv = ["generate", "--compilation_cache_dir=", *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            runpy.run_module("launch.generate", run_name="__main__", alter_sys=True)
        return Outcome(stopped.value.code or 0, out.getvalue(), err.getvalue())

    yield run
    _forget_flags()
