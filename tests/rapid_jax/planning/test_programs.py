"""The Engine's programs compiled for eight host devices: their collectives, their donations, their operations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from launch import plan as plan_launcher
from models import ModelConfig
from models.sharding import make_mesh
from rapid_jax.config.methods import METHODS, get_method
from rapid_jax.planning import formulas, hlo, predict, tables
from rapid_jax.planning.compiled import compile_program, loop_trips
from rapid_jax.planning.cost import Rates
from rapid_jax.planning.drafters import check_planned
from rapid_jax.planning.memory import memory
from rapid_jax.planning.programs import prefill_program, step_program
from rapid_jax.planning.shapes import Plan, Workload, context_shape
from tests.marks import slow

CONFIG = ModelConfig(
    family="llama", vocab_size=512, width=64, ffn_width=128, num_layers=2, num_heads=8, num_kv_heads=2, head_dim=16,
    max_position=32_768,
)  # fmt: skip
SHORT, LONG = 1024, 8192
MESHES = [slow((1, 4, 2)), (2, 2, 2)]
RATES = Rates(1e10, 1e11, 1e9, 1e-6)


def workload(context, **fields):
    return Workload(context, **{**dict(gamma=3, chunk=256, new_tokens=32, passages=512, batch=2), **fields})


@functools.cache
def compiled(mesh, context, what):
    plan = Plan(CONFIG, make_mesh(mesh), jnp.float32)
    work = workload(context)
    lowered = prefill_program(plan, work) if what == "prefill" else step_program(plan, work, get_method(what))
    return lowered.compile()


def collectives(mesh, context, what):
    found = hlo.parse(compiled(mesh, context, what).as_text()).collectives()
    return sorted((c.kind, c.group, c.bytes, c.times) for c in found)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("what", ["prefill", "lc", slow("rapid")])
def test_traffic_between_devices_does_not_grow_with_the_context(mesh, what):
    """A gather of keys and values would be seen here: it grows with what the cache holds."""
    assert collectives(mesh, SHORT, what) == collectives(mesh, LONG, what)
    assert collectives(mesh, LONG, what)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_no_collective_is_as_large_as_a_shard_of_the_cache(mesh):
    plan = Plan(CONFIG, make_mesh(mesh), jnp.float32)
    cache = context_shape(plan, LONG, 256)
    shard = formulas.chip_bytes(cache.k[0])
    for what in ("lc", "rapid"):
        assert max(size for _, _, size, _ in collectives(mesh, LONG, what)) < shard / 4


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_cache_is_written_in_place_by_prefill_and_the_state_by_a_step(mesh):
    """A copy of the context would need its memory twice."""
    plan, work = Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG)
    kv = formulas.chip_bytes((context_shape(plan, LONG, 256).k, context_shape(plan, LONG, 256).v))
    assert compiled(mesh, LONG, "prefill").memory_analysis().alias_size_in_bytes >= kv
    held = memory(plan, work, get_method("rapid"))
    assert compiled(mesh, LONG, "rapid").memory_analysis().alias_size_in_bytes >= held.tails


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_copies_are_planned_without_a_drafter(mesh):
    """A step is that of plain decoding with more rows, and its collectives do not grow with the text it searches."""
    copy = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG), get_method("copy"), RATES)
    assert copy.draft is None and copy.drafts and copy.costs().draft == 0
    assert 2 * copy.plain.work.flops < copy.verify.flops, "the rows of the draft"
    assert copy.step_seconds == pytest.approx(copy.costs().step(3)) and copy.step_seconds >= copy.costs().plain
    rows = tables.copied_speeds(copy)
    assert [row["tokens_per_step"] for row in rows] == [1.5, 2.0, 2.5, 3.5], (
        "five tokens are more than three and the next"
    )
    assert rows[1]["speed_up"] == pytest.approx(2 * copy.costs().plain / copy.step_seconds)
    named = [row[0] for row in tables.work_table(copy).rows]
    assert named[-1] == "step of copy" and not any("drafter" in name for name in named)
    assert collectives(mesh, SHORT, "copy") == collectives(mesh, LONG, "copy")


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_pages_are_planned_with_the_forward_that_chooses_them(mesh):
    """One forward in eight reads the document and its keys once more; the others read the pages alone."""
    work = workload(LONG, pages=512)
    pages = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), work, get_method("pages"), RATES)
    costs, shard = pages.costs(), formulas.chip_bytes(context_shape(pages.plan, LONG, 256))
    assert pages.draft.work.bytes < pages.plain.work.bytes < pages.choosing.work.bytes
    assert pages.choosing.work.bytes - pages.plain.work.bytes > 0.4 * shard, "keys are read again"
    assert costs.start == pytest.approx((pages.choosing.work.seconds(RATES) - costs.draft) / 8)
    assert pages.step_seconds == pytest.approx(costs.step(3)) and costs.step(0) == costs.plain
    assert 0 < pages.memory.pages < shard and pages.memory.passages == 0
    assert "keys and values that drafts read" in [row[0] for row in tables.memory_table(pages.memory, 10**9).rows]
    longer = pages.costs(2 * LONG)
    assert longer.draft == costs.draft and longer.start > costs.start
    by_bytes = dataclasses.replace(pages, rates=Rates(1.0, 1e30, 1e30))
    grown = {n: by_bytes.costs(n) for n in (LONG, 2 * LONG)}
    plain, start = (getattr(grown[2 * LONG], of) - getattr(grown[LONG], of) for of in ("plain", "start"))
    assert start == pytest.approx(1.5 * plain / 8), "keys are read twice in one step of eight"
    assert [row[0] for row in tables.work_table(pages).rows][3] == "forward that chooses pages"
    assert collectives(mesh, SHORT, "pages") == collectives(mesh, LONG, "pages"), "neither keys nor values travel"


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_a_window_is_planned_with_drafts_that_do_not_grow(mesh):
    """What a draft reads is the window, however long the document is."""
    window = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG), get_method("magicdec"), RATES)
    costs, shard = window.costs(), formulas.chip_bytes(context_shape(window.plan, LONG, 256))
    assert window.draft.work.bytes < window.plain.work.bytes and window.choosing is None
    assert window.costs(2 * LONG).draft == costs.draft == window.draft.work.seconds(RATES)
    assert window.step_seconds == pytest.approx(costs.step(3)) and window.verify.bytes >= window.plain.work.bytes
    assert 0.4 * shard < window.memory.pages < 1.5 * shard, "4,100 tokens of 8,192, for each of two rows"
    assert collectives(mesh, SHORT, "magicdec") == collectives(mesh, LONG, "magicdec")


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_planes_are_planned_with_drafts_over_half_the_bits(mesh):
    """A draft is a step of plain decoding over int4, and grows with the document by half as much."""
    plan = Plan(CONFIG, make_mesh(mesh), jnp.float32, kv="planes")
    planes = predict.predict(plan, workload(LONG), get_method("planes"), RATES)
    alone = predict.predict(dataclasses.replace(plan, kv="int4"), workload(LONG), get_method("lc"), RATES)
    assert planes.draft.work == alone.plain.work and planes.choosing is None
    assert planes.memory.passages == planes.memory.pages == 0
    by_bytes = dataclasses.replace(planes, rates=Rates(1.0, 1e30, 1e30))
    grown = {n: by_bytes.costs(n) for n in (LONG, 2 * LONG)}
    plain, draft = (getattr(grown[2 * LONG], of) - getattr(grown[LONG], of) for of in ("plain", "draft"))
    assert 0.5 * plain < draft < 0.62 * plain, "scales come on top"
    with pytest.raises(ValueError, match='planes .* set kv to "planes"'):
        step_program(Plan(CONFIG, None, jnp.float32), workload(SHORT), get_method("planes"))


@pytest.fixture(scope="module")
def prediction():
    return predict.predict(Plan(CONFIG, make_mesh((1, 1, 2)), jnp.float32), workload(LONG), get_method("rapid"), RATES)


@pytest.mark.parametrize("context", [2048, 4096, 16_384])
def test_operations_of_a_chunk_are_those_of_the_formula(context):
    """Cost a token grows only by the attention over what came before.

    Of the chunk itself 10 of 16 tiles are computed, where the formula has half of them.
    """
    config = dataclasses.replace(CONFIG, num_heads=2, num_kv_heads=1, head_dim=128, width=256, ffn_width=1024)
    plan, work = Plan(config, None, jnp.float32), workload(context, chunk=2048)
    start = context - work.chunk
    done = compile_program(prefill_program(plan, work), loop_trips(plan, work, start)).work.flops
    tiles = formulas.attention_flops(config, work.chunk, work.chunk) * (10 / 16 - 1 / 2) / 2
    assert done == pytest.approx(formulas.chunk_flops(plan, start, work.chunk) + tiles, rel=0.02)


@pytest.mark.slow
def test_self_speculation_holds_the_weights_once(prediction):
    lc = memory(prediction.plan, prediction.workload, get_method("lc"))
    assert prediction.memory.weights == lc.weights
    assert prediction.memory.passages > 0 == lc.passages
    assert prediction.memory.peak > prediction.memory.weights + prediction.memory.document


@pytest.mark.slow
def test_a_longer_context_costs_its_keys_and_values(prediction):
    """Costs of other lengths come from one compilation: the bytes of a step grow by the cache's own."""
    rates = Rates(1.0, 1e30, 1e30)
    long, short = (dataclasses.replace(prediction, rates=rates).costs(n).plain for n in (LONG, SHORT))
    kept = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4 / 2  # bytes a token on one of two chips
    assert long - short == pytest.approx((LONG - SHORT) * kept)


def test_costs_of_the_asked_length_are_those_compiled(prediction):
    costs = prediction.costs()
    assert costs.plain == pytest.approx(prediction.plain.work.seconds(RATES))
    assert costs.step(prediction.workload.gamma) == pytest.approx(prediction.step_seconds)
    assert prediction.draft is not None
    assert 0 < costs.draft < costs.plain


def test_prefill_takes_at_least_its_arithmetic(prediction):
    plan, work = prediction.plan, prediction.workload
    flops = sum(formulas.chunk_flops(plan, start, work.chunk) for start in range(0, LONG, work.chunk)) / 2
    assert prediction.prefill_seconds() > flops / RATES.flops_per_second


def test_a_saved_document_holds_keys_and_values_of_all_its_tokens(prediction):
    """From its bytes and the seconds of prefill a user sees which disks open it sooner than it is read."""
    each = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    assert prediction.saved_bytes == each * LONG


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_databases_are_planned_with_the_rows_of_their_candidates(mesh):
    """Without a drafting model: a step reads what plain decoding reads, and computes more rows."""
    hd = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG), get_method("hd"), RATES)
    pld = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG), get_method("pld"), RATES)
    assert hd.draft is None and (hd.rows, hd.longest) == (55, 4) and (pld.rows, pld.longest) == (10, 10)
    assert hd.verify.flops > 3 * pld.verify.flops > 3 * hd.plain.work.flops
    assert hd.step_seconds == pytest.approx(hd.costs().step(55))
    tables_held = hd.memory.tails - memory(hd.plan, hd.workload, get_method("lc")).tails
    assert tables_held >= CONFIG.vocab_size * 7 * 4 * 4 * 2 / mesh[0], "the context database of each row"
    assert collectives(mesh, SHORT, "hd") == collectives(mesh, LONG, "hd")


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_assisted_drafts_take_fewer_and_larger_forwards(mesh):
    """Two tokens a forward: three tokens take one and a half forwards, each over 29 rows of the passages."""
    work = workload(LONG, tokens_per_step=2.0)
    both = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), work, get_method("sd+hd"), RATES)
    sd = predict.predict(Plan(CONFIG, make_mesh(mesh), jnp.float32), work, get_method("sd"), RATES)
    assert both.forwards == 1.5 and both.rows == sd.rows == 3
    assert both.draft.work.flops > 5 * sd.draft.work.flops
    forward = both.draft.work.seconds(RATES)
    took = [both.costs().step(gamma) - both.costs().plain - gamma * both.costs().row for gamma in (0, 1, 2, 4)]
    assert took == pytest.approx([0, forward, forward, 2 * forward]), "a draft of one token takes a whole forward"
    assert both.verify.flops == pytest.approx(sd.verify.flops, rel=0.1), "what remains of a step is the target's"
    assert both.memory.tails > sd.memory.tails and both.memory.passages == sd.memory.passages
    assert "2 tokens" in tables.speed_tables(both)[0].note


@pytest.mark.parametrize("mesh", [(1, 1, 2), slow((2, 2, 2))], ids=str)
def test_auto_is_planned_as_the_sources_it_chooses_from(mesh):
    """Its steps cost what those of pages and copy cost, and it holds what both of them hold."""
    plan, work = Plan(CONFIG, make_mesh(mesh), jnp.float32), workload(LONG, pages=512)
    auto, pages, copy = (predict.predict(plan, work, get_method(name), RATES) for name in ("auto", "pages", "copy"))
    assert auto.costs() == pages.costs() and auto.copied_costs.step(3) == pytest.approx(copy.costs().step(3))
    assert auto.memory.tails > max(pages.memory.tails, copy.memory.tails) and auto.memory.pages == pages.memory.pages
    assert auto.memory.temporaries >= max(pages.memory.temporaries, copy.memory.temporaries)
    assert compiled(mesh, LONG, "auto").memory_analysis().alias_size_in_bytes >= auto.memory.tails, "nothing is copied"
    assert [table.columns[0] for table in tables.speed_tables(auto)] == ["acceptance", "tokens/step"]
    assert [row[0] for row in tables.work_table(auto).rows][-2:] == ["step of auto, own drafts", "step of auto, a copy"]
    assert collectives(mesh, SHORT, "auto") == collectives(mesh, LONG, "auto")


def test_a_method_that_asks_other_texts_alone_is_refused():
    with pytest.raises(ValueError, match="method rest asks a database of other texts, whose size"):
        step_program(Plan(CONFIG, None, jnp.float32), workload(SHORT), get_method("rest"))


def test_the_flag_offers_all_methods_that_are_planned_and_no_other():
    """A method that the planner knows and the flag refuses cannot be planned by anyone."""

    def known(method):
        try:
            check_planned(Plan(CONFIG, None, jnp.float32, kv="planes" if method.name == "planes" else ""), method)
        except ValueError:
            return False
        return True

    assert set(plan_launcher._PLANNED) == {name for name, method in METHODS.items() if known(method)}


def test_weights_read_leave_the_rows_of_the_embedding_out():
    plan = Plan(CONFIG, None, jnp.float32)
    embedding = CONFIG.vocab_size * CONFIG.width * 4
    assert formulas.weights_read(plan) == formulas.bytes_of(plan.params) - embedding
    tied = Plan(dataclasses.replace(CONFIG, tie_embeddings=True), None, jnp.float32)
    assert formulas.weights_read(tied) == formulas.bytes_of(tied.params)
    assert jax.tree.leaves(plan.params)


def test_int8_is_held_as_such_and_the_document_is_read_in_full():
    """Keys and values are rounded once all is read, so that prefill needs their full size."""
    plan, work, rapid = Plan(CONFIG, make_mesh((1, 2, 2)), jnp.float32), workload(SHORT), get_method("rapid")
    full = memory(plan, work, rapid)
    kept = memory(dataclasses.replace(plan, kv="int8"), work, rapid)
    per_slot = CONFIG.head_dim + 4  # bytes of int8 and a scale, for 4 * head_dim of float32
    assert kept.document == pytest.approx(full.document * per_slot / (4 * CONFIG.head_dim), rel=0.01)
    assert kept.document + kept.unread == full.document
    rounded = memory(dataclasses.replace(plan, weights="int8"), work, rapid)
    assert rounded.weights < full.weights / 2  # the embedding is kept


def test_a_drafter_of_other_weights_is_a_copy_and_reads_less():
    plan = Plan(CONFIG, make_mesh((1, 1, 2)), jnp.float32, drafter_weights="int8")
    rapid = get_method("rapid")
    alone = memory(dataclasses.replace(plan, drafter_weights=""), workload(SHORT), rapid)
    assert alone.weights < memory(plan, workload(SHORT), rapid).weights < 1.5 * alone.weights
    assert step_program(plan, workload(SHORT), rapid)
