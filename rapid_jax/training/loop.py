"""The training loop: optax updates over a curriculum of lengthening rows, checkpoints, accuracy on unseen archives."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from models.config import ModelConfig
from models.decoder import Decoder, hidden_states, output_logits
from models.params import Params, init_params
from rapid_jax.evaluation.archive import TASKS
from rapid_jax.training.data import Batch, Phase, RowMaker

_TRAIN, _HELD_OUT = 0, 1  # first number of a batch's seed: held-out archives are never trained on


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser and schedule: each phase has its rate; all warm up at first and fade over the last `decay_steps`."""

    phases: tuple[Phase, ...]
    seed: int = 0
    final_share: float = 0.1
    warmup_steps: int = 50
    decay_steps: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    evaluate_every: int = 50
    save_every: int = 50

    @property
    def num_steps(self) -> int:
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        return next(phase for phase in self.phases if step < phase.until)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds: updates done, parameters, optimiser state."""

    step: jax.Array
    params: dict
    optimiser: optax.OptState


def optimiser(config: TrainingConfig) -> optax.GradientTransformation:
    """AdamW with clipping by global norm; norms and embeddings are not decayed."""
    share = optax.join_schedules(
        [
            optax.linear_schedule(0.0, 1.0, config.warmup_steps),
            optax.constant_schedule(1.0),
            optax.linear_schedule(1.0, config.final_share, config.decay_steps),
        ],
        [config.warmup_steps, max(config.num_steps - config.decay_steps, config.warmup_steps)],
    )
    rate = optax.join_schedules(
        [optax.constant_schedule(phase.learning_rate) for phase in config.phases],
        [phase.until for phase in config.phases[:-1]],
    )

    def decayed(params: dict) -> dict:
        return jax.tree_util.tree_map_with_path(lambda path, x: x.ndim > 1 and "embed" not in str(path), params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            lambda step: rate(step) * share(step), b1=0.9, b2=0.98, weight_decay=config.weight_decay, mask=decayed
        ),
    )


def answer_logits(decoder: Decoder, params: dict, batch: Batch) -> jax.Array:
    """float32 logits [B,M,V] at the scored positions alone: the vocabulary product skips the document."""
    hidden, _ = hidden_states(decoder, params, jnp.asarray(batch.tokens), jnp.asarray(batch.positions))
    hidden = jnp.take_along_axis(hidden, batch.index[..., None], axis=1)
    return output_logits(decoder, params, hidden)


def answer_loss(decoder: Decoder, params: dict, batch: Batch) -> jax.Array:
    """Weighted mean cross entropy of the answers' tokens, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(answer_logits(decoder, params, batch), batch.target)
    return jnp.sum(losses * batch.weight) / jnp.maximum(jnp.sum(batch.weight), 1.0)


def train_step(
    decoder: Decoder, transform: optax.GradientTransformation, state: TrainingState, batch: Batch
) -> tuple[TrainingState, jax.Array]:
    """One update; returns the new state and the loss."""
    loss, gradients = jax.value_and_grad(partial(answer_loss, decoder))(state.params, batch)
    updates, optimiser_state = transform.update(gradients, state.optimiser, state.params)
    return TrainingState(state.step + 1, optax.apply_updates(state.params, updates), optimiser_state), loss


def answer_accuracy(decoder: Decoder, params: dict, batches: list[Batch]) -> dict[str, float]:
    """Share of answers right in every token, teacher-forced, by task; for dossiers the share of tokens."""
    right: dict[str, list[bool]] = {task: [] for task in TASKS}
    predict = jax.jit(lambda params, batch: jnp.argmax(answer_logits(decoder, params, batch), axis=-1))
    for batch in batches:
        hits = np.asarray(predict(params, batch)) == batch.target
        for row in range(hits.shape[0]):
            for number in np.unique(batch.answer[row][batch.weight[row] > 0]):
                span = (batch.answer[row] == number) & (batch.weight[row] > 0)
                task = TASKS[batch.task[row][span][0]]
                right[task] += list(hits[row][span]) if task == "dossier" else [hits[row][span].all()]
    return {task: float(np.mean(values)) for task, values in right.items() if values}


def train(
    model: ModelConfig,
    config: TrainingConfig,
    rows: RowMaker,
    directory: Path,
    report: Callable[[dict], None],
    params: Params,
) -> TrainingState:
    """Train to the end of the last phase, from the newest checkpoint in `directory` or else from `params`.

    `params` is given up: the first step may overwrite it. `report` gets a dict of step, loss, accuracy by task and
    speed every `evaluate_every` steps. Accuracy is measured on unseen archives of the current phase's length.
    """
    decoder = Decoder(model)
    transform = optimiser(config)
    with ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=3)) as manager:
        state = initial_state(transform, params)
        if manager.latest_step() is not None:
            state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
        update = jax.jit(partial(train_step, decoder, transform), donate_argnums=0)
        losses: list[jax.Array] = []
        seen, started = 0, time.monotonic()
        for step in range(int(state.step), config.num_steps):
            phase = config.phase(step)
            batch = rows.batch(phase, (config.seed, _TRAIN, step))
            if len(losses) > 1:
                losses[-2].block_until_ready()  # one step in flight: the next rows are written meanwhile
            state, loss = update(state, batch)
            losses.append(loss)
            seen += batch.tokens.size
            done = step + 1
            if done % config.save_every == 0 or done == config.num_steps:
                manager.save(done, args=ocp.args.StandardSave(state))
            if done % config.evaluate_every == 0 or done == config.num_steps:
                loss_mean = float(jnp.mean(jnp.stack(losses)))
                speed = seen / (time.monotonic() - started)
                held_out = [rows.batch(phase, (config.seed, _HELD_OUT, i)) for i in range(2)]
                accuracy = answer_accuracy(decoder, state.params, held_out)
                report({"step": done, "loss": loss_mean, **accuracy, "tokens_per_second": speed, **asdict(phase)})
                losses, seen, started = [], 0, time.monotonic()
    return state


def initial_state(transform: optax.GradientTransformation, params: Params) -> TrainingState:
    """Step 0."""
    return TrainingState(jnp.zeros((), jnp.int32), params, transform.init(params))


def restore_parameters(model: ModelConfig, config: TrainingConfig, directory: Path) -> dict:
    """Parameters of the newest checkpoint. Raises FileNotFoundError where there is none."""
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoint in {directory}; train first")
    with ocp.CheckpointManager(directory.absolute()) as manager:
        if manager.latest_step() is None:
            raise FileNotFoundError(f"no checkpoint in {directory}; train first")
        state = initial_state(optimiser(config), init_params(model, dtype="float32"))
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state)).params
