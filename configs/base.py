"""EngineConfig as a ConfigDict, so that every field can be set with --config.<field>=<value>."""

from typing import Any

import ml_collections
from ml_collections import config_dict

from rapid_jax.config import EngineConfig

_OPTIONAL = {"threshold": float, "max_chunks": int}


def make(**fields: Any) -> ml_collections.ConfigDict:
    """A ConfigDict of every field of EngineConfig, with these set."""
    values = EngineConfig.from_mapping(fields).to_dict()
    for name, kind in _OPTIONAL.items():
        if values["retrieval"][name] is None:
            values["retrieval"][name] = config_dict.placeholder(kind)
    return ml_collections.ConfigDict(values)
