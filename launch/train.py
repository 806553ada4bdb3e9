"""Trains a model of the embedded family on generated archives and exports it as a Hugging Face checkpoint.

    python -m launch.train --model=archivist --workdir=archivist-run --export=assets/archivist

archivist-large and archivist-small are made out of it, with its tokenizer, which drafter and target must share:

    python -m launch.train --model=archivist-large --initial=assets/archivist --workdir=large-run --export=large

A run that was stopped goes on where it stopped; `--export_only` writes the newest checkpoint without training.
Progress goes to standard output and, as JSON Lines, to WORKDIR/log.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from launch import cli
from rapid_jax.config import embedded

_MODELS = ("archivist", "archivist-large", "archivist-small")
_MODEL = flags.DEFINE_enum("model", _MODELS[0], _MODELS, "Which one of the family; see rapid_jax/training/recipe.py.")
_INITIAL = flags.DEFINE_string("initial", None, "Checkpoint directory to start from, with its tokenizer.")
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
    initial = Path(embedded.located(_INITIAL.value)) if _INITIAL.value else None
    if initial and not (initial / "tokenizer.model").is_file():
        raise FileNotFoundError(f"--initial={initial} holds no tokenizer.model; name a model of the family")
    if not initial and _MODEL.value != _MODELS[0]:
        raise cli.UsageError(f"--model={_MODEL.value} is made out of another one; give --initial=assets/{_MODELS[0]}")
    workdir = Path(_WORKDIR.value)
    if _EXPORT_ONLY.value and not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"no checkpoint in {workdir / 'checkpoints'}; train first")

    begun, pieces = workdir / "model.txt", workdir / "tokenizer.model"
    if begun.exists() and (other := begun.read_text(encoding="utf-8")) != _MODEL.value:
        raise ValueError(f"--workdir={workdir} holds a run of {other}; name another directory for {_MODEL.value}")
    given = (initial / "tokenizer.model").read_bytes() if initial else None
    if given and pieces.exists() and pieces.read_bytes() != given:
        raise ValueError(
            f"--workdir={workdir} holds a run with another tokenizer than {initial}; name another directory"
        )

    import jax

    import models
    from rapid_jax.evaluation.writing import naming, write_text
    from rapid_jax.training import export, loop, recipe, tokenizer
    from rapid_jax.training.data import RowMaker
    from rapid_jax.training.initialisation import initial_parameters
    from rapid_jax.training.resizing import resized

    with naming(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    model, training = recipe.RECIPES[_MODEL.value].model, recipe.RECIPES[_MODEL.value].training
    write_text(begun, _MODEL.value)
    if not pieces.exists():
        with naming(pieces):
            pieces.write_bytes(given or tokenizer.train_sentencepiece(recipe.VOCAB_SIZE))
    rows = RowMaker(tokenizer.to_transformers(pieces.read_bytes(), model.max_position))

    def report(entry: dict) -> None:
        path = workdir / "log.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        shown = ("step", "tokens", "loss", "fact", "choice", "dossier", "whole", "tokens_per_second")
        print("  ".join(f"{name} {entry[name]:.6g}" for name in shown if name in entry), flush=True)

    if _EXPORT_ONLY.value:
        params = loop.restore_parameters(model, training, workdir / "checkpoints")
    else:
        params = initial_parameters(model, jax.random.key(training.seed), *rows.marked)
        if initial:
            source = models.load(initial, dtype="float32")
            params = resized(source.params, source.config, model, params)
        params = loop.train(model, training, rows, workdir / "checkpoints", report, params).params
    if _EXPORT.value:
        export.export_hugging_face(params, model, pieces.read_bytes(), Path(_EXPORT.value))
        print(f"exported to {_EXPORT.value}")


if __name__ == "__main__":
    cli.start(main)
