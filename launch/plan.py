"""What a model at a context length needs of a TPU slice, and how fast it can be there, without the TPU.

    python -m launch.plan --preset=llama31_8b --topology=v5e:2x4 --context=131072 --method=rapid
    python -m launch.plan --preset=llama31_70b --topology=v5e:4x4 --context=131072 --json=plan.json
    python -m launch.plan --target=model.gguf --topology=v5e:2x2 --context=8192
    python -m launch.plan --preset=llama31_8b --topology=v5e:2x4 --compare
    python -m launch.plan --measure --context=16384

Compiles the prefill chunk and the decoding steps that the Engine runs, for that slice (minutes for 80 layers), and
prints for one chip memory, work and seconds by the roofline, collectives, and the speeds to expect. --measure checks
the same cost model on this machine with the embedded model. All but the last need libtpu, the TPU's compiler.

Tables go to standard output. Exit status 0, 2 (a wrong flag) or 1 (also where the configuration does not fit).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli
from models import formats
from rapid_jax.config.methods import METHODS, OWN_PAGES, OWN_PLANES, Method, get_method

if TYPE_CHECKING:
    from models.config import ModelConfig
    from rapid_jax.evaluation.tables import Table
    from rapid_jax.planning.cost import Rates
    from rapid_jax.planning.memory import Memory
    from rapid_jax.planning.shapes import Plan, Workload
    from rapid_jax.planning.topology import Slice

_DTYPE = "bfloat16"
_WEIGHT_KINDS, _KV_KINDS = ([_DTYPE, *filter(None, known)] for known in (formats.WEIGHTS, formats.KV))
_PLANNED = tuple(name for name in METHODS if name != "rest")  # which asks other texts, of a size that is not known

_PRESET = flags.DEFINE_string("preset", None, "A published size, such as llama31_8b.")
_TARGET = flags.DEFINE_string("target", None, "A checkpoint in the place of --preset; its weights are not read.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "CHIP:SHAPE of a slice, such as v5e:2x4 or v5p:2x2x1.")
_CONTEXT = flags.DEFINE_integer("context", None, "Tokens of the document; 131072, or 16384 with --measure.", 64, 2**24)
_BATCH = flags.DEFINE_integer("batch", 1, "Rows decoded together; all ask about the one document.", 1)
_METHOD = flags.DEFINE_string("method", "rapid", f"One of {', '.join(_PLANNED)}.")
_MESH = flags.DEFINE_string(
    "mesh", None, "Chips along data,context,model; if not given, as many along model as divide it."
)
_CHUNK = flags.DEFINE_integer("chunk", 2048, "Tokens of a prefill chunk, a power of two.", 32, 2**24)
_GAMMA = flags.DEFINE_integer("gamma", 10, "Tokens drafted in a step, or copied.", 1, 2**12)
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 1024, "Tokens of an answer, at most.", 1, 2**24)
_WEIGHTS = flags.DEFINE_enum("weights", _DTYPE, _WEIGHT_KINDS, "How the target's matrices are kept.")
_DRAFTER = flags.DEFINE_enum(
    "drafter_weights", None, _WEIGHT_KINDS, "The drafter's; as a copy of its own if they differ."
)
_KV = flags.DEFINE_enum("kv", _DTYPE, _KV_KINDS, "How keys and values are kept once they have been read.")
_COMPARE = flags.DEFINE_bool("compare", False, "Say what to run: the lossless settings side by side, fastest first.")
_ACCEPTANCE = flags.DEFINE_float("acceptance", 0.8, "With --compare, share of a model's drafts that is kept.", 0, 1)
_EMITTED = flags.DEFINE_float(
    "tokens_per_step",
    2.5,
    "With --compare, tokens of a step with a draft from a text; with sd+hd and rapid+hd, of a drafter's forward.",
    1,
)
cli.check_finite("acceptance", "tokens_per_step")
_JSON = flags.DEFINE_string("json", None, "File for the figures as a JSON object.")
_MEASURE = flags.DEFINE_bool("measure", False, "Check the cost model on this machine instead.")


def main() -> None:
    """Checks the flags, compiles and prints."""
    method = _method()
    if _JSON.value is not None:
        cli.check_writable("json", _JSON.value)
    if _MEASURE.value:
        _measure(method)
    else:
        _plan(method)


def _plan(method: Method) -> None:
    from rapid_jax.planning import fits, topology

    name, config = _model()
    if _CHUNK.value & (_CHUNK.value - 1):
        raise cli.UsageError(f"--chunk must be a power of two, got {_CHUNK.value}")
    try:
        piece = topology.parse(_TOPOLOGY.value)
        shape = _mesh(config, piece)
    except ValueError as e:
        raise cli.UsageError(str(e)) from e
    if _kind(_WEIGHTS.value) and _DRAFTER.value == _DTYPE:
        raise cli.UsageError(
            f"--drafter_weights: the drafter of a target with {_WEIGHTS.value} weights cannot have {_DTYPE} ones"
        )
    if _BATCH.value % shape[0]:
        raise cli.UsageError(f"--batch: {_BATCH.value} rows are no multiple of the mesh's data axis of {shape[0]}")
    if not topology.has_compiler():
        raise ValueError("libtpu, the TPU's compiler, is not installed: pip install libtpu (or rapid_jax[tpu-plan])")

    import jax

    from launch.printing import print_line
    from models import sharding
    from rapid_jax.planning import predict, shapes, tables
    from rapid_jax.planning.cost import Rates
    from rapid_jax.planning.memory import memory

    jax.config.update("jax_platforms", "cpu")  # nothing runs: the slice's devices are descriptions
    mesh = sharding.make_mesh(shape, topology.devices(piece))
    weights, drafter, kv = (_kind(flag.value) for flag in (_WEIGHTS, _DRAFTER, _KV))
    plan = shapes.Plan(
        config,
        mesh,
        backend=shapes.tpu_backend(),
        weights=weights,
        drafter_weights=drafter,
        kv=kv,
    )
    workload = shapes.Workload(
        _CONTEXT.value or 131_072,
        _BATCH.value,
        _GAMMA.value,
        _CHUNK.value,
        _NEW_TOKENS.value,
        tokens_per_step=_EMITTED.value,
    )
    copy = f", drafter {plan.drafter.weights}" if plan.drafter is not plan else ""
    kept = "" if _COMPARE.value else f", weights {_WEIGHTS.value}{copy}, keys and values {_KV.value}"
    print_line(f"model     {name}{kept}")
    print_line(f"slice     {piece.name}, mesh (data, context, model) = {shape}")
    chip = piece.chip
    rates = Rates(chip.hbm_bandwidth, chip.flops, chip.link_bandwidth, topology.HOP_SECONDS)
    if _COMPARE.value:
        _compare(plan, workload, rates, piece)
        return
    passages = f", the drafter reads {workload.retrieved:,}" if method.retrieves else ""
    passages = f", drafts read {workload.pages:,} of them" if method.drafting_model == OWN_PAGES else passages
    passages = ", drafts read four bits of eight" if method.drafting_model == OWN_PLANES else passages
    print_line(f"method    {method.name}, batch {workload.batch}, {workload.context:,} tokens of context{passages}")
    held = memory(plan, workload, method)
    if held.peak > fits.room(piece):
        _refuse(plan, workload, held, piece)
    try:
        with cli.progress("compiling", "programs") as progress:
            predicted = predict.predict(plan, workload, method, rates, progress)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise ValueError(f"does not fit: {' '.join(str(e).split())[:300]}") from e
    if predicted.memory.peak > fits.room(piece):
        _refuse(plan, workload, predicted.memory, piece)
    shown = [tables.memory_table(predicted.memory, fits.room(piece)), tables.work_table(predicted)]
    shown += [tables.collectives_table(predicted), *tables.speed_tables(predicted)]
    _print("Figures of one chip", *shown)
    if _JSON.value is not None:
        about = {"preset" if _TARGET.value is None else "target": name, **tables.to_dict(predicted, piece.name)}
        _write_json(_JSON.value, about)


def _compare(plan: Plan, workload: Workload, rates: Rates, piece: Slice) -> None:
    from launch.printing import print_line
    from rapid_jax.planning import choice, fits

    print_line(f"workload  batch {workload.batch}, {workload.context:,} tokens of context")
    acceptance = _ACCEPTANCE.value
    with cli.progress("predicting", "settings") as progress:
        found = choice.choices(plan, workload, rates, fits.room(piece), acceptance=acceptance, progress=progress)
    _print("Lossless settings, fastest first", choice.choice_table(found, acceptance, workload.tokens_per_step))
    if _JSON.value is not None:
        about = dict(topology=piece.name, acceptance=acceptance)
        _write_json(_JSON.value, {**about, **vars(workload), "choices": [one.to_dict() for one in found]})


def _refuse(plan: Plan, workload: Workload, held: Memory, piece: Slice) -> None:
    """Prints what a chip would have to hold, and ends with what would fit."""
    from rapid_jax.planning import fits, tables

    _print("Figures of one chip", tables.memory_table(held, fits.room(piece)))
    n = piece.chips
    if held.prefill > held.decoding:
        need = fits.Need(held.weights * n, (held.document + held.unread) * n, 0, held.reading)
    else:
        need = fits.Need(
            held.weights * n, held.document * n, (held.passages + held.pages) * n, held.tails + held.temporaries
        )
    found = fits.proposals(need, piece, plan.config, workload.context, weights=plan.weights)
    missing = (held.peak - fits.room(piece)) / 1e9
    would = (
        f"; by estimate these would fit: {' or '.join(found)}" if found else "; no usual slice of this chip would do"
    )
    raise ValueError(f"does not fit: a chip of {piece.name} lacks {missing:,.2f} GB{would}")


def _measure(method: Method) -> None:
    from configs import archivist
    from rapid_jax.benchmarking.prompts import benchmark_config
    from rapid_jax.config import EngineConfig
    from rapid_jax.engine.engine import Engine
    from rapid_jax.planning import measure

    if not method.drafts_from_passages or method.looks_up:
        raise cli.UsageError(f"--measure compares sd or rapid with lc, not {method.name}")
    if any(flag.value is not None for flag in (_PRESET, _TARGET, _MESH)):
        raise cli.UsageError("--measure takes the embedded model on one device: leave --preset, --target, --mesh out")
    cli.use_compilation_cache()
    config = benchmark_config(
        EngineConfig.from_mapping(archivist.get_config().to_dict()),
        new_tokens=min(_NEW_TOKENS.value, 64),
        gamma=_GAMMA.value,
        retrieved_tokens=None,
    )
    engine = Engine.load(config=config)
    with cli.progress("measuring", "runs") as progress:
        checked = measure.check(engine, method, _CONTEXT.value or 16_384, _BATCH.value, progress=progress)
    _print("Check of the cost model", measure.table(checked))
    if _JSON.value is not None:
        _write_json(_JSON.value, measure.to_dict(checked))


def _write_json(path: str, figures: dict[str, Any]) -> None:
    with cli.OutputFile("json", path) as file:
        file.write(json.dumps(figures, indent=1) + "\n")


def _print(heading: str, *tables: Table) -> None:
    from launch.printing import print_tables

    print_tables(heading, tables)


def _model() -> tuple[str, ModelConfig]:
    """Name and numbers of the model that is planned for."""
    from models.checkpoint import read_config
    from models.registry import PRESETS
    from rapid_jax.config import embedded

    if _TARGET.value is not None:
        if _PRESET.value is not None:
            raise cli.UsageError("--preset and --target both name a model: leave one of them out")
        return _TARGET.value, read_config(embedded.checkpoint(_TARGET.value))
    if _PRESET.value not in PRESETS:
        said = "" if _PRESET.value is None else f", not {_PRESET.value!r}"
        raise cli.UsageError(f"--preset must be one of {', '.join(PRESETS)}{said}; or give a checkpoint as --target")
    return _PRESET.value, PRESETS[_PRESET.value]


def _method() -> Method:
    if _METHOD.value not in _PLANNED:
        raise cli.UsageError(f"--method must be one of {', '.join(_PLANNED)}, not {_METHOD.value!r}")
    method = get_method(_METHOD.value)
    if method.drafting_model == OWN_PLANES and _KV.value != "planes" and not _COMPARE.value:
        raise cli.UsageError(f"--method={method.name} reads the upper plane of keys and values: add --kv=planes")
    return method


def _kind(value: str | None) -> str:
    """As models.formats names it."""
    return "" if value in (None, _DTYPE) else str(value)


def _mesh(config: ModelConfig, piece: Slice) -> tuple[int, int, int]:
    """The mesh that was asked for, or one that uses all chips.

    Raises:
      ValueError: not three numbers, another number of chips, or a mesh that does not divide the model.
    """
    from rapid_jax.planning import fits

    if _MESH.value is None:
        return fits.default_mesh(config, piece.chips)
    sizes = _MESH.value.split(",")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"--mesh must be three positive numbers data,context,model, got {_MESH.value}")
    data, context, model = map(int, sizes)
    if data * context * model != piece.chips:
        raise ValueError(f"--mesh={_MESH.value} has {data * context * model} chips, {piece.name} has {piece.chips}")
    if not fits.divides(config, (data, context, model)):
        raise ValueError(
            f"--mesh={_MESH.value} does not divide the model: model must divide {config.num_kv_heads} key-value heads, "
            f"context must be a power of two of at most 32"
        )
    return data, context, model


if __name__ == "__main__":
    cli.start(main)
