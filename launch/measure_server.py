"""Measures a running server: requests about one document, several at a time against one after another.

    python -m launch.serve &
    python -m launch.measure_server
    python -m launch.measure_server --url=http://HOST:8000 --context_file=report.txt --questions_file=questions.txt

Without flags: the embedded document and questions with long answers, 8 of 16 requests at a time. Both rounds ask the
same questions, behind an unmeasured one. TTFT is the time from a request to its first text. The table goes to standard
output. Exit status 0, 2 (a wrong flag) or 1.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from launch import cli
from rapid_jax.config import embedded
from rapid_jax.config.methods import METHODS
from rapid_jax.evaluation.packages import require_package

_URL = flags.DEFINE_string("url", "http://127.0.0.1:8000", "Where the server is.")
_KEY = flags.DEFINE_string("api_key", "", "Key that the server asks for.")
_FILES = flags.DEFINE_multi_string("context_file", None, "The document; the embedded one if not given.")
_QUESTIONS = flags.DEFINE_string("questions_file", None, "Text file with a question a line; needs --context_file.")
_METHOD = flags.DEFINE_string("method", None, f"The server's own if not given, or one of {', '.join(METHODS)}.")
_REQUESTS = flags.DEFINE_integer("requests", 16, "Requests of each round.", 1)
_AT_A_TIME = flags.DEFINE_integer("concurrency", 8, "Requests under way together in the second round.", 1)
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 64, "Tokens of an answer at most.", 1)
flags.adopt_module_key_flags(cli)


def main() -> None:
    """Uploads the document, asks, and prints the table."""
    if (_FILES.value is None) != (_QUESTIONS.value is None):
        raise cli.UsageError("--context_file and --questions_file go together: give both or neither")
    if _METHOD.value is not None and _METHOD.value not in METHODS:
        raise cli.UsageError(f"--method={_METHOD.value}: unknown method; known: {', '.join(METHODS)}")
    require_package("httpx", "measuring a server", "serve")

    from launch import printing
    from rapid_jax.evaluation.tables import Table
    from rapid_jax.files.reading import read_files
    from rapid_jax.serving.load import Caller, measure

    text = read_files(_FILES.value or [embedded.DOCUMENT]).text
    fields = dict(max_tokens=_NEW_TOKENS.value) | ({"method": _METHOD.value} if _METHOD.value else {})
    caller = Caller(_URL.value, _KEY.value, **fields)
    document = caller.upload(text, "measured")
    one, many = measure(caller, _asked(), _REQUESTS.value, _AT_A_TIME.value)

    printing.print_line(f"server     {_URL.value}, model {caller.model}, method {_METHOD.value or 'of the server'}")
    printing.print_line(
        f"document   {document['tokens']:,} tokens; {_REQUESTS.value} requests, {_NEW_TOKENS.value} new tokens at most"
    )
    columns = ("at a time", "tokens/s", "speed-up", "TTFT p50, s", "TTFT p95, s", "answer p50, s", "answer p95, s")
    rows = []
    for load in (one, many):
        ratio = load.tokens_per_second / one.tokens_per_second
        seconds = (load.first_token(50), load.first_token(95), load.whole(50), load.whole(95))
        figures = (load.tokens_per_second, ratio, *seconds)
        rows.append((str(load.at_a_time), *(f"{value:.2f}" for value in figures)))
    same = sum(a.text == b.text for a, b in zip(one.answers, many.answers, strict=True))
    note = f"{same} of {len(one.answers)} answers are the same in both rounds."
    printing.print_tables("One after another, and several at a time", [Table("", columns, tuple(rows), note)])


def _asked() -> list[str]:
    """The questions."""
    if _QUESTIONS.value is None:
        lines = embedded.QUESTIONS.read_text(encoding="utf-8").splitlines()
        return [entry["question"] for entry in map(json.loads, lines) if entry["task"] == "dossier"]  # long answers
    lines = Path(_QUESTIONS.value).read_text(encoding="utf-8").splitlines()
    questions = [line for line in lines if line.strip()]
    if not questions:
        raise cli.UsageError(f"--questions_file={_QUESTIONS.value} holds no question; put one in each line")
    return questions


if __name__ == "__main__":
    cli.start(main)
