"""transformers beside our methods: the same prompt must give the same tokens, else the race is not one."""

import numpy as np
import pytest

pytestmark = pytest.mark.parity

CHUNK, NEW = 64, 12


@pytest.fixture(scope="module")
def model(make_tiny_checkpoint):
    import models

    return models.load(make_tiny_checkpoint(scale=6.0), dtype="float32")


@pytest.fixture(scope="module")
def peer(model):
    from rapid_jax.benchmarking.peers import Peer

    return Peer({"pretrained_model_name_or_path": str(model.path)}, "float32", "cpu")


@pytest.fixture(scope="module")
def document():
    """200 tokens that repeat, so that prompt lookup finds something."""
    return (np.random.default_rng(0).integers(3, 260, 40).tolist()) * 5


def greedy(model, prompt):
    """Argmax continuation by plain forwards."""
    tokens = list(prompt)
    for _ in range(NEW):
        tokens.append(int(np.argmax(model.logits([tokens])[0, -1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("questions", [[[5, 9, 7, 30]], [[5, 9, 7, 30], [8, 8], [40, 41, 42, 43, 44, 45]]])
def test_generated_tokens_are_those_of_the_prompt(model, peer, document, questions):
    """Rows of different length, padded behind a document that was read before: nothing may shift a position."""
    contestants = peer.contestants(peer.read(document, CHUNK), model, questions, NEW)
    assert [c.name for c in contestants] == (["hf", "hf-pld"] if len(questions) == 1 else ["hf"])
    expected = [greedy(model, document + question) for question in questions]
    for contestant in contestants:
        for _ in range(2):  # the second run starts from the same cache
            sample = contestant.run()
            assert sample.tokens == expected
            assert all(NEW / 11 <= steps <= NEW for steps in sample.steps)
            if contestant.name == "hf":
                assert sample.steps == [NEW] * len(questions)
        assert sample.prefill_seconds > 0 and sample.decode_seconds > 0


def test_bytes_count_every_rows_own_copy_of_the_document(model, peer, document):
    """generate shares no cache between rows."""
    contestants = [
        peer.contestants(peer.read(document, CHUNK), model, [[5, 9]] * rows, NEW)[0].bytes_per_step(0.0)
        for rows in (1, 2)
    ]
    assert contestants[1] - contestants[0] == 512 * (200 + 2 + NEW / 2)


def test_a_checkpoint_that_transformers_cannot_load_is_one_line(tmp_path):
    from rapid_jax.benchmarking.peers import Peer

    with pytest.raises(ValueError, match="transformers cannot load .*--nopeers"):
        Peer({"pretrained_model_name_or_path": str(tmp_path)}, "float32", "cpu")
