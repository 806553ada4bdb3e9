"""Answers a question about a long document.

    python -m launch.generate
    python -m launch.generate --method=lc,rag,sd,rapid --output=out.jsonl
    python -m launch.generate --config=configs/llama31_8b.py --target=PATH --context_file=FILE --query=QUESTION

Without flags: the embedded model, document and question. Progress and warnings go to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from configs import archivist
from launch import cli
from rapid_jax import assets
from rapid_jax.config import EngineConfig
from rapid_jax.methods import METHODS, get_method

_CONFIG = config_flags.DEFINE_config_file(
    "config", str(Path(archivist.__file__)), "A file with get_config(); --config.<field>=<value> sets a field of it."
)
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

_OVERRIDES = {
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


def main() -> None:
    """Checks everything that is quick to check, then loads, reads, asks and prints."""
    config = _engine_config()
    methods = _methods()
    if _OUTPUT.value is not None:
        cli.check_writable(_OUTPUT.value)
    query, text = _query(), _document()

    from launch import report
    from rapid_jax.engine import Engine

    cli.use_compilation_cache()
    engine = Engine.load(config=config, progress=cli.progress_bar("loading", "B"))
    document = engine.read(text, prefill=False, progress=cli.progress_bar("prefill", "tok"))
    report.print_header(engine, document, query)
    answers = []
    with open(_OUTPUT.value or "/dev/null", "w", encoding="utf-8") as output:
        for method in methods:
            stream = document.stream(query, method)
            if _STREAM.value:
                sys.stdout.write(f"[{method}] ")
            for piece in stream:
                if _STREAM.value:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            if _STREAM.value:
                sys.stdout.write("\n")
            answers.append(stream.answer)
            output.write(json.dumps(stream.answer.to_dict(), ensure_ascii=False) + "\n")
            output.flush()
    if _PASSAGES.value:
        report.print_passages(answers)
    report.print_answers(answers, with_text=not _STREAM.value)


def _engine_config() -> EngineConfig:
    values = _CONFIG.value.to_dict()
    for section, names in _OVERRIDES.items():
        given = {name: flag.value for name, flag in names.items() if flag.value is not None}
        values[section] = {**values.get(section, {}), **given}
    for name, flag in (("target", _TARGET), ("drafter", _DRAFTER)):
        if flag.value is not None:
            values[name] = flag.value
    try:
        return EngineConfig.from_mapping(values)
    except ValueError as e:
        raise cli.UsageError(str(e)) from e


def _methods() -> list[str]:
    if not _METHOD.value:
        raise cli.UsageError(f"--method is empty; known: {', '.join(METHODS)}")
    try:
        return [get_method(name.strip()).name for name in dict.fromkeys(_METHOD.value)]
    except ValueError as e:
        raise cli.UsageError(f"--method: {e}") from e


def _query() -> str:
    if _QUERY.value is not None:
        if not _QUERY.value.strip():
            raise cli.UsageError("--query is empty; ask something about the document")
        return _QUERY.value
    if _CONTEXT.value is not None:
        raise cli.UsageError("--context_file without --query; ask something about the document")
    return assets.default_question()


def _document() -> str:
    path = _CONTEXT.value
    if path is None:
        return assets.DOCUMENT.read_text(encoding="utf-8")
    if path == "-":
        data, name = sys.stdin.buffer.read(), "standard input"
    else:
        file = Path(path)
        if file.is_dir():
            raise IsADirectoryError(f"--context_file={path} is a directory; name a text file")
        if not file.exists():
            raise FileNotFoundError(f"--context_file={path}: no such file")
        data, name = file.read_bytes(), path
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{name} is not UTF-8 text (byte {e.start}); convert it to UTF-8 first") from e
    if "\x00" in text:
        raise ValueError(f"{name} is a binary file; give a text file")
    if not text.strip():
        raise ValueError(f"{name} is empty; give a text file with something in it")
    return text


if __name__ == "__main__":
    cli.start(main)
