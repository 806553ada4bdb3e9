"""A Pallas TPU kernel of attention with log-sum-exp: online softmax over key blocks (arXiv 2307.08691).

One kernel serves decoding and prefill. The grid is (row, KV heads, query tile, key block), key blocks innermost: the
running output, maximum and sum of a query tile stay in VMEM while the keys stream by, and the largest query tile that
VMEM holds is taken, so that decoding, and a prefill chunk of up to MAX_ROWS rows, read the keys and values once. Blocks
beyond a row's length are neither fetched (their index is that of the last block in use) nor computed.

A head_dim that is no multiple of 128 lanes would be padded to it in the layout of a kernel's operand, by a copy of the
cache. XLA keeps such arrays with the slots along the lanes; seen as [B,K,H,S] they are read in place.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from models.attention.online_softmax import MASKED
from models.formats import PLANE
from models.formats.base import item_bytes

LANES = 128
MAX_ROWS = 8192  # of a query tile at head_dim 128: 22 MB of VMEM; a v4, which has 16, compiles decoding alone
SUB_ROWS = 256  # rows of a query tile whose scores exist at once
HEADS_BYTES = 2**20  # of the keys of one grid step, when it takes several heads
VMEM_BYTES = 96 * 2**20  # a limit; a v5e or v6e core has 128 MB


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a call is cut; all sizes static.

    Attributes:
      heads: KV heads of a grid step.
      tile: tokens of a query tile, of all G heads of the group.
      sub: tokens of one head whose scores exist at once.
      tokens: T, padded to whole tiles.
      block: slots of a key block.
    """

    heads: int
    tile: int
    sub: int
    tokens: int
    block: int

    def scale_heads(self, kv_heads: int) -> int:
        """KV heads whose scales a grid step fetches: a block of part of them must be of a multiple of 8."""
        return self.heads if self.heads % 8 == 0 else kv_heads


def tiling(
    kv_heads: int, group: int, tokens: int, slots: int, head_dim: int, itemsize: float, *, causal: bool = False
) -> Tiling:
    """The tiling of a call with q [_,K,G,T,H] and keys [_,K,S,H] whose numbers have `itemsize` bytes.

    A causal call computes whole key blocks on the diagonal, so that smaller ones spare more of what is hidden there.
    """
    most = max(SUB_ROWS, MAX_ROWS * LANES // max(head_dim, LANES) // group)
    if tokens <= LANES:
        sub = tile = padded = -(-tokens // 16) * 16  # 16 rows are a bfloat16 tile
    else:
        tiles = -(-tokens // most)
        tile = -(-tokens // (tiles * LANES)) * LANES
        sub = SUB_ROWS if tile % SUB_ROWS == 0 else LANES
        padded = tiles * tile
    few = group * tile <= 4 * SUB_ROWS
    block = min(slots, 512 if few or causal else 1024)
    heads = 1
    if few:
        room = HEADS_BYTES // (block * max(head_dim, LANES) * itemsize)
        heads = max(n for n in range(1, kv_heads + 1) if kv_heads % n == 0 and (n == 1 or n <= room))
    return Tiling(heads, tile, sub, padded, block)


def flash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    k_scale: jax.Array | None = None,
    v_scale: jax.Array | None = None,
    k_rest: jax.Array | None = None,
    v_rest: jax.Array | None = None,
    *,
    causal: bool = False,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Attention of every query to the first `length` slots, and if causal to none after its own token.

    Args:
      q: [B,K,G,T,H], scaled, bfloat16 or float32.
      k, v: [B,K,S,H] of q's dtype, or int8 or int4.
      length: int32 [B].
      k_scale, v_scale: float32 [B,K,S], of int8 and int4 k and v.
      k_rest, v_rest: the lower planes of int4 k and v, or None.
      causal: token t sees slots up to t.
      interpret: runs on any platform, slowly.

    Returns:
      (float32 [B,K,G,T,H], log-sum-exp float32 [B,K,G,T]); of length 0, output 0 and about MASKED.
    """
    batch, kv_heads, group, tokens, head_dim = q.shape
    slots = k.shape[2]
    planes = [k, v] if k_rest is None or v_rest is None else [k, v, k_rest, v_rest]
    number_bytes = item_bytes(k.dtype) * len(planes) / 2
    cut = tiling(kv_heads, group, tokens, slots, head_dim, number_bytes, causal=causal)
    if cut.tokens > tokens:
        q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, cut.tokens - tokens), (0, 0)))
    wide = -(-cut.tile // LANES) * LANES  # of the log-sum-exp, which lies along the lanes
    tiles, blocks = cut.tokens // cut.tile, -(-slots // cut.block)

    def queries(b, h, i, j, length):
        return b, h, 0, i, 0

    def in_use(b, j, length):
        return jnp.minimum(j, jnp.maximum((length[b] + cut.block - 1) // cut.block - 1, 0))

    slots_minor = head_dim % LANES != 0
    if slots_minor:
        planes = [jnp.swapaxes(x, 2, 3) for x in planes]
        keys = pl.BlockSpec((None, cut.heads, head_dim, cut.block), lambda b, h, i, j, n: (b, h, 0, in_use(b, j, n)))
    else:
        keys = pl.BlockSpec((None, cut.heads, cut.block, head_dim), lambda b, h, i, j, n: (b, h, in_use(b, j, n), 0))
    apart = True
    in_specs = [pl.BlockSpec((None, cut.heads, group, cut.tile, head_dim), queries), *[keys] * len(planes)]
    inputs = [q, *planes]
    if k_scale is not None and v_scale is not None:
        apart = cut.scale_heads(kv_heads) == cut.heads
        scales = pl.BlockSpec(
            (None, cut.scale_heads(kv_heads), cut.block),
            lambda b, h, i, j, n: (b, h if apart else 0, in_use(b, j, n)),
        )
        in_specs += [scales, scales]
        inputs += [k_scale, v_scale]
    out, lse = pl.pallas_call(
        functools.partial(
            _kernel,
            cut=cut,
            group=group,
            causal=causal,
            slots_minor=slots_minor,
            apart=apart,
            planes=len(planes) // 2,
            scaled=k_scale is not None,
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, kv_heads // cut.heads, tiles, blocks),
            in_specs=in_specs,
            out_specs=[
                pl.BlockSpec((None, cut.heads, group, cut.tile, head_dim), queries),
                pl.BlockSpec((None, cut.heads, group, wide), lambda b, h, i, j, n: (b, h, 0, i)),
            ],
            scratch_shapes=[pltpu.VMEM((cut.heads, group, cut.tile, LANES), jnp.float32)] * 2,
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct((batch, kv_heads, group, tiles * wide), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=cost(q.shape, slots, q.dtype, number_bytes, cut, causal=causal, scaled=k_scale is not None),
        interpret=interpret,
        name="flash_causal" if causal else "flash",
    )(length.astype(jnp.int32), *inputs)
    return out[:, :, :, :tokens], lse[:, :, :, :tokens]


def cost(
    shape: tuple[int, ...],
    slots: int,
    dtype: jnp.dtype,
    number_bytes: float,
    cut: Tiling,
    *,
    causal: bool = False,
    scaled: bool = False,
) -> pl.CostEstimate:
    """What a call over full lengths computes and moves: every key block is fetched once a query tile.

    Args:
      shape: q's, padded.
      slots: S.
      dtype: of q.
      number_bytes: of a number of the keys and values, in all planes.
      cut: see there.
      causal: whether what lies behind a token is left out.
      scaled: whether slots have scales.
    """
    batch, kv_heads, group, tokens, head_dim = shape
    pairs = tokens * slots
    if causal:
        starts = range(0, tokens, cut.sub)
        pairs = sum(cut.sub * min(slots, -(-(start + cut.sub) // cut.block) * cut.block) for start in starts)
    scores = batch * kv_heads * group * pairs
    rows = batch * kv_heads * group * tokens
    past = round(batch * kv_heads * slots * 2 * head_dim * number_bytes)
    steps = kv_heads // cut.heads
    scales = batch * steps * cut.scale_heads(kv_heads) * slots * 2 * 4 if scaled else 0
    q_bytes = dtype.itemsize
    return pl.CostEstimate(
        flops=4 * scores * head_dim,
        transcendentals=scores,
        bytes_accessed=(past + scales) * (tokens // cut.tile) + rows * (head_dim * (q_bytes + 4) + 4),
    )


def _kernel(
    length_ref,
    q_ref,
    *refs,
    cut: Tiling,
    group: int,
    causal: bool,
    slots_minor: bool,
    apart: bool,
    planes: int,
    scaled: bool,
) -> None:
    """One grid step: q [heads,G,tile,H] against k and v [heads,block,H], or [heads,H,block] with slots_minor.

    The output block holds the running output, divided by the sum of weights at the end. The scales are those of this
    step's heads, or, unless apart, of all. With two planes, the lower ones follow k and v.
    """
    key_refs, value_refs = refs[: 2 * planes : 2], refs[1 : 2 * planes : 2]
    *scale_refs, out_ref, lse_ref, top_ref, total_ref = refs[2 * planes :]
    tile_index, block_index = pl.program_id(2), pl.program_id(3)
    length = length_ref[pl.program_id(0)]
    first_scale = 0 if apart else pl.program_id(1) * cut.heads
    slot_axis, head_dim_axis = (1, 0) if slots_minor else (0, 1)
    block_start = block_index * cut.block
    subs = cut.tile // cut.sub

    @pl.when(block_index == 0)
    def _start():
        top_ref[...] = jnp.full_like(top_ref, MASKED)
        total_ref[...] = jnp.zeros_like(total_ref)
        out_ref[...] = jnp.zeros_like(out_ref)

    def see(head: int, g: Any, sub: Any, edge: bool) -> None:
        """Adds this key block to rows [sub * cut.sub, ...) of one query head; at an edge some slots are hidden."""
        rows = pl.ds(pl.multiple_of(sub * cut.sub, cut.sub), cut.sub) if subs > 1 else slice(None)
        at = (head, g, rows)
        q, keys, values = q_ref[at], key_refs[0][head], value_refs[0][head]
        precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
        if scaled:
            keys = _widened([ref[head] for ref in key_refs], q.dtype)
        scores = jax.lax.dot_general(
            q, keys, (((1,), (head_dim_axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
        )
        if scaled:
            scores = scores * scale_refs[0][pl.ds(first_scale + head, 1), :]
        if edge:
            slot = block_start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
            seen = slot < length
            if causal:
                token = tile_index * cut.tile + sub * cut.sub + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
                seen &= slot <= token
            scores = jnp.where(seen, scores, MASKED)
        old_top = top_ref[at]
        top = jnp.maximum(old_top, jnp.max(scores, axis=-1, keepdims=True))
        weights, shrink = jnp.exp(scores - top[:, :1]), jnp.exp(old_top - top)
        top_ref[at] = top
        total_ref[at] = total_ref[at] * shrink + jnp.sum(weights, axis=-1, keepdims=True)
        if scaled:
            value_scale = scale_refs[1][pl.ds(first_scale + head, 1), :]
            if edge:
                value_scale = jnp.where(seen[:1], value_scale, 0.0)  # beyond the array is anything, NaN included
            weights, values = weights * value_scale, _widened([ref[head] for ref in value_refs], q.dtype)
        elif edge:
            slot = block_start + jax.lax.broadcasted_iota(jnp.int32, values.shape, slot_axis)
            values = jnp.where(slot < length, values.astype(jnp.float32), 0.0).astype(values.dtype)
        out_ref[at] = out_ref[at] * shrink[:, :1] + jax.lax.dot_general(
            weights.astype(values.dtype),
            values,
            (((1,), (slot_axis,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    def see_all(edge: bool, first_sub: Any = 0) -> None:
        count = subs - first_sub
        for head in range(cut.heads):
            if group * subs == 1:
                see(head, 0, 0, edge)
            else:
                each = functools.partial(see_one, head, count, first_sub, edge)
                jax.lax.fori_loop(0, group * count, each, None)

    def see_one(head: int, count: Any, first_sub: Any, edge: bool, n: jax.Array, _: None) -> None:
        see(head, n // count, first_sub + n % count, edge)

    whole = block_start + cut.block <= length
    if causal:  # a key block is hidden from the sub-tiles before it, partly from those on the diagonal
        offset = tile_index * cut.tile
        first = jnp.clip((block_start - offset) // cut.sub, 0, subs)
        pl.when((first < subs) & (block_start < length))(lambda: see_all(True, first))
    else:
        pl.when(whole)(lambda: see_all(False))
        pl.when(jnp.logical_not(whole) & (block_start < length))(lambda: see_all(True))

    @pl.when(block_index == pl.num_programs(3) - 1)
    def _finish():
        for head in range(cut.heads):
            for g in range(group):
                _finish_rows(out_ref, lse_ref, top_ref, total_ref, head, g)


def _widened(planes: list[jax.Array], dtype: jnp.dtype) -> jax.Array:
    """Int8, int4 or two planes of int4 in the dtype of the products, exactly."""
    upper, *rest = (x.astype(jnp.float32) for x in planes)
    return (upper + rest[0] / PLANE if rest else upper).astype(dtype)


def _finish_rows(out_ref, lse_ref, top_ref, total_ref, head: int, g: int) -> None:
    """Divides by the sum and writes the log-sum-exp along the lanes."""
    tile = out_ref.shape[2]
    for start in range(0, tile, LANES):
        at = (head, g, slice(start, min(start + LANES, tile)))
        total = jnp.maximum(total_ref[at], 1e-37)
        out_ref[at] = out_ref[at] / total[:, :1]
        lse = top_ref[at] + jnp.log(total)  # the same in all lanes
        lane, row = (jax.lax.broadcasted_iota(jnp.int32, lse.shape, axis) for axis in (1, 0))
        column = jnp.sum(jnp.where(lane == row, lse, 0.0), axis=0, keepdims=True)
        lse_ref[head, g : g + 1, start : start + LANES] = column
