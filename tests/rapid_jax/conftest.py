"""A laboratory for the decoding loop (models of eight tokens, prompts as ids), and an engine of a tiny checkpoint."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import ModelConfig, init_params
from models.decoder import Decoder
from rapid_jax.config.speculation import AcceptanceRule
from rapid_jax.decoding.buckets import token_bucket
from rapid_jax.decoding.loop import decode, initial_state
from rapid_jax.decoding.prefill import prefill_context, prefill_tail
from rapid_jax.decoding.programs import Programs
from rapid_jax.decoding.sampling import Warping
from rapid_jax.decoding.spec import Controls, StepSpec
from rapid_jax.drafting import EarlyStopDrafter, LanguageModelDrafter, MagicDecDrafter, NullDrafter
from rapid_jax.drafting.magicdec import take_window

VOCAB = 8
CHUNK = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    decoder: Decoder
    params: Any

    @functools.cached_property
    def _forward(self):
        @jax.jit
        def forward(params, tokens):
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            return self.decoder.apply({"params": params}, tokens, positions, method="forward_logits")[0]

        return forward

    def logits(self, prompts):
        """float32 [B,T,V] of one plain forward."""
        return self._forward(self.params, jnp.asarray(prompts, jnp.int32))


def make_model(seed, **fields):
    values = dict(
        family="llama", vocab_size=VOCAB, width=16, ffn_width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
        max_position=4096,
    )  # fmt: skip
    config = ModelConfig(**{**values, **fields})
    params = init_params(config, seed=seed, dtype="float32")
    params = {
        **jax.tree.map(lambda x: x * 20.0, params),
        "final_norm": params["final_norm"],
        "lm_head": params["lm_head"],
    }
    return Model(Decoder(config), params)


@dataclasses.dataclass(frozen=True)
class LabSpec(StepSpec):
    """A step with the settings that it takes as arguments; those do not tell programs apart."""

    warping: tuple[float, int, float] = dataclasses.field(default=(1.0, 0, 1.0), compare=False)
    stop_ids: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    def controls(self, eta=0.0):
        return Controls.of(eta=eta, warping=Warping.of(*self.warping), stop_ids=self.stop_ids)


class Lab:
    """A target, a drafter of other weights, what each has read, and their compiled programs."""

    document = [3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 7, 2, 0, 6]
    passage = [2, 6, 5, 3, 5]
    questions = ([1, 6, 0, 3], [7, 7], [2, 5, 4, 0, 6, 1], [4, 1, 2])

    def __init__(self):
        self.programs = Programs()
        self.target, self.drafter = make_model(1), make_model(2)

    def spec(
        self,
        gamma=3,
        *,
        drafter=None,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        tail="teacher",
        residual="rapid",
        stop_ids=(),
        first_candidates=1,
        stop_threshold=None,
        stop_confidence=0.0,
        windowed=False,
    ):
        decoder = (drafter or self.drafter).decoder
        maker = NullDrafter(VOCAB)
        if gamma:
            maker = LanguageModelDrafter(decoder, gamma, VOCAB, first_candidates=first_candidates)
        if windowed:
            maker = MagicDecDrafter(self.target.decoder, gamma, VOCAB, first_candidates=first_candidates)
        if stop_threshold is not None or stop_confidence:
            maker = EarlyStopDrafter(maker, -math.inf if stop_threshold is None else stop_threshold, stop_confidence)
        rule = AcceptanceRule(tail, residual, 0.1)
        return LabSpec(self.target.decoder, maker, rule, warping=(temperature, top_k, top_p), stop_ids=stop_ids)

    def start(self, spec, questions, *, drafter=None, budget=16, passage=None, seed=0, rows=None):
        """(context, drafter model, state) of a batch; every row asks about the one document."""
        dtype = jnp.float32
        common = dict(chunk=CHUNK, dtype=dtype)
        target, drafter = self.target, drafter or self.drafter
        context = prefill_context(self.programs, target.decoder, target.params, [self.document], **common)
        tail_size = dict(capacity=64, **common)
        tail = prefill_tail(
            self.programs, target.decoder, target.params, context, [q[:-1] for q in questions], **tail_size
        )
        drafter_model, drafter_tail = (), ()
        if isinstance(getattr(spec.drafter, "model", spec.drafter), MagicDecDrafter):
            sizes = dict(tokens=[len(self.document)], chunk=CHUNK, sinks=2, window=5)
            sinks, drafter_tail = take_window(self.programs, context, tail, **sizes)
            drafter_model = (target.params, sinks)
        elif spec.drafter.gamma:
            passages = [self.passage if passage is None else passage]
            read = prefill_context(self.programs, drafter.decoder, drafter.params, passages, **common)
            drafter_tail = prefill_tail(
                self.programs, drafter.decoder, drafter.params, read, [q[:-2] for q in questions], **tail_size
            )
            drafter_model = (drafter.params, read)
        if isinstance(spec.drafter, EarlyStopDrafter):
            drafter_tail = spec.drafter.initial_cache(drafter_tail)
        budget = np.broadcast_to(np.asarray(budget, np.int32), len(questions))
        state = initial_state(
            np.array([q[-2:] for q in questions], np.int32),
            tail,
            drafter_tail,
            budget=budget,
            capacity=token_bucket(24),
            seed=seed,
            rows=None if rows is None else np.asarray(rows),
        )
        return context, drafter_model, state

    def bursts(self, spec, started, *, eta=0.0, burst_steps=4):
        context, drafter_model, state = started
        return decode(
            self.programs,
            spec,
            self.target.params,
            context,
            drafter_model,
            spec.controls(eta),
            state,
            burst_steps=burst_steps,
        )

    def run(self, spec, questions, *, eta=0.0, burst_steps=4, **start):
        """The last report."""
        return list(self.bursts(spec, self.start(spec, questions, **start), eta=eta, burst_steps=burst_steps))[-1]

    def tokens(self, spec, questions, **kwargs):
        """Generated ids, a list a row."""
        report = self.run(spec, questions, **kwargs)
        return [row[:count].tolist() for row, count in zip(report.output, report.num_tokens, strict=True)]


@pytest.fixture(scope="session")
def lab():
    return Lab()


@pytest.fixture(scope="session")
def make_small_model():
    return make_model


@pytest.fixture(scope="session")
def engine_config(tiny_checkpoint):
    """Sizes that give every question one bucket: a passage of 128-250 tokens, answers of 24."""
    from rapid_jax.config import EngineConfig, RetrievalConfig, SamplingConfig, SpeculationConfig

    return EngineConfig(
        target=str(tiny_checkpoint),
        prefill_chunk=512,
        burst_steps=4,
        retrieval=RetrievalConfig(chunk_tokens=250, max_chunks=1),
        speculation=SpeculationConfig(gamma=4, length_rule="none"),  # clocks must not decide what is drafted
        sampling=SamplingConfig(max_new_tokens=24),
    )


@pytest.fixture(scope="session")
def engine(engine_config):
    from rapid_jax.engine.engine import Engine

    return Engine.load(config=engine_config)


@pytest.fixture(scope="session")
def document(engine, document_text):
    return engine.read(document_text)


@pytest.fixture(scope="session")
def questions():
    return ("Who keeps the kettle?", "Where is Odan Keld?", "What is in house 9?", "Whose is the flute?")


@pytest.fixture(scope="session")
def compilations():
    """A list that grows by one for whatever JAX compiles, in the engine's programs or outside of them."""
    events = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events
