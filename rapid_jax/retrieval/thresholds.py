"""The cosine from which a chunk counts as related to a question, for each sentence encoder.

An unrelated question and chunk have a cosine of about 0 under MiniLM and of about 0.7 under E5, so that no one number
serves all encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from models.encoder_config import EncoderConfig

_BGE_M3: dict[str, Any] = dict(
    model_type="xlm-roberta",
    hidden_size=1024,
    num_hidden_layers=24,
    max_position_embeddings=8194,
    pooling="cls",
    query_prompt="",
)
_ALL_MINILM_L6: dict[str, Any] = dict(
    model_type="bert",
    hidden_size=384,
    num_hidden_layers=6,
    max_seq_length=256,
    pooling="mean",
    normalize=True,
    query_prompt="",
)
# BGE-M3's is the RAPID paper's. MiniLM's was chosen on one document, in chunks of 512: each of 15 questions about 8K
# tokens of it found 2 chunks or more; of 24 questions about something else none found any, at 32K tokens two did.
_KNOWN = ((_BGE_M3, 0.3), (_ALL_MINILM_L6, 0.2))

_DEVIATIONS = 2.0
# Everyday questions about many subjects. Whatever a document speaks of, most of them have nothing to do with it.
PROBES = (
    "How long should bread dough rise before baking?",
    "Which team won the championship last year?",
    "How do I treat a sprained ankle?",
    "What is the best time to plant tomatoes?",
    "Who painted the ceiling of the chapel?",
    "How far away is the nearest star?",
    "What should I pack for a week at the beach?",
    "How is the price of gold determined?",
    "Why do cats purr?",
    "When does the next train to the airport leave?",
    "How many players are in an orchestra?",
    "What causes an earthquake?",
    "How do I remove a coffee stain from a shirt?",
    "Which countries border the Black Sea?",
    "What does a heart surgeon earn?",
    "How do vaccines protect against disease?",
    "When was the treaty signed?",
    "How do I tune a guitar?",
    "What is the tallest mountain in Africa?",
    "How can I improve my credit score?",
    "Which court hears appeals of tax cases?",
    "How are diamonds cut and polished?",
    "What do whales eat in winter?",
    "How many calories are in an avocado?",
)


def known_threshold(config: EncoderConfig) -> float | None:
    """The threshold of a published encoder, which its architecture gives away; None for any other."""
    for fields, threshold in _KNOWN:
        if all(getattr(config, name) == value for name, value in fields.items()):
            return threshold
    return None


def calibrated_threshold(cosines: np.ndarray) -> float:
    """Two standard deviations above the mean cosine of `PROBES` and a document's chunks, at most 1.

    Args:
      cosines: float32 [probes, chunks].
    """
    return float(min(cosines.mean() + _DEVIATIONS * cosines.std(), 1.0))
