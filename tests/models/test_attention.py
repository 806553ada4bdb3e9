"""attend() over segments against one dense softmax in float64, in every form that the backend chooses from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import Segment, api, attend, xla
from models.attention.causal import causal
from models.formats import kv_format
from models.sharding import make_mesh
from tests.marks import slow

TOLERANCE = 1e-6  # of the largest output; float32 against float64

attend_jit = jax.jit(attend, static_argnames=("mesh", "backend"))


def dense(q, segments):
    """One softmax over all visible slots of all segments, in float64."""
    q = np.asarray(q, np.float64)
    batch, tokens, heads, head_dim = q.shape
    keys, values, seen = [], [], []
    for segment in segments:
        k, v = (np.broadcast_to(np.asarray(x, np.float64), (batch, *x.shape[1:])) for x in (segment.k, segment.v))
        slots = k.shape[2]
        if segment.length is not None:
            visible = np.arange(slots)[None, None] < np.asarray(segment.length).reshape(-1, 1, 1)
        elif segment.mask is None:
            visible = np.tril(np.ones((tokens, slots), bool))[None]
        else:
            visible = np.asarray(segment.mask).reshape(-1, tokens, slots)
        keys.append(k)
        values.append(v)
        seen.append(np.broadcast_to(visible, (batch, tokens, slots)))
    k, v, seen = np.concatenate(keys, 2), np.concatenate(values, 2), np.concatenate(seen, 2)
    group = heads // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("btnh,bnsh->bnts", q, k) / np.sqrt(head_dim)
    scores = np.where(seen[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bnsh->btnh", weights, v)


def make(seed, *, batch=2, tokens=3, heads=4, kv_heads=2, head_dim=8, context=None, tail=None, mask=None):
    """q and its segments; context and tail are (rows, slots, lengths) with garbage beyond the lengths."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)

    segments = []
    for past in (context, tail):
        if past is not None:
            rows, slots, lengths = past
            k, v = (np.array(normal(rows, kv_heads, slots, head_dim)) for _ in range(2))
            for row, length in enumerate(lengths):
                k[row, :, length:], v[row, :, length:] = 50.0, 1e6
            segments.append(Segment(jnp.asarray(k), jnp.asarray(v), jnp.asarray(lengths, jnp.int32)))
    block = (normal(batch, kv_heads, tokens, head_dim) for _ in range(2))
    segments.append(Segment(*block, mask=None if mask is None else jnp.asarray(mask)))
    return normal(batch, tokens, heads, head_dim), tuple(segments)


def check(q, segments, **kwargs):
    out, expected = np.asarray(attend_jit(q, segments, **kwargs)), dense(q, segments)
    assert out.dtype == np.float32 and out.shape == q.shape
    assert np.abs(out - expected).max() <= TOLERANCE * np.abs(expected).max()


FEW = {
    "shared_context": dict(batch=3, context=(1, 37, [29]), tail=(3, 11, [5, 11, 1])),
    "context_of_each_row": dict(context=(2, 37, [37, 13]), tail=(2, 11, [3, 7])),
    "one_empty_tail": dict(context=(1, 37, [29]), tail=(2, 11, [0, 6])),
    "everything_empty": dict(context=(2, 37, [0, 0]), tail=(2, 11, [0, 0])),
    "one_empty_context": dict(context=(2, 37, [0, 21]), tail=(2, 11, [4, 4])),
    "block_alone": dict(),
    "one_token": dict(tokens=1, context=(1, 37, [30]), tail=(2, 11, [5, 2])),
    "one_row": dict(batch=1, context=(1, 37, [30]), tail=(1, 11, [5])),
    "as_many_kv_heads_as_heads": dict(heads=2, context=(1, 37, [30]), tail=(2, 11, [5, 2])),
    "one_kv_head": dict(kv_heads=1, context=(1, 37, [30]), tail=(2, 11, [5, 2])),
}


@pytest.mark.parametrize("case", FEW)
def test_decoding_equals_one_softmax(case):
    """A wrong merge, length or head group would change every generated token."""
    check(*make(0, **FEW[case]))


MANY = {
    "causal_block": dict(tokens=150, context=(1, 300, [201]), tail=(2, 90, [77, 0])),
    "shared_context_over_two_key_blocks": dict(tokens=140, context=(1, 1500, [1237]), tail=(2, 64, [64, 1])),
    "context_of_each_row_over_two_key_blocks": dict(tokens=70, context=(2, 1500, [1025, 3]), tail=(2, 64, [9, 64])),
    "empty_context": dict(batch=1, tokens=300, context=(1, 256, [0])),
    "query_blocks_that_do_not_divide": dict(batch=1, tokens=1030, heads=2, kv_heads=1, head_dim=4),
}


@pytest.mark.parametrize("case", MANY)
def test_prefill_equals_one_softmax(case):
    """Blocks of keys and queries that no length divides must neither lose nor count twice a slot."""
    arguments = MANY[case]
    q, segments = make(1, **arguments)
    assert q.shape[1] * (q.shape[2] // segments[0].k.shape[1]) > xla.FEW_ROWS
    check(q, segments)


def test_a_context_that_is_full_is_read_to_its_last_slot():
    """Lengths at the edge of a key block: the last block overlaps its neighbour and must not be counted twice."""
    for length in (1023, 1024, 1025, 1500):
        check(*make(2, batch=1, tokens=130, heads=2, kv_heads=1, context=(1, 1500, [length])))


def test_custom_masks_of_the_block():
    """Candidates see their own branch alone; a mask that is ignored would let drafts see each other."""
    rng = np.random.default_rng(3)
    shared = rng.random((5, 5)) < 0.5
    np.fill_diagonal(shared, True)
    past = dict(context=(1, 37, [29]), tail=(2, 11, [5, 0]))
    check(*make(4, tokens=5, mask=shared, **past))
    check(*make(4, tokens=5, mask=np.stack([shared, np.eye(5, dtype=bool)]), **past))


def test_a_token_that_sees_nothing_of_the_block_reads_the_caches_alone():
    """An empty row of the mask has weight 0, not NaN."""
    check(*make(5, tokens=2, mask=np.zeros((2, 2), bool), context=(1, 37, [29])))


def test_a_mask_over_many_rows_is_heeded():
    """Many candidates of many query heads: a causal mask in its place would be wrong silently."""
    mask = np.random.default_rng(6).random((140, 140)) < 0.5
    q, segments = make(6, tokens=140, mask=mask | np.eye(140, dtype=bool))
    check(q, segments)


def test_segments_merge_in_any_order_and_split():
    """Slots are a set: two halves of a context give what the whole gives."""
    q, (context, block) = make(7, batch=1, context=(1, 40, [40]))
    halves = [
        Segment(context.k[:, :, part], context.v[:, :, part], jnp.asarray([20])) for part in (slice(20), slice(20, 40))
    ]
    expected = attend_jit(q, (context, block))
    np.testing.assert_allclose(attend_jit(q, (halves[1], block, halves[0])), expected, atol=1e-6)


@pytest.mark.parametrize("tokens", [150, 1030])
def test_gradient_of_the_causal_form_equals_the_dense_one(tokens):
    """Training goes through a backward pass of our own, tile by tile; 1,030 tokens are three padded tiles."""
    q, (block,) = make(8, batch=2, tokens=tokens, heads=4, kv_heads=2)

    def loss(q, k, v):
        return jnp.sum(jnp.sin(attend(q, (Segment(k, v),))))

    def reference(q, k, v):
        k, v = jnp.repeat(k, 2, axis=1), jnp.repeat(v, 2, axis=1)
        scores = jnp.einsum("btnh,bnsh->bnts", q, k) * q.shape[-1] ** -0.5
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        return jnp.sum(jnp.sin(jnp.einsum("bnts,bnsh->btnh", weights, v)))

    ours = jax.jit(jax.grad(loss, (0, 1, 2)))(q, block.k, block.v)
    theirs = jax.jit(jax.grad(reference, (0, 1, 2)))(q, block.k, block.v)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 5e-6 * np.abs(b).max()


def test_gradient_in_bfloat16_is_that_of_float32_rounded():
    """Products are taken in the keys' precision, sums in float32."""
    q, (block,) = make(8, batch=1, tokens=600, heads=2, kv_heads=1)

    def loss(q, k, v):
        return jnp.sum(jnp.sin(attend(q, (Segment(k, v),))))

    exact = (q, block.k, block.v)
    theirs = jax.jit(jax.grad(loss, (0, 1, 2)))(*exact)
    ours = jax.jit(jax.grad(loss, (0, 1, 2)))(*(x.astype(jnp.bfloat16) for x in exact))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.linalg.norm(a.astype(jnp.float32) - b) <= 0.02 * np.linalg.norm(b)


def test_gradient_of_the_log_sum_exp():
    """It weighs the block against what came before, so it must carry a gradient of its own."""
    rng = np.random.default_rng(9)
    shapes = ((2, 2, 2, 150, 16), (2, 2, 150, 16), (2, 2, 150, 16))
    q, k, v = (jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for shape in shapes)

    def loss(q, k, v):
        out, lse = causal(q, k, v)
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(lse))

    def reference(q, k, v):
        scores = jnp.where(jnp.tril(jnp.ones((150, 150), bool)), jnp.einsum("bkgth,bksh->bkgts", q, k), -jnp.inf)
        out = jnp.einsum("bkgts,bksh->bkgth", jax.nn.softmax(scores), v)
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(jax.nn.logsumexp(scores, axis=-1)))

    ours = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
    theirs = jax.jit(jax.grad(reference, (0, 1, 2)))(q, k, v)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 5e-6 * np.abs(b).max()


@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 1, 2)])
@pytest.mark.parametrize("tokens", [3, 70])
def test_a_mesh_gives_what_one_device_gives(shape, tokens):
    """Rows over data and heads over model, with a shared context and one of each row."""
    mesh = make_mesh(shape)
    for rows, lengths in ((1, [29]), (2, [29, 8])):
        q, segments = make(9, tokens=tokens, heads=8, kv_heads=4, context=(rows, 37, lengths), tail=(2, 11, [0, 7]))
        check(q, segments, mesh=mesh)


@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 2, 2), (1, 8, 1)])
@pytest.mark.parametrize("tokens", [3, 70, 512])  # of 512 every shard takes its share
def test_striped_segments_give_what_one_softmax_gives(shape, tokens):
    """Shards that hold different numbers of slots, one of them none, merge into one softmax."""
    shards = shape[1]
    rng = np.random.default_rng(3)
    for rows in (1, 2):
        filled = rng.integers(1, 9, (rows, shards))
        filled[:, -1] = 0
        q, (context, *rest) = make(
            8, tokens=tokens, heads=8, kv_heads=4, context=(rows, 8 * shards, [8 * shards] * rows), tail=(2, 11, [0, 7])
        )
        k, v = np.array(context.k), np.array(context.v)
        packed_k, packed_v = np.zeros_like(k), np.zeros_like(v)
        for row in range(rows):
            used = [8 * shard + slot for shard in range(shards) for slot in range(filled[row, shard])]
            packed_k[row, :, : len(used)], packed_v[row, :, : len(used)] = k[row][:, used], v[row][:, used]
            unused = [slot for slot in range(8 * shards) if slot not in used]
            k[row][:, unused], v[row][:, unused] = 50.0, 1e6
        striped = Segment(jnp.asarray(k), jnp.asarray(v), jnp.asarray(filled, jnp.int32))
        packed = Segment(packed_k, packed_v, filled.sum(1))
        out, expected = attend_jit(q, (striped, *rest), mesh=make_mesh(shape)), dense(q, (packed, *rest))
        assert np.abs(np.asarray(out) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_single_row_works_on_a_mesh_that_splits_rows():
    """Prefill of one document, and one question, on data=2 hold one row: it cannot be split, it must not fail."""
    mesh = make_mesh((2, 1, 4))
    arguments = dict(batch=1, tokens=3, heads=8, kv_heads=4, context=(1, 37, [29]))
    check(*make(10, **arguments), mesh=mesh)
    check(*make(10, **arguments, mask=np.tril(np.ones((1, 3, 3), bool))), mesh=mesh)


def test_masks_are_split_with_the_rows_on_a_mesh():
    """Each row's candidates keep their own mask."""
    masks = np.stack([np.eye(3, dtype=bool), np.tril(np.ones((3, 3), bool))])
    arguments = dict(tokens=3, heads=8, kv_heads=4, context=(1, 37, [29]))
    check(*make(11, **arguments, mask=masks), mesh=make_mesh((2, 1, 4)))
    check(*make(11, **arguments, mask=masks[1]), mesh=make_mesh((2, 1, 4)))


def test_low_precision_keeps_its_dtype():
    """bfloat16 caches give bfloat16 outputs with float32 softmax: within bfloat16's three digits."""
    q, segments = make(12, context=(1, 37, [29]), tail=(2, 11, [5, 0]))
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, (q, segments))
    out = attend_jit(*low)
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.asarray(out, np.float32) - dense(*low)).max() < 0.02


def test_an_unknown_backend_is_refused_with_the_known_ones():
    """A typing error must not fall back to another backend."""
    q, segments = make(13)
    with pytest.raises(ValueError, match="'cudn' is unknown; known: .*xla") as error:
        attend(q, segments, backend="cudn")
    assert "\n" not in str(error.value)


def test_the_reference_backend_can_be_named():
    """A name forces the backend."""
    check(*make(14, context=(1, 37, [29])), backend="xla")
    assert "xla" in api.BACKENDS


def rounded(segment, kv="int8"):
    """The segment in another format, and the float segment that it stands for."""
    layer = kv_format(kv).quantize_layer(segment.k, segment.v)

    def numbers(name):
        upper, lower = np.asarray(layer[name], np.float32), layer.get(f"{name}_rest")
        return (upper + (0 if lower is None else np.asarray(lower, np.float32) / 16)) * layer[f"{name}_scale"][
            ..., None
        ]

    k = numbers("k")
    if (basis := kv_format(kv).key_basis(k.shape[-1])) is not None:
        k = np.asarray(k) @ basis.T
    return dataclasses.replace(segment, **layer), dataclasses.replace(segment, k=k, v=numbers("v"))


@pytest.mark.parametrize("shape", [None, (1, 1, 4), (2, 2, 2), (1, 4, 1)])
@pytest.mark.parametrize("case", ["shared_context", "context_of_each_row", "prefill", "prefill_shared"])
@pytest.mark.parametrize("kv", ["int8", "planes", slow("int4")])
def test_narrow_contexts_are_what_they_stand_for(case, shape, kv):
    """A scale on another slot, head or shard than its keys would change answers; a mesh must split it with them."""
    tokens, rows = (70 if case.startswith("prefill") else 3), (1 if "shared" in case else 2)
    q, (context, *rest) = make(
        13, tokens=tokens, heads=8, kv_heads=4, context=(rows, 1200, [1200, 900][:rows]), tail=(2, 11, [0, 7])
    )
    small, back = rounded(context, kv)
    mesh = None if shape is None else make_mesh(shape)
    if mesh is not None and shape[1] > 1:
        share = 1200 // shape[1]
        filled = np.clip(np.asarray(context.length)[:, None] - share * np.arange(shape[1]), 0, share)
        small = dataclasses.replace(small, length=jnp.asarray(filled, jnp.int32))
    out, expected = np.asarray(attend_jit(q, (small, *rest), mesh=mesh)), dense(q, (back, *rest))
    assert np.abs(out - expected).max() <= 2 * TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("kv", ["int8", "int4", "planes"])
def test_narrow_contexts_in_low_precision_are_as_good_as_low_precision(kv):
    """bfloat16 holds all steps: converting loses nothing, and the output keeps the queries' dtype."""
    for tokens in (3, 140):
        q, segments = make(14, tokens=tokens, context=(1, 64, [60]))
        q, block = q.astype(jnp.bfloat16), jax.tree.map(lambda x: x.astype(jnp.bfloat16), segments[1])
        small, back = rounded(segments[0], kv)
        out = attend_jit(q, (small, block))
        assert out.dtype == jnp.bfloat16
        assert np.abs(np.asarray(out, np.float32) - dense(q, (back, block))).max() < 0.03
