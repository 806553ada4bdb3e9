"""The TPU kernels compiled for a TPU topology on any machine with libtpu: what they move and what they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.attention import tpu
from models.formats.base import item_bytes

SLOTS = 131_072


@pytest.fixture(scope="module")
def mesh():
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        patch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
        devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    return Mesh(np.array(devices[:1]).reshape(1, 1, 1), ("data", "context", "model"), axis_types=(AxisType.Auto,) * 3)


KINDS = {"": jnp.bfloat16, "int8": jnp.int8, "int4": jnp.int4, "planes": jnp.int4}


def compiled(mesh, q_shape, slots, kv):
    """One layer's attention of q [B,K,G,T,H] over its cache (None: over itself), and the bytes of the keys and values."""
    here = NamedSharding(mesh, P())

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    batch, kv_heads, _, tokens, head_dim = q_shape
    held = array((batch, kv_heads, slots or tokens, head_dim), KINDS[kv])
    length = array((batch,), jnp.int32) if slots else None
    stored = dict.fromkeys(("k_scale", "v_scale"), array(held.shape[:3], jnp.float32)) if kv else {}
    stored |= dict.fromkeys(("k_rest", "v_rest"), held) if kv == "planes" else {}

    def one_layer(q, k, v, length, stored):
        return tpu.attend_segment(q, k, v, length, None, **stored)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # tells Pallas which chip it compiles for
        program = jax.jit(one_layer).lower(array(q_shape, jnp.bfloat16), held, held, length, stored).compile()
    return program, (4 if kv == "planes" else 2) * held.size * item_bytes(held.dtype)


DECODING = {  # 11 queries of every head of a group
    "llama31_8b": (1, 8, 4, 11, 128),
    "qwen25_7b": (1, 4, 7, 11, 128),
    "qwen25_72b": (1, 8, 8, 11, 128),
    "llama32_1b": (1, 8, 4, 11, 64),
}


@pytest.mark.parametrize("kv", KINDS)
@pytest.mark.parametrize("model", DECODING)
def test_a_decoding_step_reads_its_keys_and_values_once(mesh, model, kv):
    """At 128K tokens the cache is most of what a step reads; a copy of it would not fit beside it."""
    program, kv_bytes = compiled(mesh, DECODING[model], SLOTS, kv)
    batch, kv_heads, *_ = DECODING[model]
    scales = batch * kv_heads * SLOTS * 8 / kv_bytes if kv else 0  # two float32 a slot
    most = 1.03 if kv == "int4" else 1.02  # queries and outputs weigh more beside fewer bytes
    assert kv_bytes < program.cost_analysis()["bytes accessed"] <= (most + scales) * kv_bytes
    assert program.memory_analysis().temp_size_in_bytes < 0.01 * kv_bytes


@pytest.mark.parametrize("model", DECODING)
def test_a_prefill_chunk_reads_what_came_before_once_and_counts_its_arithmetic(mesh, model):
    """1,024 queries of a group share each key block; FLOPs are counted as they are, so that a plan can be trusted."""
    batch, kv_heads, group, _, head_dim = DECODING[model]
    program, kv_bytes = compiled(mesh, (batch, kv_heads, group, 1024, head_dim), SLOTS, "")
    cost, queries = program.cost_analysis(), kv_heads * group * 1024
    assert kv_bytes < cost["bytes accessed"] <= kv_bytes + 20 * queries * max(head_dim, 128)
    assert program.memory_analysis().temp_size_in_bytes < 0.01 * kv_bytes
    np.testing.assert_allclose(cost["flops"], 4 * queries * SLOTS * head_dim, rtol=0.01)


CASES = {
    "causal": ((1, 8, 4, 1024, 128), None),
    "causal_padded": ((2, 4, 7, 300, 64), None),
    "head_dim_80": ((2, 4, 2, 11, 80), 4096),
    "head_dim_96": ((2, 4, 2, 11, 96), 4096),
    "head_dim_256": ((1, 2, 4, 11, 256), 4096),
    "a_tail_that_divides_nothing": ((4, 8, 4, 11, 128), 300),
    "one_row": ((1, 8, 1, 1, 128), 1000),
    "two_query_tiles": ((1, 1, 8, 2048, 128), 4096),
    "prefill_head_dim_80": ((1, 2, 4, 300, 80), 4096),
}


@pytest.mark.parametrize("case", CASES)
def test_every_shape_compiles_without_a_copy(mesh, case):
    """Mosaic accepts the tilings of all supported head_dims, and XLA hands the arrays over in place."""
    q_shape, slots = CASES[case]
    for kv in KINDS if slots else ("",):
        program, _ = compiled(mesh, q_shape, slots, kv)
        assert program.memory_analysis().temp_size_in_bytes < 2**16
