"""int8 weights and contexts through the Engine: who gets which copy, and that methods stay what they are."""

import dataclasses

import jax.numpy as jnp
import pytest

from rapid_jax.benchmarking.random_weights import random_engine
from rapid_jax.engine.engine import Engine
from tests.marks import slow


def loaded(engine_config, engine, **changes):
    other = Engine.load(config=dataclasses.replace(engine_config, **changes))
    other.session.programs = engine.session.programs
    return other


def matrix(model):
    module = model.params["layers_0"]["mlp"]["up_proj"]
    return next(module[name].dtype for name in ("weight", "kernel") if name in module)


def test_who_is_int8(engine_config, engine):
    """A drafter that should read half the bytes would read all, or the target would lose precision with it."""
    both = loaded(engine_config, engine, weights="int8")
    assert both.drafter is both.target and matrix(both.target) == jnp.int8
    drafts = loaded(engine_config, engine, drafter_weights="int8")
    assert (matrix(drafts.target), matrix(drafts.drafter)) == (jnp.float32, jnp.int8)
    for name, array in (("embed", "kernel"), ("final_norm", "weight")):
        assert drafts.drafter.params[name][array] is drafts.target.params[name][array]  # held once
    again = loaded(engine_config, engine, weights="int8", drafter_weights="int8")
    assert again.drafter is again.target
    narrower = loaded(engine_config, engine, weights="int8", drafter_weights="int4")
    matrices = [model.params["layers_0"]["mlp"]["up_proj"] for model in (narrower.target, narrower.drafter)]
    assert [one["weight"].dtype for one in matrices] == [jnp.int8, jnp.int4]
    assert matrices[1]["scale"].ndim == matrices[1]["weight"].ndim - 1, "scales of its own, of groups"
    other = drafts.with_drafter(str(drafts.target.path))
    assert other.target is drafts.target and matrix(other.drafter) == jnp.int8


@pytest.mark.parametrize(
    "weights, methods", [slow("int8", ("sd",)), ("int4", ("sd", "pages")), slow("int4", ("auto",))]
)
def test_a_narrow_copy_drafts_for_the_exact_target(
    engine_config, engine, document_text, plain_answer, weights, methods
):
    """Lossless methods must give lc's tokens of the float target, over passages and over the target's own cache."""
    drafts = loaded(engine_config, engine, drafter_weights=weights)
    document = drafts.read(document_text)
    for method in methods:
        answer = document.ask(plain_answer.question, method)
        assert answer.token_ids == plain_answer.token_ids
        assert answer.acceptance.tested > 0 or method == "auto"


def test_who_drafts_over_the_targets_own_cache(engine_config, engine, tiny_checkpoint, monkeypatch):
    """A copy of the target in fewer bits; never another model, whose queries mean nothing to these keys."""
    drafts = loaded(engine_config, engine, drafter_weights="int8")
    assert drafts.session.own_drafter is drafts.drafter is not drafts.target
    assert engine.session.own_drafter is engine.target
    other = dataclasses.replace(drafts.drafter, path="another")
    assert dataclasses.replace(drafts.session, drafter=other).own_drafter is drafts.target
    apart = dataclasses.replace(engine_config, mesh=(1, 1, 1), drafter_mesh=(1, 1, 1))
    assert dataclasses.replace(drafts.session, config=apart).own_drafter is drafts.target, "on other devices"


@pytest.fixture(scope="module")
def plain_answer(document, questions):
    return document.ask(questions[0], "lc")


@pytest.mark.parametrize("mesh", [slow((1, 1, 1)), slow((1, 2, 2))])
def test_int8_contexts_of_all_readers(engine_config, engine, document_text, questions, mesh):
    """The passages of the drafter and of rag are rounded as the document is; methods agree as without."""
    small = loaded(engine_config, engine, kv="int8", weights="int8", mesh=mesh)
    document = small.read(document_text)
    assert {x.dtype.name for x in (*document.context.k, *document.context.v)} == {"int8"}
    if mesh != (1, 1, 1):
        assert document.context.k_scale[0].sharding.spec[:3] == document.context.k[0].sharding.spec[:3]
    plain, drafted = (document.ask(questions[0], method) for method in ("lc", "sd"))
    assert plain.token_ids == drafted.token_ids
    (passages,) = small.session.passages.values()
    assert passages.cache.k[0].dtype == jnp.int8
    assert document.ask(questions[0], "rapid").token_ids


@pytest.mark.parametrize("mesh", [(1, 1, 1), slow((1, 2, 2))])
@pytest.mark.parametrize("kv", ["planes", slow("int4")])
def test_narrow_contexts_are_lossless_for_the_target_in_its_format(
    engine_config, engine, document_text, questions, mesh, kv
):
    """Every lossless method says what lc says over the same rounded keys; planes drafts from the upper half of them."""
    small = loaded(engine_config, engine, kv=kv, mesh=mesh)
    document = small.read(document_text)
    assert document.context.k[0].dtype == jnp.int4 and (document.context.k_rest is None) == (kv == "int4")
    plain = document.ask(questions[0], "lc")
    for method in ("sd", "magicdec", "pages", *(["planes"] if kv == "planes" else [])):
        answer = document.ask(questions[0], method)
        assert answer.token_ids == plain.token_ids, method
        assert answer.acceptance.tested > 0
    if kv == "planes" and mesh == (1, 1, 1):
        for options in (dict(early_stop=True), dict(first_candidates=3, residual="exact")):
            assert document.ask(questions[0], "planes", **options).token_ids == plain.token_ids
        together = small.ask_batch(
            [(document, questions[0]), (small.read(document_text[:900]), questions[0])], "planes"
        )
        assert together[0].token_ids == plain.token_ids


def test_planes_need_keys_and_values_in_planes(document, questions):
    """Before anything slow, with the setting that would be right."""
    with pytest.raises(ValueError, match='planes drafts over the upper plane of keys and values: set kv="planes", got'):
        document.ask(questions[0], "planes")


def test_random_weights_may_be_int8(engine_config, monkeypatch):
    """Speed of an int8 model could not be measured without its checkpoint."""
    from models import registry

    tiny = dataclasses.replace(registry.preset("llama32_1b"), vocab_size=64, width=32, ffn_width=64, num_layers=1)
    monkeypatch.setattr(registry, "preset", lambda name: tiny)
    engine = random_engine(dataclasses.replace(engine_config, target="", drafter_weights="int8"), "tiny")
    assert (matrix(engine.target), matrix(engine.drafter)) == (jnp.float32, jnp.int8)
