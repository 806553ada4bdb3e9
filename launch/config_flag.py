"""The flag --config, a file with get_config(), and --config.<field>=<value>; every error of theirs is one line.

--config=configs/llama31_8b.py works from any directory: where no local file has that name, the installed one is meant.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from configs import archivist
from launch import cli
from launch.cli import UsageError
from rapid_jax.config import EngineConfig
from rapid_jax.config.methods import METHODS, Method, get_method

DEFAULT = str(Path(archivist.__file__))
_INSTALLED = Path(archivist.__file__).parent
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")

_NAMES = ("--config", "-config")
_SECTIONS = ("chat", "retrieval", "speculation", "hierarchy", "copying", "sampling", "evaluation")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,  # DEFAULT, but `parse` says so: config_flags reads a default, and fails on its overrides, at this line
    "A file with get_config(). --config.<field>=<value> sets a field of it: "
    + ", ".join(name for name in EngineConfig().to_dict() if name not in _SECTIONS)
    + "; "
    + ", ".join(f"{name}.<field>" for name in _SECTIONS)
    + ".",
)


def parse(argv: list[str]) -> list[str]:
    """Parses all flags.

    Args:
      argv: the program's name and its arguments.

    Returns:
      What is no flag, the program's name first.

    Raises:
      UsageError: a config field that does not exist.
      flags.Error: any other bad flag.
      OSError: the config file cannot be read.
      ValueError: the config file is not right.
    """
    argv = _located(argv)
    path = _path(argv)
    file = Path(path.partition(":")[0])
    if file.is_dir():
        raise IsADirectoryError(f"--config={path} is a directory; name a Python file with get_config()")
    if not file.is_file():
        known = ", ".join(f"configs/{f.name}" for f in sorted(_INSTALLED.glob("[!_]*.py")) if f.name != "base.py")
        raise FileNotFoundError(f"--config={path}: no such file; there are {known}")
    for name in filter(None, map(_OVERRIDE.fullmatch, (argument.partition("=")[0] for argument in argv[1:]))):
        _check_field(name[1])
    try:
        flags.FLAGS.set_default("config", DEFAULT)
        return flags.FLAGS(argv)
    except flags.Error as e:
        if "Error whilst parsing config file" in str(e):  # followed by the whole traceback of the file's own code
            raise ValueError(f"--config={path}: {str(e).strip().splitlines()[-1]}") from None
        raise
    except Exception as e:  # the config file's own code may raise anything
        if cli.of_standard_output(e):  # of --help
            raise
        raise ValueError(f"--config={path}: {type(e).__name__}: {e}") from None


def values() -> dict[str, Any]:
    """Nested field values of the config, overrides included.

    Raises:
      ValueError: get_config() gave something else than a ConfigDict.
    """
    config = _CONFIG.value
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"--config: get_config() must return a ml_collections.ConfigDict, got {type(config).__name__}")
    fields = config.to_dict()
    for section, name in (("hierarchy", "databases"), ("sampling", "from_checkpoint")):
        part = fields.get(section)
        listed = part.get(name) if isinstance(part, dict) else None
        if isinstance(listed, tuple) and all(isinstance(item, str) for item in listed):
            part[name] = tuple(word for item in listed for word in item.split(","))  # "a,b" comes as one string
    return fields


def engine_config(**given: str | None) -> EngineConfig:
    """The config with some fields replaced, those that are not None.

    Raises:
      UsageError: a bad value.
      ValueError: see `values`.
    """
    replaced = {name: value for name, value in given.items() if value is not None}
    fields = {**values(), **replaced}
    try:
        return EngineConfig.from_mapping(fields)
    except ValueError as e:
        raise UsageError(str(e)) from e


def comparing(config: EngineConfig) -> EngineConfig:
    """The config for comparing methods as they are: without the length rule, unless the command line sets it."""
    told = "speculation.length_rule" in config_flags.get_override_values(flags.FLAGS["config"])
    if told or config.speculation.length_rule != "lossless":
        return config
    return dataclasses.replace(config, speculation=dataclasses.replace(config.speculation, length_rule="none"))


def methods(flag: flags.FlagHolder) -> list[Method]:
    """The methods that a flag lists, each once.

    Raises:
      UsageError: none, or an unknown one.
    """
    names = dict.fromkeys(name.strip() for name in flag.value)
    if not names:
        raise UsageError(f"--{flag.name} is empty; known: {', '.join(METHODS)}")
    try:
        return [get_method(name) for name in names]
    except ValueError as e:
        raise UsageError(f"--{flag.name}: {e}") from e


def _path(argv: list[str]) -> str:
    given = DEFAULT
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name in _NAMES:
            given = value if equals else following
    return given


def _located(argv: list[str]) -> list[str]:
    """The arguments, with the installed file for every --config=configs/<file> that is not there locally."""
    located = argv[:1]
    for argument in argv[1:]:
        name, equals, value = argument.partition("=")
        if name in _NAMES and equals:
            located.append(f"{name}={_installed(value)}")
        else:
            located.append(_installed(argument) if located[-1] in _NAMES else argument)
    return located


def _installed(path: str) -> str:
    name, colon, rest = path.partition(":")  # what follows a colon is get_config's argument
    file = _INSTALLED / Path(name).name
    if Path(name).exists() or Path(name) != Path("configs") / file.name or not file.is_file():
        return path
    return f"{file}{colon}{rest}"


def _check_field(name: str) -> None:
    fields: Any = EngineConfig().to_dict()
    prefix = ""
    for part in name.split("."):
        if not isinstance(fields, dict) or part not in fields:
            known = ", ".join(prefix + field for field in fields) if isinstance(fields, dict) else prefix.rstrip(".")
            raise UsageError(f"unknown config field {name}; known: {known}")
        fields, prefix = fields[part], f"{prefix}{part}."
