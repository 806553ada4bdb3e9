"""The striped context on meshes of eight host devices: logits and tokens of one device, traffic that no length moves."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import ModelConfig, init_params
from models.decoder import Decoder
from models.pages import Pages
from models.sharding import make_mesh
from rapid_jax.config.hierarchy import HierarchyConfig
from rapid_jax.copying.drafter import CopyDrafter, make_memory
from rapid_jax.decoding.drafter import Pace
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.pacing import without_costs
from rapid_jax.decoding.prefill import context_chunk, next_positions, prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.decoding.step import step
from rapid_jax.drafting import LanguageModelDrafter, MagicDecDrafter, NullDrafter, PagesDrafter
from rapid_jax.drafting.magicdec import take_window
from rapid_jax.drafting.pages import begin_pages
from rapid_jax.hierarchy.drafter import HierarchyDrafter
from rapid_jax.hierarchy.row_databases import Hierarchy
from rapid_jax.hierarchy.setup import make_row_databases
from tests.marks import quick, slow

SLOW = [(1, 2, 1), (1, 4, 1), (1, 8, 1), (2, 2, 2)]
MESHES = [(1, 4, 2), *map(slow, SLOW)]
CHUNK, VOCAB = 64, 64
FAMILIES = {
    "llama": dict(family="llama", num_heads=4, num_kv_heads=2),
    "qwen": dict(family="qwen2", num_heads=8, num_kv_heads=2, qkv_bias=True, tie_embeddings=True),
}


def ids(seed, length):
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


DOCUMENT = ids(0, 301)
QUESTIONS = [ids(1, 7), ids(2, 13), ids(3, 2), ids(4, 9)]
PASSAGES = [ids(5, 45), ids(6, 83), ids(7, 33), ids(8, 64)]  # rows that end in different chunks


@functools.cache
def make_decoder(family, shape):
    mesh = None if shape is None else make_mesh(shape)
    config = ModelConfig(
        vocab_size=VOCAB, width=32, ffn_width=48, num_layers=2, head_dim=8, max_position=4096, **FAMILIES[family]
    )
    return Decoder(config, jnp.float32, mesh), init_params(config, seed=3, dtype="float32", mesh=mesh)


def rows_of(rows, shape):
    """Rows as the Engine fills them up: a multiple of the mesh's data axis."""
    data = 1 if shape is None else shape[0]
    return [index if index < rows else 0 for index in range(-(-rows // data) * data)]


@functools.cache
def read(family, shape, rows):
    """(context, tails, the passages' context, its tails) of the first `rows` questions."""
    decoder, params = make_decoder(family, shape)
    programs, common = Programs(), dict(chunk=CHUNK, dtype=jnp.float32, mesh=decoder.mesh)
    held = []
    for documents, keep in (([DOCUMENT], 1), ([PASSAGES[row] for row in rows_of(rows, shape)], 2)):
        context = prefill_context(programs, decoder, params, documents, **common)
        questions = [QUESTIONS[row][:-keep] for row in rows_of(rows, shape)]
        held += [context, prefill_tail(programs, decoder, params, context, questions, capacity=64, **common)]
    return tuple(held)


def logits(family, shape, rows, passages):
    """Of a block of three tokens behind the document, or behind each row's passages, and the question."""
    decoder, params = make_decoder(family, shape)
    held = read(family, shape, rows)
    context, tail = held[2:] if passages else held[:2]
    tokens = jnp.asarray([ids(9 + row, 3) for row in rows_of(rows, shape)], jnp.int32)

    @jax.jit
    def forward(params, tokens, context, tail):
        positions = next_positions(3, context, tail)
        return decoder.apply({"params": params}, tokens, positions, context, tail, method="forward_logits")[0]

    return np.asarray(forward(params, tokens, context, tail))[:rows]


def start(family, shape, rows, drafts):
    """(spec, parameters, context, what the drafter reads, state) of greedy decoding."""
    decoder, params = make_decoder(family, shape)
    context, tail, passages, passages_tail = read(family, shape, rows)
    drafter, model, cache = NullDrafter(VOCAB), (), ()
    if drafts == "chain":
        drafter, model, cache = LanguageModelDrafter(decoder, 4, VOCAB), (params, passages), passages_tail
    if drafts == "window":
        sizes = dict(tokens=[len(DOCUMENT)], chunk=CHUNK, sinks=4, window=90, mesh=decoder.mesh)
        sinks, cache = take_window(Programs(), context, tail, **sizes)
        drafter, model = MagicDecDrafter(decoder, 4, VOCAB), (params, sinks)
    if drafts == "pages":  # all of them: of fewer each shard would choose its share
        cut = Pages.of(context, 4, context.capacity)
        drafter, model = PagesDrafter(decoder, 4, VOCAB, pages=cut, renewal=2), (params, context)
        cache = begin_pages(context, tail, cut, decoder.mesh)
    if drafts == "candidates":
        config = HierarchyConfig(databases=("context",), candidates=3, length=2, ngram=3, window=3)
        hierarchy = Hierarchy(("context",), candidates=3, length=2, rows=6, ngram=3, lookahead=3, match=2)
        drafter, model = HierarchyDrafter(hierarchy), {}
        prompts = [DOCUMENT + QUESTIONS[row] for row in rows_of(rows, shape)]
        cache = make_row_databases(
            hierarchy, config, prompts, vocab_size=VOCAB, new_tokens=24, seed=0, mesh=decoder.mesh
        )
    if drafts == "copies":
        drafter = CopyDrafter((2, 5), places=4)
        pinned = without_costs(3, None if decoder.mesh is None else NamedSharding(decoder.mesh, P()))
        model = Pace(pinned.costs, pinned.pinned + 2)  # the longest, whatever it costs here
        prompts = [DOCUMENT + QUESTIONS[row] for row in rows_of(rows, shape)]
        cache = make_memory(prompts, new_tokens=24, longest=5, mesh=decoder.mesh)
    state = initial_state(
        np.array([QUESTIONS[row][-2:] for row in rows_of(rows, shape)], np.int32),
        copied(tail),
        copied(cache),
        budget=np.full(len(rows_of(rows, shape)), 24, np.int32),
        capacity=32,
        seed=0,
        num_sources=len(drafter.sources),
        mesh=decoder.mesh,
    )
    spec = StepSpec(decoder, drafter)
    return spec, params, context, model, state


def copied(tree):
    return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), x.sharding), tree)


@functools.cache
def generate(family, shape, rows, drafts):
    """(24 greedy tokens of every row, steps that it took)."""
    spec, params, context, model, state = start(family, shape, rows, drafts)
    bursts = decode(
        Programs(), spec, params, context, model, Controls.of(), state, burst_steps=8, mesh=spec.target.mesh
    )
    *_, last = bursts
    return np.asarray(last.output)[:rows, :24], np.asarray(last.counters.steps)[:rows]


@pytest.mark.slow
@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("family", quick(FAMILIES, "llama"))
@pytest.mark.parametrize("rows", [slow(1), 4])
def test_logits_are_those_of_one_device(rows, family, shape):
    """Behind a document that all rows share and behind passages of each row, of lengths that divide nothing."""
    for passages in (False, True):
        expected = logits(family, None, rows, passages)
        np.testing.assert_allclose(logits(family, shape, rows, passages), expected, atol=2e-4)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("family", quick(FAMILIES, "llama"))
@pytest.mark.parametrize("rows", [slow(1), 4])
@pytest.mark.parametrize("drafts", ["chain", "copies", "pages", slow("window"), slow("candidates")])
def test_greedy_tokens_are_those_of_one_device(family, shape, drafts, rows):
    """The whole step, drafts of a model, of copies, of the target itself and of a database with its window."""
    expected, steps = generate(family, None, rows, drafts)
    tokens, steps_on_mesh = generate(family, shape, rows, drafts)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(steps_on_mesh, steps)
    np.testing.assert_array_equal(tokens, generate(family, None, rows, "none")[0])


def compiled_step(capacity):
    """The compiled chain step of four rows over a context of so many slots."""
    spec, params, context, model, state = start("llama", (2, 2, 2), 4, "chain")

    def longer(x):
        if x.ndim != 4 or x.shape[2] != context.capacity:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        return jax.ShapeDtypeStruct((*x.shape[:2], capacity, x.shape[3]), x.dtype, sharding=x.sharding)

    jitted = jax.jit(functools.partial(step, spec), donate_argnums=4)
    return jitted.lower(params, jax.tree.map(longer, context), model, Controls.of(), state).compile()


def compiled_chunk(capacity):
    """The compiled prefill chunk into a context of so many slots."""
    decoder, params = make_decoder("llama", (2, 2, 2))
    (context, *_) = read("llama", (2, 2, 2), 4)

    def longer(x):
        shape = x.shape if x.ndim != 4 else (*x.shape[:2], capacity, x.shape[3])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)

    cache = jax.tree.map(longer, context)
    shardings = jax.tree.map(lambda x: x.sharding, cache)
    jitted = jax.jit(functools.partial(context_chunk, decoder), donate_argnums=1, out_shardings=shardings)
    tokens, scalar = jax.ShapeDtypeStruct((1, CHUNK), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    return jitted.lower(params, cache, tokens, scalar, jax.ShapeDtypeStruct((1,), jnp.int32)).compile(), cache


def collectives(compiled):
    """Lines of the compiled program that move data between devices, with their shapes."""
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return sorted(re.findall(rf"= (\S+|\(.*?\)) (?:{names})(?:-start)?\(", compiled.as_text()))


@pytest.mark.slow
def test_traffic_between_devices_does_not_depend_on_the_context():
    """Queries and log-sum-exps travel, never keys or values: the same collectives at 1,024 and at 8,192 slots."""
    short, long = collectives(compiled_step(1024)), collectives(compiled_step(8192))
    assert len(short) > 4 and short == long
    assert not any("1024" in shape or "512" in shape for shape in short)
    short, long = (collectives(compiled_chunk(slots)[0]) for slots in (1024, 8192))
    assert len(short) > 4 and short == long


@pytest.mark.slow
def test_a_striped_context_is_written_in_place():
    """A chunk that copied the cache would need it twice."""
    compiled, cache = compiled_chunk(8192)
    own = sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in (*cache.k, *cache.v))
    assert compiled.memory_analysis().alias_size_in_bytes >= own
