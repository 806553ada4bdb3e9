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
def drafter(make_tiny_checkpoint):
    """Another model over the same ids, whose drafts are rarely right."""
    import models

    return models.load(make_tiny_checkpoint(scale=6.0, seed=1, num_layers=1), dtype="float32")


def source(model):
    return {"pretrained_model_name_or_path": str(model.path)}


@pytest.fixture(scope="module")
def peer(model):
    from rapid_jax.benchmarking.transformers import Assistant, Transformers

    return Transformers(source(model), "float32", "cpu", Assistant(source(model), model))


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
    assert [c.name for c in contestants] == (["hf", "hf-pld", "hf-assisted"] if len(questions) == 1 else ["hf"])
    expected = [greedy(model, document + question) for question in questions]
    for contestant in contestants:
        for _ in range(2):  # the second run starts from the same cache
            sample = contestant.run()
            assert sample.tokens == expected
            assert all(NEW / 21 <= steps <= NEW for steps in sample.steps)
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


def test_an_assistant_that_is_the_target_is_right_about_every_token(model, peer, document):
    """Positions or a cache that are not the prompt's would make its drafts wrong, and the row slow, not its tokens wrong."""
    contestant = assisted(peer, model, document)
    sizes = []
    hook = peer.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for _ in range(2):
        sample = contestant.run()
        assert sample.accepted == sample.proposed == sample.tested == NEW - sample.steps[0]
        assert sum(sample.drafter_forwards) == sample.proposed
    hook.remove()
    assert len(sizes) == 2 * (sample.steps[0] + sample.proposed)
    assert max(sizes) <= NEW, "no forward reads the prompt again"


def test_an_assistant_of_another_checkpoint_changes_no_token(model, drafter, document):
    """Rejected drafts leave both caches; what is counted adds up; its own reading of the prompt counts as prefill."""
    from rapid_jax.benchmarking.transformers import Assistant, Transformers

    peer = Transformers(source(model), "float32", "cpu", Assistant(source(drafter), drafter))
    contestant = assisted(peer, model, document)
    prompt = contestant.prompt
    caches = [prompt.target.cache, prompt.assistant.cache]
    held = [cache.get_seq_length() for cache in caches]
    assert held == [len(document) + 3] * 2
    for _ in range(2):
        sample = contestant.run()
        assert sample.tokens == [greedy(model, document + [5, 9, 7, 30])]
        assert [cache.get_seq_length() for cache in caches] == held
        assert sample.accepted == NEW - sample.steps[0] < sample.proposed
        assert sample.accepted <= sample.tested <= sample.proposed <= sum(sample.drafter_forwards)
        assert sample.prefill_seconds == pytest.approx(prompt.target.seconds + prompt.assistant.seconds)
    forward = contestant.bytes_per_step(1.0) - contestant.bytes_per_step(0.0)
    assert 0 < forward < contestant.bytes_per_step(0.0)  # one layer of two


def test_without_an_assistant_there_is_no_such_row(model):
    from rapid_jax.benchmarking.transformers import Transformers

    assert Transformers(source(model), "float32", "cpu").names(1) == ("hf", "hf-pld")
    assert Transformers(source(model), "float32", "cpu", lookup=False).names(1) == ("hf",)


def assisted(peer, model, document):
    return peer.contestants(peer.read(document, CHUNK), model, [[5, 9, 7, 30]], NEW)[-1]


def test_a_checkpoint_that_transformers_cannot_load_is_one_line(tmp_path):
    from rapid_jax.benchmarking.transformers import Transformers

    with pytest.raises(ValueError, match="transformers cannot load .*--nopeers"):
        Transformers({"pretrained_model_name_or_path": str(tmp_path)}, "float32", "cpu")
