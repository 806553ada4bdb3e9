"""Whether a tokenizer's ids are rows of a model's embedding: beyond it JAX reads NaN, and every token after is 0."""

from __future__ import annotations

from pathlib import Path

from models.config import ModelConfig
from models.fields import shown
from models.tokenizer import Tokenizer


def check_vocabulary(tokenizer: Tokenizer | None, config: ModelConfig, where: str | Path = "the checkpoint") -> None:
    """Checks that every id that can reach the model lies below its V.

    Args:
      tokenizer: of the checkpoint, with the eos ids of generation_config.json among its stop ids; None where there is
        none, and then only the ids of `config` are looked at.
      config: of the checkpoint.
      where: what the message calls the checkpoint.

    Raises:
      ValueError: an added token, or an id of config.json, generation_config.json or the tokenizer, is V or larger; one
        line that names it.
    """
    size = config.vocab_size
    for name, ids in (
        ("bos_token_id", () if config.bos_id is None else (config.bos_id,)),
        ("eos_token_id", config.eos_ids),
    ):
        if any(i >= size for i in ids):
            raise ValueError(f"{where}: config.json: {name} {max(ids)} lies beyond its vocab_size of {size}")
    if tokenizer is None:
        return
    token, last = max(tokenizer.hf.get_vocab().items(), key=lambda entry: entry[1])
    if last >= size:
        raise ValueError(
            f"{where}: the tokenizer has {last + 1 - size} more ids than the model's vocab_size of {size}, the last is "
            f"{last} for {shown(token)}: resize the embedding, or take the tokenizer that belongs to it"
        )
    beyond = [i for i in (*tokenizer.stop_ids, *tokenizer.hf.all_special_ids) if i is not None and i >= size]
    if beyond:
        raise ValueError(
            f"{where}: the special token id {max(beyond)} lies beyond the model's vocab_size of {size}; look at "
            f"eos_token_id in generation_config.json and at tokenizer_config.json"
        )
