"""Trains a model of the embedded family on generated archives and exports it as a Hugging Face checkpoint.

    python -m launch.train --model=archivist --workdir=archivist-run --export=assets/archivist

`--tokenizer=CHECKPOINT` takes the tokenizer of another member of the family, which drafter and target must share; without
it one is trained, the same one every time. A run that was stopped goes on where it stopped; `--export_only` writes the newest checkpoint without training. Progress
goes to standard output and, as JSON Lines, to WORKDIR/log.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from launch import cli

_MODEL = flags.DEFINE_string("model", "archivist", "archivist, archivist-large or archivist-small.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Checkpoint directory to take the tokenizer from.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, tokenizer and log.", required=True)
_EXPORT = flags.DEFINE_string("export", None, "Directory to write the Hugging Face checkpoint to at the end.")
_EXPORT_ONLY = flags.DEFINE_bool("export_only", False, "Export the newest checkpoint; do not train.")


def main() -> None:
    """Trains, or goes on training, and exports."""
    if _EXPORT_ONLY.value and not _EXPORT.value:
        raise cli.UsageError("--export_only needs --export=DIR")
    for flag in (_WORKDIR, _EXPORT):
        if flag.value and Path(flag.value).exists() and not Path(flag.value).is_dir():
            raise NotADirectoryError(f"--{flag.name}={flag.value} is a file; name a directory")
    given = Path(_TOKENIZER.value) / "tokenizer.model" if _TOKENIZER.value else None
    if given and not given.is_file():
        raise FileNotFoundError(f"--tokenizer={_TOKENIZER.value} holds no tokenizer.model; name a model of the family")
    workdir = Path(_WORKDIR.value)
    if _EXPORT_ONLY.value and not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"no checkpoint in {workdir / 'checkpoints'}; train first")

    from rapid_jax.training import export, loop, recipe, tokenizer
    from rapid_jax.training.data import RowMaker

    if _MODEL.value not in recipe.RECIPES:
        raise ValueError(f"--model={_MODEL.value} is unknown; known are {', '.join(recipe.RECIPES)}")
    model, training = recipe.RECIPES[_MODEL.value].model, recipe.RECIPES[_MODEL.value].training
    workdir.mkdir(parents=True, exist_ok=True)
    pieces = workdir / "tokenizer.model"
    if not pieces.exists():
        pieces.write_bytes(given.read_bytes() if given else tokenizer.train_sentencepiece(recipe.VOCAB_SIZE))
    rows = RowMaker(tokenizer.to_transformers(pieces.read_bytes(), model.max_position))

    def report(entry: dict) -> None:
        with (workdir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        shown = ("step", "tokens", "loss", "fact", "choice", "dossier", "whole", "tokens_per_second")
        print("  ".join(f"{name} {entry[name]:.6g}" for name in shown if name in entry), flush=True)

    if _EXPORT_ONLY.value:
        params = loop.restore_parameters(model, training, workdir / "checkpoints")
    else:
        params = loop.train(model, training, rows, workdir / "checkpoints", report).params
    if _EXPORT.value:
        export.export_hugging_face(params, model, pieces.read_bytes(), Path(_EXPORT.value))
        print(f"exported to {_EXPORT.value}")


if __name__ == "__main__":
    cli.start(main)
