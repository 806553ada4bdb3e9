"""The programs that the Engine runs, compiled from shapes alone: a prefill chunk and a decoding step.

They are the Engine's own functions (`decoding.prefill.context_chunk`, `decoding.step.step`) with the shardings, sizes
and donations that it gives them; no array is made.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from models.attention import api
from models.cache import ContextCache, TailCache, empty_context, empty_tail, with_layers
from models.config import ModelConfig
from models.decoder import Decoder
from models.formats import kv_format
from models.pages import Pages, chosen_shapes
from models.params import abstract_params
from models.sharding import context_specs, rows_axis, tail_spec
from rapid_jax.config import CopyingConfig, SamplingConfig, SpeculationConfig
from rapid_jax.config.methods import OWN_CACHE, OWN_PAGES, OWN_PLANES, Method
from rapid_jax.copying.drafter import CopyDrafter, CopyMemory, empty_memory
from rapid_jax.decoding.buckets import context_bucket, token_bucket
from rapid_jax.decoding.loop import initial_state
from rapid_jax.decoding.pacing import without_costs
from rapid_jax.decoding.prefill import context_chunk
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls
from rapid_jax.decoding.state import DecodeState
from rapid_jax.decoding.step import step
from rapid_jax.drafting.magicdec import MagicDecDrafter, WindowCache
from rapid_jax.drafting.makers import PassagesMaker
from rapid_jax.drafting.null import NullDrafter
from rapid_jax.drafting.pages import PagesCache, PagesDrafter
from rapid_jax.drafting.planes import PlanesDrafter
from rapid_jax.engine.batch import controls_of, spec_of
from rapid_jax.retrieval import num_chunks

QUESTION = 64  # tokens of a question, assumed
CHUNK_TOKENS = 512  # of a retrieved passage (RAPID, arXiv 2502.20330, section 4.1)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is decoded.

    Attributes:
      context: tokens of the document.
      batch: rows; all ask about the one document.
      gamma: tokens drafted in a step.
      chunk: tokens of a prefill chunk.
      new_tokens: tokens of an answer, at most.
      passages: tokens that the drafter reads; None is what is retrieved for its length.
      pages: the same of a drafter that reads pages of the target's own cache.
    """

    context: int
    batch: int = 1
    gamma: int = 10
    chunk: int = 2048
    new_tokens: int = 1024
    passages: int | None = None
    pages: int = 4096

    @property
    def retrieved(self) -> int:
        """Tokens of the passages, at most the document."""
        if self.passages is not None:
            return min(self.passages, self.context)
        return min(num_chunks(self.context, CHUNK_TOKENS) * CHUNK_TOKENS, self.context)

    @property
    def tail(self) -> int:
        """Slots for the question and the answer."""
        return token_bucket(QUESTION + self.new_tokens)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A model on a mesh.

    Attributes:
      config: the model.
      mesh: (data, context, model) devices, real ones or those of a topology; None for the first device at hand.
      dtype: of weights and caches.
      backend: attention backend; None picks.
      weights: format of the target's matrices (models.formats).
      drafter_weights: the same of the drafter, which is a copy of the target then; "" is the target itself.
      kv: format of what has been read.
    """

    config: ModelConfig
    mesh: Mesh | None
    dtype: Any = jnp.bfloat16
    backend: str | None = None
    weights: str = ""
    drafter_weights: str = ""
    kv: str = ""

    @property
    def upper(self) -> Plan:
        """The drafter, over the upper plane of keys and values."""
        return dataclasses.replace(self.drafter, kv="int4")

    @property
    def decoder(self) -> Decoder:
        """The module."""
        return Decoder(self.config, jnp.dtype(self.dtype), self.mesh, self.backend, self.weights)

    @functools.cached_property
    def params(self) -> Any:
        """Shapes and shardings of the weights."""
        return abstract_params(self.config, np.dtype(self.dtype), self.mesh, self.weights)

    @functools.cached_property
    def drafter(self) -> Plan:
        """The target itself, or its copy in other weights."""
        if self.drafter_weights in ("", self.weights):
            return self
        return dataclasses.replace(self, weights=self.drafter_weights, drafter_weights="")


def tpu_backend() -> str:
    """The attention backend that runs on a TPU."""
    return "tpu" if "tpu" in api.BACKENDS else "xla"


def context_shape(plan: Plan, tokens: int, chunk: int, rows: int = 1, *, read: bool = True) -> ContextCache:
    """Shapes and shardings of a context cache for documents of so many tokens, one a row.

    Args:
      plan: whose.
      tokens, chunk, rows: see there.
      read: once everything has been read, in the plan's format of keys and values; otherwise while prefill goes on.
    """
    capacity, mesh = context_bucket(tokens, chunk), plan.mesh
    shapes = jax.eval_shape(lambda: empty_context(plan.config, rows, capacity, plan.dtype, mesh))
    if plan.kv and read:
        narrow = functools.partial(jax.eval_shape, kv_format(plan.kv).quantize_layer)
        shapes = with_layers(shapes, [narrow(k, v) for k, v in zip(shapes.k, shapes.v, strict=True)])
    return _placed(plan, shapes, context_specs(rows))


def prefill_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """The forward that reads a chunk of the document."""
    context = context_shape(plan, workload.context, workload.chunk, read=False)
    scalar, tokens, lengths = _array(plan, ()), _array(plan, (1, workload.chunk)), _array(plan, (1,))
    function = functools.partial(context_chunk, plan.decoder)
    jitted = jax.jit(function, donate_argnums=(1,), out_shardings=_shardings(context))
    return jitted.lower(plan.params, context, tokens, scalar, lengths)


def check_planned(plan: Plan, method: Method) -> None:
    """Raises ValueError for a method that the planner does not know, or that does not go with the plan's formats."""
    if method.drafting_model == OWN_PLANES and plan.kv != "planes":
        raise ValueError(f'method {method.name} drafts over the upper plane of keys and values: set kv to "planes"')
    if method.looks_up:
        raise ValueError(f"method {method.name} looks drafts up in databases, which the planner does not know")
    if method.draws and method.copies:
        raise ValueError(f"method {method.name} chooses its drafts by measuring, which the planner cannot do")


def step_program(plan: Plan, workload: Workload, method: Method) -> jax.stages.Lowered:
    """One decoding step of a method whose drafter, if it has one, is the target itself.

    Copied drafts have gamma tokens; a drafter that reads pages chooses them in the step.

    Raises:
      ValueError: as `check_planned`.
    """
    check_planned(plan, method)
    if method.reads_document:
        context = context_shape(plan, workload.context, workload.chunk)
    else:
        context = context_shape(plan, workload.retrieved, workload.chunk, workload.batch)
    speculation = SpeculationConfig(gamma=workload.gamma)
    drafter: Any = NullDrafter(plan.config.vocab_size)
    passages: Any = ()
    drafter_cache: Any = ()
    if method.drafts_from_passages:
        drafter = PassagesMaker().chain(plan.drafter.decoder, speculation, plan.config.vocab_size)
        passages = context_shape(plan, workload.retrieved, workload.chunk, workload.batch)
        drafter_cache = tail_shape(plan, workload)
    elif method.drafting_model == OWN_CACHE:
        drafter, passages, drafter_cache = window_drafter(plan, workload)
    elif method.drafting_model == OWN_PAGES:
        drafter, drafter_cache = pages_drafter(plan, workload, context)
    elif method.drafting_model == OWN_PLANES:
        drafter = PlanesDrafter(plan.drafter.decoder, workload.gamma, plan.config.vocab_size)
        drafter_cache = tail_shape(plan, workload)
    elif method.copies:
        drafter = CopyDrafter((workload.gamma,), CopyingConfig().places)
        passages = jax.tree.map(lambda x: _array(plan, x.shape, x.dtype), jax.eval_shape(lambda: without_costs(2)))
        drafter_cache = copied_shape(plan, workload)
    spec = spec_of(method, plan.decoder, drafter, speculation)
    controls = controls_of(method, speculation, SamplingConfig(), plan.config.eos_ids)
    state = _state(plan, workload, tail_shape(plan, workload), drafter_cache, len(drafter.sources))

    def once(
        params: Any, copy: Any, context: ContextCache, passages: Any, controls: Controls, state: DecodeState
    ) -> DecodeState:
        """The step with shared weights as one argument: of two equal ones the compiler would count both."""
        drafter_model = passages
        if method.draws:
            drafter_model = (params if copy is None else copy, context if passages == () else passages)
        return step(spec, params, context, drafter_model, controls, state)

    copy = plan.drafter.params if method.draws and plan.drafter is not plan else None
    jitted = jax.jit(once, donate_argnums=(5,), out_shardings=_shardings(state))
    placed = jax.tree.map(lambda x: _array(plan, np.shape(x), np.asarray(x).dtype), controls)
    return jitted.lower(plan.params, copy, context, passages, placed, state)


def pages_drafter(plan: Plan, workload: Workload, context: ContextCache) -> tuple[PagesDrafter, PagesCache]:
    """A drafter that chooses pages in every step, and the shapes of its cache."""
    cut = Pages.of(context, SpeculationConfig().page_size, workload.pages)
    drafter = PagesDrafter(plan.drafter.decoder, workload.gamma, plan.config.vocab_size, pages=cut, renewal=1)
    shapes = chosen_shapes(context, workload.batch, cut, plan.mesh)
    chosen, mass = _placed(plan, shapes, context_specs(workload.batch))
    own, due = tail_shape(plan, workload), cast(jax.Array, _array(plan, ()))
    return drafter, PagesCache(own.k, own.v, own.length, chosen, mass, due)


def window_drafter(plan: Plan, workload: Workload) -> tuple[MagicDecDrafter, TailCache, WindowCache]:
    """A drafter over sinks and window of the default sizes, and the shapes of both."""
    settings = SpeculationConfig()
    drafter = MagicDecDrafter(plan.drafter.decoder, workload.gamma, plan.config.vocab_size)
    window = min(settings.window, context_bucket(workload.context, workload.chunk) + workload.tail)
    sinks, held = (tail_shape(plan, workload, size) for size in (settings.sinks, window))
    return drafter, sinks, WindowCache(held.k, held.v, held.length, dropped=sinks.length)


def window_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """A forward of a drafter over sinks and window."""
    drafter, sinks, cache = window_drafter(plan, workload)

    def begin(params: Any, sinks: TailCache, cache: WindowCache, tokens: jax.Array) -> Any:
        return drafter.begin((params, sinks), cache, tokens, Warping.of(0.0))[1:]

    return jax.jit(begin).lower(plan.drafter.params, sinks, cache, _array(plan, (workload.batch, 2)))


def choosing_program(plan: Plan, workload: Workload) -> jax.stages.Lowered:
    """The first forward of a draft that chooses pages."""
    context = context_shape(plan, workload.context, workload.chunk)
    drafter, cache = pages_drafter(plan, workload, context)

    def begin(params: Any, context: ContextCache, cache: PagesCache, tokens: jax.Array) -> Any:
        return drafter.begin((params, context), cache, tokens, Warping.of(0.0))

    return jax.jit(begin, donate_argnums=(2,)).lower(
        plan.drafter.params, context, cache, _array(plan, (workload.batch, 2))
    )


def tail_shape(plan: Plan, workload: Workload, slots: int | None = None) -> TailCache:
    """Shapes and shardings of a tail for the rows of a workload, of as many slots as it needs where none are given."""
    rows, capacity = workload.batch, workload.tail if slots is None else slots
    shapes = jax.eval_shape(lambda: empty_tail(plan.config, rows, capacity, plan.dtype, plan.mesh))
    return _placed(plan, shapes, {4: tail_spec(rows), 1: P(rows_axis(rows))})


def copied_shape(plan: Plan, workload: Workload) -> CopyMemory:
    """Shapes and shardings of what copies are taken from."""
    rows, capacity = workload.batch, token_bucket(workload.context + workload.tail + workload.gamma + 1)
    shapes = jax.eval_shape(functools.partial(empty_memory, rows, capacity))
    return _placed(plan, shapes, {1: P("data"), 2: P("data")})


def _state(plan: Plan, workload: Workload, target_tail: TailCache, drafter_cache: Any, num_sources: int) -> DecodeState:
    rows = workload.batch

    def make() -> DecodeState:
        return initial_state(
            np.zeros((rows, 2), np.int32),
            (),  # type: ignore[arg-type]  # the tails have shardings of their own
            (),
            budget=np.full(rows, workload.new_tokens, np.int32),
            capacity=token_bucket(workload.new_tokens),
            seed=0,
            num_sources=num_sources,
        )

    state = _placed(plan, jax.eval_shape(make), dict.fromkeys((1, 2, 3), P("data")))
    return dataclasses.replace(state, target_tail=target_tail, drafter_cache=drafter_cache)


def _placed(plan: Plan, shapes: Any, specs: dict[int, P]) -> Any:
    """Shapes with the sharding that their number of dimensions names."""

    def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(plan, specs[x.ndim]))

    return jax.tree.map(one, shapes)


def _array(plan: Plan, shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=_sharding(plan, P()))


def _sharding(plan: Plan, spec: P) -> jax.sharding.Sharding:
    return SingleDeviceSharding(jax.devices()[0]) if plan.mesh is None else NamedSharding(plan.mesh, spec)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)
