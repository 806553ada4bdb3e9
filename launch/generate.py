"""Answers a question about a long document.

    python -m launch.generate
    python -m launch.generate --method=lc,rag,rapid,hd --output=out.jsonl
    python -m launch.generate --config=configs/llama31_8b.py --target=PATH --context_file=FILE --query=QUESTION

Without flags: the embedded model, document and question. A flag such as --gamma wins over the config file. Answers and
the table go to standard output, progress and warnings to standard error. Exit status 0, 2 (a wrong flag) or 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli, config_flag, distributed
from rapid_jax.config import EngineConfig, embedded
from rapid_jax.config.methods import METHODS

if TYPE_CHECKING:
    from rapid_jax.engine.answer import Answer

_TARGET = flags.DEFINE_string("target", None, "Checkpoint of the long-context model: a directory or a hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_CONTEXT = flags.DEFINE_string("context_file", None, "The document, a UTF-8 text file, or - for standard input.")
_QUERY = flags.DEFINE_string("query", None, "The question.")
_METHOD = flags.DEFINE_list(
    "method", ["rapid"], "One or more of: " + "; ".join(f"{m.name}, {m.summary}" for m in METHODS.values()) + "."
)
_STREAM = flags.DEFINE_bool("stream", False, "Print each answer while it is decoded.")
_PASSAGES = flags.DEFINE_bool("show_passages", False, "Print the retrieved passages that the drafter read.")
_OUTPUT = flags.DEFINE_string("output", None, "Write one JSON object a method to this file (replaced if it exists).")

_OVERRIDES: dict[str, dict[str, flags.FlagHolder]] = {
    "speculation": {
        "gamma": flags.DEFINE_integer("gamma", None, "Tokens drafted in a step."),
        "eta": flags.DEFINE_float("eta", None, "Strength of the transfer from drafter to target."),
        "tail": flags.DEFINE_string("tail", None, "Which tokens receive no transfer: teacher or augmented."),
        "residual": flags.DEFINE_string("residual", None, "What replaces a rejected token: rapid or exact."),
    },
    "sampling": {
        "max_new_tokens": flags.DEFINE_integer("max_new_tokens", None, "Tokens generated at most."),
        "temperature": flags.DEFINE_float("temperature", None, "0 is greedy."),
        "top_p": flags.DEFINE_float("top_p", None, "Probability mass that is kept."),
        "top_k": flags.DEFINE_integer("top_k", None, "Most likely tokens that are kept; 0 keeps all."),
        "seed": flags.DEFINE_integer("seed", None, "Seed of all random numbers."),
    },
}
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(distributed)


@distributed.joined()
def main() -> None:
    """Checks everything that is quick to check, then loads, reads, asks and prints."""
    config, methods, query = _engine_config(), config_flag.methods(_METHOD), _query()
    if _OUTPUT.value is not None:
        distributed.check_writable("output", _OUTPUT.value)
    text = distributed.from_main(_document)

    from launch import printing
    from rapid_jax.engine.engine import Engine

    cli.use_compilation_cache()
    with cli.progress("loading", "B") as progress:
        engine = distributed.on_all(lambda: Engine.load(config=config, progress=progress))
    distributed.on_all(lambda: engine.require(methods))
    answers: list[Answer] = []
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(distributed.open_output("output", _OUTPUT.value))
        progress = stack.enter_context(cli.progress("prefill", "tok"))
        document = engine.read(text, prefill=False, progress=progress)
        reference = embedded.reference_answer(query) if _CONTEXT.value is None else None
        printing.print_header(engine, document, query, reference)
        for method in methods:
            printing.print_method(method.name)
            if _STREAM.value:
                answer = printing.print_stream(document.stream(query, method.name))
            else:
                answer = document.ask(query, method.name)
                printing.print_text(answer, answers, reference)
            answers.append(answer)
            if output is not None:
                output.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
    if _PASSAGES.value:
        printing.print_passages(answers)
    printing.print_table(answers, reference)


def _engine_config() -> EngineConfig:
    given = {
        section: {name: flag.value for name, flag in names.items() if flag.value is not None}
        for section, names in _OVERRIDES.items()
    }
    models: dict[str, Any] = {
        name: flag.value for name, flag in (("target", _TARGET), ("drafter", _DRAFTER)) if flag.value is not None
    }
    values = config_flag.values()
    try:
        config = EngineConfig.from_mapping(values)
        return dataclasses.replace(
            config,
            speculation=dataclasses.replace(config.speculation, **given["speculation"]),
            sampling=dataclasses.replace(config.sampling, **given["sampling"]),
            **models,
        )
    except ValueError as e:
        raise cli.UsageError(str(e)) from e


def _query() -> str:
    if _QUERY.value is not None:
        if not _QUERY.value.strip():
            raise cli.UsageError("--query is empty; ask something about the document")
        return _QUERY.value
    if _CONTEXT.value is not None:
        raise cli.UsageError("--context_file without --query; ask something about the document")
    return embedded.default_question()


def _document() -> str:
    path = _CONTEXT.value
    if path is None:
        return embedded.DOCUMENT.read_text(encoding="utf-8")
    if path == "-":
        data, name = sys.stdin.buffer.read(), "standard input"
    else:
        file, name = Path(embedded.located(path)), f"--context_file={path}"
        if file.is_dir():
            raise IsADirectoryError(f"{name} is a directory; name a text file")
        if not file.exists():
            raise FileNotFoundError(f"{name}: no such file")
        data = file.read_bytes()
    if b"\x00" in data:
        raise ValueError(f"{name} is a binary file; give a UTF-8 text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{name} is not UTF-8 text (byte {e.start}); convert it to UTF-8 first") from e
    if not text.strip():
        raise ValueError(f"{name} is empty; give a text file with something in it")
    return text


if __name__ == "__main__":
    cli.start(main, config_flag.parse)
