"""EngineConfig as a ConfigDict, so that every field can be set with --config.<field>=<value>."""

from typing import Any

import ml_collections
from ml_collections import config_dict

from rapid_jax.config import EngineConfig

_OPTIONAL = {"threshold": float, "max_chunks": int, "query_prompt": str, "passage_prompt": str}


def make(**fields: Any) -> ml_collections.ConfigDict:
    """A ConfigDict of every field of EngineConfig, with these set.

    Earlier answers are not kept to be copied unless that is set: launchers compare methods on the same questions, and
    one would copy what another has said.
    """
    copying = {"earlier_answers": 0, **fields.pop("copying", {})}
    values = EngineConfig.from_mapping({**fields, "copying": copying}).to_dict()
    for name, kind in _OPTIONAL.items():
        if values["retrieval"][name] is None:
            values["retrieval"][name] = config_dict.placeholder(kind)
    return ml_collections.ConfigDict(values)


def paper(
    target: str, *, drafter: str = "", eta: float = 10.0, mesh: tuple[int, int, int]
) -> ml_collections.ConfigDict:
    """The RAPID paper's settings (arXiv 2502.20330, section 4.1) for documents of up to 120,000 tokens.

    Args:
      target, drafter: hub names; no drafter is self-speculation.
      eta: 5, 10 or 20 for self-speculation, 40 or 50 for a larger drafter.
      mesh: devices along (data, context, model).
    """
    return make(
        target=target,
        drafter=drafter,
        dtype="bfloat16",
        mesh=mesh,
        prefill_chunk=2048,
        max_context_tokens=120_000,
        retrieval=dict(chunk_tokens=512),
        speculation=dict(gamma=10, eta=eta),
        sampling=dict(temperature=0.1, max_new_tokens=1024),
    )
