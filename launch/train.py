"""Trains the embedded model on generated archives and exports it as a Hugging Face checkpoint.

    python -m launch.train --workdir=/tmp/archivist --export=assets/archivist

A run that was stopped goes on where it stopped; `--export_only` writes the newest checkpoint without training. Progress goes
to standard output and, as JSON Lines, to WORKDIR/log.jsonl.
"""

import json
import sys
from pathlib import Path

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, tokenizer and log.", required=True)
_EXPORT = flags.DEFINE_string("export", None, "Directory to write the Hugging Face checkpoint to at the end.")
_EXPORT_ONLY = flags.DEFINE_bool("export_only", False, "Export the newest checkpoint; do not train.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; everything is a --flag")
    if _EXPORT_ONLY.value and not _EXPORT.value:
        raise app.UsageError("--export_only needs --export=DIR")

    workdir = Path(_WORKDIR.value)
    if workdir.exists() and not workdir.is_dir():
        sys.exit(f"launch.train: --workdir={workdir} is a file; name a directory")
    if _EXPORT_ONLY.value and not (workdir / "checkpoints").is_dir():
        sys.exit(f"launch.train: no checkpoint in {workdir / 'checkpoints'}; train first")

    from rapid_jax.training import export, loop, recipe, tokenizer
    from rapid_jax.training.data import RowMaker

    logging.set_verbosity(logging.WARNING)
    workdir.mkdir(parents=True, exist_ok=True)
    model, training = recipe.archivist_model(), recipe.archivist_training()
    pieces = workdir / "tokenizer.model"
    if not pieces.exists():
        pieces.write_bytes(tokenizer.train_sentencepiece(recipe.VOCAB_SIZE))
    rows = RowMaker(tokenizer.to_transformers(pieces.read_bytes(), model.max_position))

    def report(entry: dict) -> None:
        with (workdir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        shown = ("step", "tokens", "loss", "fact", "choice", "dossier", "whole", "tokens_per_second")
        print("  ".join(f"{name} {entry[name]:.6g}" for name in shown if name in entry), flush=True)

    try:
        if _EXPORT_ONLY.value:
            params = loop.restore_parameters(model, training, workdir / "checkpoints")
        else:
            params = loop.train(model, training, rows, workdir / "checkpoints", report).params
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"launch.train: {error}")
    if _EXPORT.value:
        export.export_hugging_face(params, model, pieces.read_bytes(), Path(_EXPORT.value))
        print(f"exported to {_EXPORT.value}")


if __name__ == "__main__":
    app.run(main)
