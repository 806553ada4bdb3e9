"""Runs launchers inside this process, as `python -m launch.<name>` would."""

import contextlib
import dataclasses
import functools
import io
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
from absl import flags

from rapid_jax.decoding.programs import Programs


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
        if name.startswith("config.") or home.startswith("launch.") or Path(home).parent.name == "launch":
            delattr(registered, name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("launch", "config_config")]:
        del sys.modules[name]
    registered.unparse_flags()


@pytest.fixture(scope="session")
def forget_flags():
    """A function that undoes what importing and running a launcher did to the flags of this process."""
    yield _forget_flags
    _forget_flags()


@pytest.fixture(scope="session")
def launch():
    """A function: name of a launcher, flags and bytes of standard input -> Outcome."""

    def run(name: str, *arguments: object, stdin: bytes = b"") -> Outcome:
        _forget_flags()
        unused = ["--compilation_cache_dir=", *(["--store="] if name in ("chat", "generate", "serve") else [])]
        argv = [name, *unused, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
        return Outcome(stopped.value.code or 0, out.getvalue(), err.getvalue())

    yield run
    _forget_flags()


@pytest.fixture
def compilation_shown(monkeypatch):
    """The names of the types of all that was told of a compilation: who says it to the user, or a function for nobody."""
    shown, get = set(), Programs.get

    def watched(self, *args, **kwargs):
        shown.add(type(self.on_compile).__name__)
        return get(self, *args, **kwargs)

    monkeypatch.setattr(Programs, "get", watched)
    return shown


@pytest.fixture(scope="session")
def generate(launch):
    """A function: flags and bytes of standard input -> Outcome of launch.generate."""
    return functools.partial(launch, "generate")
