"""Sampling settings that a checkpoint's own generation_config.json gives, as transformers' generate reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

from models.fields import shown
from models.json_file import read_json
from models.sources import open_source
from rapid_jax.config import EngineConfig, embedded
from rapid_jax.config.checks import is_number

FILE = "generation_config.json"
# Of transformers.
_DEFAULTS: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
}  # of transformers


def with_checkpoint_sampling(config: EngineConfig) -> EngineConfig:
    """The config with the settings that config.sampling.from_checkpoint names taken from the target's file.

    What the file does not name has the default of transformers: top_k 50, top_p 1, temperature 1. The temperature is 0
    where the file does not say do_sample, as it is there.

    Raises:
      FileNotFoundError: the checkpoint has no such file.
      ValueError: a value that is none, or a repetition_penalty other than 1; names the file.
    """
    names = config.sampling.from_checkpoint
    if not names:
        return config
    path = open_source(embedded.checkpoint(config.target)).tokenizer_files() / FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, and sampling.from_checkpoint needs it: leave it empty")
    fields = read_json(path)
    found: dict[str, Any] = {}
    for name in names:
        value = fields.get(name)
        found[name] = _DEFAULTS[name] if value is None else value
        if not is_number(found[name]):
            raise ValueError(f"{path}: {name} must be a number, got {shown(found[name])}")
    if found.pop("repetition_penalty", 1) != 1:
        raise ValueError(
            f"{path} has repetition_penalty {fields['repetition_penalty']}, and no repetition penalty is applied here: "
            "leave repetition_penalty out of sampling.from_checkpoint"
        )
    if "temperature" in names and fields.get("do_sample") is not True:
        found["temperature"] = 0.0
    try:
        return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **found))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
