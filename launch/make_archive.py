"""Writes an archive, a made-up document with questions whose answers are known.

    python -m launch.make_archive --tokens=32768 --seed=5 --output=archive

writes archive/document.txt and archive/questions.jsonl (id, task, question, answer, choices, working) and prints how
many tokens, paragraphs and questions of each task there are. Tokens are those of `--tokenizer`, by default the
embedded model's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from absl import flags

from launch import cli
from rapid_jax.config import embedded

_TOKENS = flags.DEFINE_integer("tokens", 32_768, "Length of the document in tokens, at most.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed; the same one writes the same archive.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write to; made if need be.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", str(embedded.MODEL), "Checkpoint directory whose tokenizer counts the tokens."
)


def main() -> None:
    """Makes the archive, writes it and prints its size."""
    output, directory = Path(_OUTPUT.value), Path(embedded.located(_TOKENIZER.value))
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output={output} is a file; name a directory")
    if not (directory / "tokenizer.json").is_file():
        raise FileNotFoundError(f"--tokenizer={directory} holds no tokenizer.json; name a checkpoint directory")

    from tokenizers import Tokenizer

    from rapid_jax.evaluation.archive import TASKS, make_archive, write_archive

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def count_tokens(part: str) -> int:
        return len(tokenizer.encode(part, add_special_tokens=False).ids)

    archive = make_archive(_TOKENS.value, _SEED.value, count_tokens)
    write_archive(archive, output)
    tasks = Counter(question.task for question in archive.questions)
    print(f"{output / 'document.txt'}: {count_tokens(archive.document)} tokens, {len(archive.paragraphs)} paragraphs")
    counts = ", ".join(f"{tasks[task]} {task}" for task in TASKS)
    print(f"{output / 'questions.jsonl'}: {len(archive.questions)} questions ({counts})")


if __name__ == "__main__":
    cli.start(main)
