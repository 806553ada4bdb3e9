"""Answers a question about a long document.

    python -m launch.generate
    python -m launch.generate --method=lc,rapid,pages,auto --output=out.jsonl
    python -m launch.generate --config=configs/llama31_8b.py --target=PATH --context_file=FILE --query=QUESTION

Without flags: the embedded model, document and question; another target reads the reference of the Python language. A
flag such as --gamma wins over the config file. Answers and the table go to standard output, progress and warnings to
standard error. Exit status 0, 2 (a wrong flag) or 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cli, config_flag, distributed, document_flags, store_flags
from rapid_jax.config import EngineConfig, embedded, language_reference
from rapid_jax.config.methods import METHODS

if TYPE_CHECKING:
    from rapid_jax.engine.answer import Answer
    from rapid_jax.engine.document import Document
    from rapid_jax.saving.store import DocumentStore

_TARGET = flags.DEFINE_string("target", None, "The long-context model: directory, FILE.gguf, package:NAME or hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_QUERY = flags.DEFINE_string("query", None, "The question.")
_METHOD = flags.DEFINE_list(
    "method", ["rapid"], "One or more of: " + "; ".join(f"{m.name}, {m.summary}" for m in METHODS.values()) + "."
)
_STREAM = flags.DEFINE_bool("stream", False, "Print each answer while it is decoded.")
_PASSAGES = flags.DEFINE_bool("show_passages", False, "Print the retrieved passages that the drafter read.")
_TRACE = flags.DEFINE_string("trace", None, "Write a page to this file that shows where each word came from.")
_SAVE = flags.DEFINE_string("save_document", None, "Directory to save the document to, once it has been read.")
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
flags.adopt_module_key_flags(document_flags)


@distributed.joined()
def main() -> None:
    """Checks everything that is quick to check, then loads, reads, asks and prints."""
    config, methods = _engine_config(), config_flag.methods(_METHOD)
    default = embedded.is_own(config.target)
    query, reference = _query(default)
    if _OUTPUT.value is not None:
        distributed.check_writable("output", _OUTPUT.value)
    if _TRACE.value is not None:
        distributed.check_writable("trace", _TRACE.value)
    files = document_flags.files(default)

    from launch import printing
    from rapid_jax.engine.engine import Engine
    from rapid_jax.tracing import page

    cli.use_compilation_cache()
    with cli.progress("loading", "B") as progress:
        engine = distributed.on_all(lambda: Engine.load(config=config, progress=progress))
    distributed.on_all(lambda: engine.require(methods))
    store = store_flags.store()
    answers: list[Answer] = []
    compiled = 0.0
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(distributed.open_output("output", _OUTPUT.value))
        progress = stack.enter_context(cli.progress("prefill", "tok"))
        stack.enter_context(cli.showing_compilation(engine.session.programs))
        name, document = document_flags.document(engine, files, progress, store)
        printing.print_header(engine, document, query, reference, name)
        compiled = engine.compile(document, query, [method.name for method in methods])
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
        _keep(document, store)
    if _PASSAGES.value:
        printing.print_passages(answers, None if files is None else files.name_at)
    printing.print_table(answers, reference, compiled)
    with distributed.open_output("trace", _TRACE.value) as trace:
        if trace is not None:
            trace.write(page([answer.trace for answer in answers]))


def _keep(document: Document, store: DocumentStore | None) -> None:
    """Saves the document where that was asked for, and keeps it for the next call."""
    from launch import printing

    if _SAVE.value is not None:
        start = time.perf_counter()
        size = document.save(_SAVE.value)
        seconds = time.perf_counter() - start
        printing.print_line(f"\nsaved {size:,} bytes to {_SAVE.value} in {seconds:.1f} s", style="dim")
    document_flags.keep(document, store)


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


def _query(default: bool) -> tuple[str, str | None]:
    """The question, and the reference answer where it is one about a document that is there by default."""
    given = _QUERY.value
    if given is not None and not given.strip():
        raise cli.UsageError("--query is empty; ask something about the document")
    if document_flags.CONTEXT.value is not None or document_flags.SAVED.value is not None:
        if given is None:
            name = "context_file" if document_flags.SAVED.value is None else "document"
            raise cli.UsageError(f"--{name} without --query; ask something about the document")
        return given, None
    if default:
        question = embedded.default_question() if given is None else given
        return question, embedded.reference_answer(question)
    if given is None:
        return language_reference.QUESTION, language_reference.ANSWER
    return given, None


if __name__ == "__main__":
    cli.start(main, config_flag.parse)
