"""Every flag and every config field with odd values: one line and status 1 or 2, never a traceback, nothing slow."""

import re
from pathlib import Path

import pytest

from rapid_jax.config import EngineConfig

ROOT = Path(__file__).resolve().parents[2]
ODD = (
    "0", "", "-1", "1000000000000000000", "nan", "a,b", "1e400", "None", "true", "{", "[1,2]", "(", "'", "1e-300", "inf",
    "\N{SNOWMAN}", "..", "1.5", "9" * 5000, "\N{NULL}",
)  # fmt: skip
QUICK = 3  # values of each flag in the quick run; each flag begins at another one
# What ends each launcher before anything is loaded: a checkpoint that is not there.
MISSING = {
    "generate": ("--target=/no/such/checkpoint",),
    "evaluate": ("--target=/no/such/checkpoint",),
    "benchmark": ("--target=/no/such/checkpoint", "--nopeers"),
    "build_database": ("--kind=corpus", "--target=/no/such/checkpoint", "--output=OUTPUT"),
    "make_archive": ("--tokenizer=/no/such/checkpoint", "--output=OUTPUT"),
    "plan": ("--preset=no_such_preset",),
}
_WRITES = ("output", "plot", "json", "compilation_cache_dir", "workdir", "export")  # a value would be a file's name
_WAITS = ("coordinator", "hosts", "host", "process", "distributed")  # a value would look for other hosts
_FIXED = {"build_database": ("kind",)}


def config_fields():
    """Dotted names of all fields that --config.<field> reaches."""

    def walk(values, prefix):
        for name, value in values.items():
            yield from walk(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]

    return list(walk(EngineConfig().to_dict(), "config."))


def own_flags(launcher):
    """Names of the flags that a launcher defines."""
    source = (ROOT / "launch" / f"{launcher}.py").read_text(encoding="utf-8")
    names = re.findall(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"", source)
    kept = [name for name in names if name not in (*_WRITES, *_FIXED.get(launcher, ()))]
    return [name for name in kept if not any(word in name for word in _WAITS)]


def check(outcome, flag):
    assert outcome.status in (1, 2), (flag[:80], outcome.status, outcome.out[-200:])
    lines = outcome.err.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 2500, (flag[:80], outcome.err[:2000])


def run(launch, tmp_path, launcher, name, values):
    base = [argument.replace("OUTPUT", str(tmp_path / "out")) for argument in MISSING[launcher]]
    for value in values:
        flag = f"--{name}={value}"
        given = [argument for argument in base if not argument.startswith(f"--{name}=")]
        check(launch(launcher, *given, flag), flag)


def chosen(index):
    return [ODD[(QUICK * index + offset) % len(ODD)] for offset in range(QUICK)]


FIELDS = [(index, name) for index, name in enumerate(config_fields()) if name not in ("config.target",)]
FLAGS = [(launcher, index, name) for launcher in MISSING for index, name in enumerate(own_flags(launcher))]
FLAGS = [case for case in FLAGS if case[2] not in ("target", "preset", "tokenizer")]


@pytest.mark.parametrize(("index", "name"), FIELDS, ids=[name for _, name in FIELDS])
def test_a_config_field_with_odd_values(launch, tmp_path, index, name):
    run(launch, tmp_path, "generate", name, chosen(index))


@pytest.mark.parametrize(("launcher", "index", "name"), FLAGS, ids=[f"{case[0]}-{case[2]}" for case in FLAGS])
def test_a_flag_with_odd_values(launch, tmp_path, launcher, index, name):
    run(launch, tmp_path, launcher, name, chosen(index))


@pytest.mark.slow
@pytest.mark.parametrize(("index", "name"), FIELDS, ids=[name for _, name in FIELDS])
def test_a_config_field_with_every_odd_value(launch, tmp_path, index, name):
    run(launch, tmp_path, "generate", name, ODD)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "index", "name"), FLAGS, ids=[f"{case[0]}-{case[2]}" for case in FLAGS])
def test_a_flag_with_every_odd_value(launch, tmp_path, launcher, index, name):
    run(launch, tmp_path, launcher, name, ODD)
