"""Training: it must learn, go on where it stopped, and export what other programs load."""

import json

import jax
import numpy as np
import pytest

import models
from models.config import ModelConfig, RopeConfig
from rapid_jax.training import loop
from rapid_jax.training.data import Phase
from rapid_jax.training.export import export_hugging_face
from rapid_jax.training.initialisation import initial_parameters

MODEL = ModelConfig("llama", 1664, 48, 32, 2, 4, 4, 16, 4096, RopeConfig(theta=1e9), 1e-5, True, bos_id=1, eos_ids=(2,))
WEIGHTS = (0.6, 0.1, 0.2, 0.1)


def config(steps: int) -> loop.TrainingConfig:
    phases = (Phase(2, 2, 128, 0.5, WEIGHTS, 512, 5e-3), Phase(steps, 1, 192, 0.5, WEIGHTS, 512, 5e-3))
    return loop.TrainingConfig(phases, warmup_steps=1, decay_steps=1, evaluate_every=2, save_every=2)


def fresh(rows):
    return initial_parameters(MODEL, jax.random.key(0), *rows.marked)


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    entries = []
    state = loop.train(MODEL, config(4), rows, directory, entries.append, fresh(rows))
    return directory, state, entries


@pytest.mark.slow
def test_progress_is_reported_through_all_phases(finished):
    _, state, entries = finished
    assert int(state.step) == 4
    assert [(entry["step"], entry["tokens"]) for entry in entries] == [(2, 128), (4, 192)]
    assert all(np.isfinite(entry["loss"]) and entry["tokens_per_second"] > 0 for entry in entries)
    assert all(0 <= entry["fact"] <= 1 for entry in entries)


@pytest.mark.slow
def test_a_stopped_run_ends_as_an_unbroken_one(finished, rows, tmp_path):
    """A run that a machine's restart cut in two must not give another model."""
    directory = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        loop.train(MODEL, config(4), rows, directory, _interrupt, fresh(rows))
    resumed = loop.train(MODEL, config(4), rows, directory, lambda entry: None, fresh(rows))
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(finished[1].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_parameters_come_back_from_the_newest_checkpoint(finished):
    directory, state, _ = finished
    restored = loop.restore_parameters(MODEL, config(4), directory)
    jax.tree.map(np.testing.assert_array_equal, restored, state.params)


def test_export_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="train first"):
        loop.restore_parameters(MODEL, config(4), tmp_path / "nothing")


@pytest.mark.slow
def test_the_loss_falls(rows):
    """Four updates on one batch."""
    training = config(4)
    transform = loop.optimiser(training)
    state = loop.initial_state(transform, fresh(rows))
    decoder = loop.Decoder(MODEL)
    batch = rows.batch(training.phases[0], (0, 0, 0))
    losses = []
    for _ in range(4):
        state, loss = loop.train_step(decoder, transform, state, batch)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.2


def test_accuracy_counts_whole_answers(rows):
    """An answer of two tokens with one of them wrong is wrong."""
    batch = rows.batch(config(4).phases[0], (0, 0, 0))
    params = fresh(rows)
    assert loop.answer_accuracy(loop.Decoder(MODEL), params, [batch])["fact"] < 0.5


def test_the_export_loads_as_any_checkpoint_does(finished, pieces, tmp_path):
    _, state, _ = finished
    export_hugging_face(state.params, MODEL, pieces, tmp_path / "export")
    loaded = models.load(tmp_path / "export")
    ids = np.asarray([loaded.tokenizer.encode("The tide came and went.")], np.int32)
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), state.params)
    expected = loop.Decoder(MODEL).apply(
        {"params": rounded}, ids, np.arange(ids.shape[1], dtype=np.int32)[None], method=loop.Decoder.forward_logits
    )[0]
    np.testing.assert_allclose(loaded.logits(ids), expected, atol=1e-5)
    generation = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]


def _interrupt(entry: dict) -> None:
    raise KeyboardInterrupt
