"""Every flag of every launcher, and every field of the config, with values that nobody should give it.

What is checked before anything slow runs as it is; the first slow thing (a checkpoint, a tokenizer, other hosts) ends
the launcher. Each value is either taken until then, or refused in one line with status 1 or 2.
"""

import contextlib
import io
import itertools
import runpy
import sys
import traceback
from unittest import mock

import pytest
from absl import flags

from models.fields import shown
from rapid_jax.config import EngineConfig

LAUNCHERS = {
    "generate": [],
    "evaluate": [],
    "benchmark": [],
    "build_database": ["--kind=model", "--output=made"],
    "make_archive": ["--output=made"],
    "plan": ["--preset=llama31_8b"],
    "report": ["nothing"],
    "train": ["--workdir=made"],
}
SLOW = (
    "rapid_jax.engine.engine.Engine.load",
    "rapid_jax.engine.loading.check_checkpoints",
    "rapid_jax.evaluation.archive.make_archive",
    "rapid_jax.evaluation.report.read_manifest",
    "rapid_jax.planning.topology.has_compiler",
    "rapid_jax.planning.measure.check",
    "rapid_jax.training.tokenizer.train_sentencepiece",
    "rapid_jax.benchmarking.random_weights.random_engine",
    "models.checkpoint.read_config",
    "models.hub.resolve",
    "models.tokenizer.load_tokenizer",
    "models.hosts.initialise",
)
VALUES = (
    "", " ", "0", "-1", "1", "1.5", "1000000000000000000", "-1000000000000000000", "1e18", "1e400", "1e-300", "nan", "-inf",
    "1" * 5000, "0x10", "1_0", "a,b", ",", "1,2", "1,2,3", "0,0,0", "{", "(", "()", "[]", "[1]", "('a', 0)", "{'a': 1}", "None", "true",
    "True", "'", "\\", "%s", "{document}", "{question}{document}", "a" * 5000, "é\u4e00\U0001f600", "a\nb", "..", "/", "../x", "name=", "@", "--x",
    "a\x00b", "\ud800",
)  # fmt: skip
SHARE = 31  # one of so many goes into the quick test; no divisor of the number of values


class Reached(BaseException):
    """What was checked before is right."""


def fields(values, prefix="config."):
    """Dotted names of every field of the config."""
    for name, value in values.items():
        yield from fields(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


def names_of(launcher, forget_flags):
    """The flags that a launcher defines; behind those of one launcher the fields of the config, read alike by all."""
    forget_flags()
    runpy.run_module(f"launch.{launcher}", run_name=f"launch.{launcher}", alter_sys=True)
    own = [
        flag.name for home, found in flags.FLAGS.flags_by_module_dict().items() for flag in found if "launch" in home
    ]
    return [*sorted(set(own)), *(fields(EngineConfig().to_dict()) if launcher == "generate" else ())]


def run(launcher, argument, forget_flags):
    """What is wrong with how a launcher takes an argument; None where nothing is."""
    forget_flags()
    argv = [launcher, "--compilation_cache_dir=", *LAUNCHERS[launcher], argument]
    out, err = io.StringIO(), io.StringIO()
    try:
        with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module(f"launch.{launcher}", run_name="__main__", alter_sys=True)
    except Reached:
        return None
    except SystemExit as stopped:
        text = err.getvalue()
        if stopped.code in (1, 2) and text.startswith("error: ") and text.count("\n") == 1 and len(text) > 20:
            return None
        return f"status {stopped.code}: {text[:200]!r}"
    except BaseException:
        return traceback.format_exc(limit=-2)
    return "ended without an error"


@pytest.fixture
def stopped_before_anything_slow(monkeypatch, tmp_path, share_programs):
    def reach(*_, **__):
        raise Reached

    for name in SLOW:
        monkeypatch.setattr(name, reach)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A document.")))
    yield
    share_programs()  # a launcher has pointed the cache to an odd value


def all_arguments(launcher, forget_flags):
    """Every flag of a launcher, and every field of the config, with every value."""
    return [f"--{name}={value}" for name, value in itertools.product(names_of(launcher, forget_flags), VALUES)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_odd_value_of_every_flag_is_taken_or_refused_in_one_line(
    launcher, stopped_before_anything_slow, forget_flags
):
    """No traceback, whatever stands behind the equals sign."""
    wrong = {a: found for a in all_arguments(launcher, forget_flags) if (found := run(launcher, a, forget_flags))}
    assert not wrong, "\n".join(f"{shown(argument)}: {found}" for argument, found in wrong.items())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_odd_values_of_every_flag_are_taken_or_refused_in_one_line(
    launcher, stopped_before_anything_slow, forget_flags
):
    """Of all values a few for each flag, others for the next: the slow test has them all."""
    arguments = all_arguments(launcher, forget_flags)[::SHARE]
    wrong = {a: found for a in arguments if (found := run(launcher, a, forget_flags))}
    assert not wrong, "\n".join(f"{shown(argument)}: {found}" for argument, found in wrong.items())
