"""Every attention backend against the reference: output and log-sum-exp of one segment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import Segment, api, attend, flash_tpu, gpu, tpu, xla
from models.formats import kv_format
from models.formats.widening import restore
from tests.marks import slow

INTERPRETED = {
    "tpu": functools.partial(tpu.attend_segment, interpret=jax.default_backend() != "tpu"),
    "gpu": gpu.attend_segment,
}
TOLERANCE = {jnp.float32: 2e-6, jnp.bfloat16: 0.02}  # of the largest output; 8 bits of a bfloat16 weight

CASES = {
    "decoding": dict(batch=1, kv_heads=2, group=4, tokens=11, head_dim=128, slots=700, lengths=[611]),
    "shared": dict(batch=3, kv_heads=2, group=2, tokens=3, head_dim=64, slots=1300, lengths=[1025]),
    "many_shared_rows": dict(batch=5, kv_heads=1, group=7, tokens=11, head_dim=16, slots=600, lengths=[513]),
    "rows_of_their_own": dict(batch=3, kv_heads=2, group=7, tokens=5, head_dim=80, slots=1100, lengths=[1, 1100, 512]),
    "an_empty_row": dict(batch=2, kv_heads=2, group=1, tokens=1, head_dim=96, slots=90, lengths=[0, 77]),
    "wide_heads": dict(batch=1, kv_heads=1, group=4, tokens=2, head_dim=256, slots=530, lengths=[525]),
    "one_slot_over_a_block": dict(batch=1, kv_heads=1, group=2, tokens=2, head_dim=16, slots=1024, lengths=[513]),
    "heads_in_several_steps": dict(batch=1, kv_heads=32, group=1, tokens=2, head_dim=128, slots=600, lengths=[600]),
    "prefill": dict(batch=1, kv_heads=2, group=3, tokens=300, head_dim=16, slots=2100, lengths=[2051]),
    "prefill_with_an_empty_row": dict(batch=2, kv_heads=1, group=2, tokens=130, head_dim=64, slots=200, lengths=[0, 9]),
    "causal": dict(batch=2, kv_heads=2, group=2, tokens=300, head_dim=16),
    "causal_over_two_key_blocks": dict(batch=1, kv_heads=1, group=2, tokens=1100, head_dim=16),
    "causal_few": dict(batch=2, kv_heads=2, group=4, tokens=11, head_dim=16),
}


def make(seed, *, batch, kv_heads, group, tokens, head_dim, slots=None, lengths=None, dtype=jnp.float32, kv=""):
    """Arguments of attend_segment, and those of a narrow format; what lies beyond the lengths is garbage."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(0, 1, shape).astype(np.float32)

    rows = batch if lengths is None else len(lengths)
    k, v = (normal(rows, kv_heads, slots or tokens, head_dim) for _ in range(2))
    for row, length in enumerate(lengths or []):
        k[row, :, length:], v[row, :, length:] = 50.0, 1e6
    q = jnp.asarray(normal(batch, kv_heads, group, tokens, head_dim), dtype)
    length = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    if not kv:
        return (q, jnp.asarray(k, dtype), jnp.asarray(v, dtype), length, None), {}
    stored = kv_format(kv).quantize_layer(jnp.asarray(k), jnp.asarray(v))
    return (q, stored.pop("k"), stored.pop("v"), length, None), stored


def exact(q, k, v, length, mask, k_scale=None, v_scale=None, k_rest=None, v_rest=None):
    """The reference in float32, of what the backend was given."""
    k, v = restore(k, "float32", scale=k_scale, rest=k_rest), restore(v, "float32", scale=v_scale, rest=v_rest)
    return jax.jit(xla.attend_segment)(q.astype(jnp.float32), k, v, length, mask)


def check(backend, arguments, stored):
    q, length = arguments[0], arguments[3]
    try:
        out, lse = jax.jit(INTERPRETED[backend])(*arguments, **stored)
    except NotImplementedError as error:
        assert backend != "tpu" and "\n" not in str(error)
        pytest.skip(str(error))
    expected, expected_lse = exact(*arguments, **stored)
    assert out.dtype == lse.dtype == jnp.float32
    assert out.shape == q.shape and lse.shape == q.shape[:-1]
    assert np.isfinite(out).all()
    seen = np.ones(q.shape[0], bool) if length is None else np.broadcast_to(np.asarray(length) > 0, q.shape[:1])
    assert (np.asarray(lse)[~seen] < -1e29).all()
    tolerance = TOLERANCE[q.dtype.type]
    error, lse_error = np.abs(out - expected)[seen], np.abs(lse - expected_lse)[seen]
    assert error.max() <= tolerance * np.abs(expected)[seen].max()
    assert lse_error.max() <= max(tolerance, 5e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", INTERPRETED)
def test_every_backend_equals_the_reference(backend, case):
    """Lengths that divide nothing, empty rows, shared contexts: a slot lost or counted twice changes every answer."""
    check(backend, *make(0, **CASES[case]))


@pytest.mark.parametrize("case", ["decoding", "shared", "an_empty_row", "prefill", "causal"])
@pytest.mark.parametrize("backend", INTERPRETED)
def test_every_backend_in_bfloat16(backend, case):
    """Accelerators hold weights and caches in bfloat16."""
    check(backend, *make(1, **CASES[case], dtype=jnp.bfloat16))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "case", ["decoding", "shared", "rows_of_their_own", "an_empty_row", slow("heads_in_several_steps"), slow("prefill")]
)
@pytest.mark.parametrize("kv", ["int8", "planes", slow("int4")])
@pytest.mark.parametrize("backend", INTERPRETED)
def test_every_backend_reads_narrow_formats(backend, kv, case, dtype):
    """A scale that is applied to another head's or token's keys would pass unseen in speed and ruin the answers."""
    check(backend, *make(2, **CASES[case], dtype=dtype, kv=kv))


@pytest.mark.parametrize("backend", INTERPRETED)
def test_every_backend_heeds_a_mask(backend):
    """Candidates must not see each other."""
    arguments, _ = make(3, batch=2, kv_heads=2, group=2, tokens=70, head_dim=16)
    mask = jnp.asarray(np.random.default_rng(3).random((2, 70, 70)) < 0.5) | jnp.eye(70, dtype=bool)[None]
    check(backend, (*arguments[:4], mask), {})


def test_query_tiles_of_a_call_that_one_tile_does_not_hold(monkeypatch):
    """Long chunks of large groups are cut, causal ones too: each tile starts anew and knows where it lies."""
    monkeypatch.setattr(flash_tpu, "MAX_ROWS", 768)
    for case in ("prefill", "causal_over_two_key_blocks"):
        arguments, _ = make(4, **CASES[case])
        q, k = arguments[:2]
        _, kv_heads, group, tokens, head_dim = q.shape
        shape = (kv_heads, group, tokens) if case.startswith("causal") else (kv_heads, 1, group * tokens)
        cut = flash_tpu.tiling(*shape, k.shape[2], head_dim, 4)
        assert cut.tile < cut.tokens
        check("tpu", arguments, {})


def test_gradient_of_the_causal_block_on_a_tpu():
    """Training on a TPU picks this backend."""
    (q, k, v, *_), _ = make(5, batch=1, kv_heads=1, group=2, tokens=140, head_dim=16)

    def loss(attend_segment, *qkv):
        out, lse = attend_segment(*qkv, None, None)
        return jnp.sum(jnp.sin(out)) + jnp.sum(jnp.cos(lse))

    ours, theirs = (
        jax.grad(functools.partial(loss, f), (0, 1, 2))(q, k, v) for f in (INTERPRETED["tpu"], xla.attend_segment)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


def test_what_a_backend_cannot_do_is_refused_by_name_and_left_to_the_reference_otherwise(monkeypatch):
    """A user who forces a backend hears why; a user who does not gets an answer."""
    q = jnp.zeros((1, 2, 4, 384))
    segments = (Segment(jnp.ones((1, 2, 8, 384)), jnp.ones((1, 2, 8, 384)), jnp.asarray([8])),)
    with pytest.raises(NotImplementedError, match="head_dim up to 256, got 384"):
        attend(q, segments, backend="tpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    np.testing.assert_allclose(attend(q, segments), jnp.ones_like(q), rtol=1e-6)


def test_the_platform_picks_its_own_backend(monkeypatch):
    """Else a TPU would run the reference without anybody noticing."""
    called = []
    monkeypatch.setitem(
        api.BACKENDS, "gpu", lambda *args, **kwargs: (called.append("gpu"), xla.attend_segment(*args))[1]
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    attend(jnp.zeros((1, 2, 4, 8)), (Segment(jnp.ones((1, 2, 2, 8)), jnp.ones((1, 2, 2, 8))),))
    assert called == ["gpu"]


@pytest.mark.parametrize("case", ["prefill", "causal", "many_shared_rows"])
def test_prefill_on_a_gpu_is_one_cudnn_call_that_copies_no_keys(monkeypatch, case):
    """Lowered for CUDA on any machine: head-major keys go to cuDNN as they are, with a float32 log-sum-exp."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    (q, k, v, length, _), _ = make(6, **CASES[case], dtype=jnp.bfloat16)
    text = (
        jax.jit(lambda q, k, v, length: gpu.attend_segment(q, k, v, length, None))
        .trace(q, k, v, length)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    assert text.count("stablehlo.custom_call @__cudnn$fmhaSoftmax") == 1
    keys = "x".join(map(str, k.shape)) + "xbf16"
    assert not [line for line in text.splitlines() if "transpose" in line and keys in line.split("->")[0]]


def cudnn_by_contract(q, k, v, *, scale, qkv_layout, mask_type, return_residual, q_seqlen=None, kv_seqlen=None):
    """What cuDNN documents, in float64: heads before tokens, a padding mask that counts slots, NaN where it sees none."""
    from jax._src.cudnn.fused_attention_stablehlo import MaskType

    assert (qkv_layout, return_residual) == ("BNTH", True)
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("bnth,bnsh->bnts", q, np.repeat(k, group, axis=1)) * scale
    if mask_type == MaskType.CAUSAL:
        assert q_seqlen is None and kv_seqlen is None
        scores = np.where(np.tri(*scores.shape[2:], dtype=bool), scores, -np.inf)
    else:
        assert mask_type == MaskType.PADDING
        assert q_seqlen.dtype == kv_seqlen.dtype == jnp.int32 and q_seqlen.shape == kv_seqlen.shape == (len(q),)
        assert (np.asarray(kv_seqlen) > 0).all(), "cuDNN gives NaN for a row that sees nothing"
        seen = np.arange(k.shape[2])[None, :] < np.asarray(kv_seqlen)[:, None]
        scores = np.where(seen[:, None, None, :], scores, -np.inf)
        real = np.arange(q.shape[2])[None, :] < np.asarray(q_seqlen)[:, None]
        scores = np.where(real[:, None, :, None], scores, np.nan)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    out = np.einsum("bnts,bnsh->bnth", weights / total, np.repeat(v, group, axis=1))
    return jnp.asarray(out, jnp.bfloat16), jnp.asarray((top + np.log(total))[..., 0], jnp.float32)


@pytest.mark.parametrize(
    "case", ["prefill", "prefill_with_an_empty_row", "causal", "many_shared_rows", "many_rows_of_their_own"]
)
def test_what_the_gpu_backend_asks_of_cudnn_is_the_reference(monkeypatch, case):
    """On a GPU alone would anybody see that a slot too many, which holds garbage, is read in every prefill."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "dot_product_attention", cudnn_by_contract)
    own = dict(batch=2, kv_heads=2, group=2, tokens=70, head_dim=16, slots=90, lengths=[31, 89])
    arguments, _ = make(7, **{**CASES, "many_rows_of_their_own": own}[case], dtype=jnp.bfloat16)
    out, lse = gpu.attend_segment(*arguments)
    expected, expected_lse = exact(*arguments)
    length = arguments[3]
    seen = np.ones(len(out), bool) if length is None else np.broadcast_to(np.asarray(length) > 0, len(out))
    assert (np.asarray(lse)[~seen] < -1e29).all() and out.dtype == lse.dtype == jnp.float32
    np.testing.assert_allclose(out[seen], expected[seen], atol=0.02)
    np.testing.assert_allclose(lse[seen], expected_lse[seen], atol=1e-4)
