"""Writes an archive, a made-up document with questions whose answers are known.

    python -m launch.make_archive --tokens=32768 --seed=5 --output=archive

writes archive/document.txt and archive/questions.jsonl (id, task, question, answer, choices) and prints how many tokens,
paragraphs and questions of each task there are. Tokens are those of `--tokenizer`, by default the embedded model's.
"""

import sys
from collections import Counter
from pathlib import Path

from absl import app, flags

_EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "archivist"

_TOKENS = flags.DEFINE_integer("tokens", 32_768, "Length of the document in tokens, at most.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed; the same one writes the same archive.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write to; made if need be.", required=True)
_TOKENIZER = flags.DEFINE_string("tokenizer", str(_EMBEDDED), "Checkpoint directory whose tokenizer counts the tokens.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; everything is a --flag")
    output, directory = Path(_OUTPUT.value), Path(_TOKENIZER.value)
    if output.exists() and not output.is_dir():
        sys.exit(f"launch.make_archive: --output={output} is a file; name a directory")
    if not (directory / "tokenizer.json").is_file():
        sys.exit(f"launch.make_archive: --tokenizer={directory} holds no tokenizer.json; name a checkpoint directory")

    from tokenizers import Tokenizer

    from rapid_jax.evaluation.archive import TASKS, make_archive, write_archive

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def count_tokens(part: str) -> int:
        return len(tokenizer.encode(part, add_special_tokens=False).ids)

    try:
        archive = make_archive(_TOKENS.value, _SEED.value, count_tokens)
        write_archive(archive, output)
    except (ValueError, OSError) as error:
        sys.exit(f"launch.make_archive: {error}")
    tasks = Counter(question.task for question in archive.questions)
    print(f"{output / 'document.txt'}: {count_tokens(archive.document)} tokens, {len(archive.paragraphs)} paragraphs")
    counts = ", ".join(f"{tasks[task]} {task}" for task in TASKS)
    print(f"{output / 'questions.jsonl'}: {len(archive.questions)} questions ({counts})")


if __name__ == "__main__":
    app.run(main)
