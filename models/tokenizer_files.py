"""What a checkpoint's tokenizer files may not do: run code, split text otherwise than they say, or take for ever."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.safetensors_io import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 30  # that the trial of an unknown pattern may take, the start of its process included
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SENTENCE = "The 3 quick brown foxes, they said, jumped over 12 lazy dogs."
PROBES = (
    _SENTENCE,
    " Leading blank;  two  blanks, a tab\tand\r\nlines\n\n\n  indented \u00a0 no-break \n",
    "I'm, you're, WE'LL, it's; don't \u2019s. 7 42 365 2024 65536 3.14159 1,000,000 0x1F \u0663\u0664 \u2460 \u00bd",
    "na\u00efve Stra\u00dfe \u00c5ngstr\u00f6m e\u0301 \ufb01 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac "
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628 "
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u65e5\u672c\u8a9e\u3068\u4e2d\u6587 \ud55c\uad6d\uc5b4 "
    "\U0001f642\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2603",
    "def f(x, *, y=None):\n\treturn x['a'] != y # <b> && || {{}} ... --- ### == \\n \u2014 \u201cquoted\u201d "
    "snake_case CamelCase",
)
_LATER = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Patterns of published tokenizers, which need no trial: GPT-2, LLaMA 3, Qwen 2 to 3, digits and blanks.
_KNOWN_PATTERNS = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + _LATER % r"\p{N}{1,3}",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)" + _LATER % r"\p{N}",
        *(r"\p{N}{1,3}", r"\p{N}", r"\d", r"\s+", " "),
    }
)
_UNITS = ("a", "A1", " ", "\n", "1", ".", "a ", "a, ", "\u00e9", "\u65e5", "'s", "-_")
_TRIAL = """
import json, sys, time, tokenizers
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
except (ImportError, ValueError, OSError):
    pass
backend = tokenizers.Tokenizer.from_file(sys.argv[1])
print("loaded", flush=True)
backend.no_truncation()
for text in json.load(sys.stdin):
    start = time.process_time()
    backend.encode(text, add_special_tokens=False)
    if time.process_time() - start > 2:
        print("slow")
        break
print("ended")
"""


def check_patterns(file: Path) -> None:
    """Tries a tokenizer.json with regular expressions of its own on texts on which a bad one would never end.

    The trial is of 60,000 characters of ordinary text and of runs of 3,000 like ones, in a process that is ended after
    SECONDS; each text may take 2 seconds of CPU time. A pattern that is slow on other texts alone passes.

    Raises:
      ValueError: it failed, or did not end.
    """
    try:
        values = read_json(file)
        patterns = set(_patterns([values.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]))
    except (RecursionError, AttributeError):
        raise ValueError(f"{file} is not a file of the tokenizers library; copy it anew") from None
    unknown = patterns - _KNOWN_PATTERNS
    if not unknown:
        return
    shown = min(unknown)[:80]
    request = json.dumps([" ".join([*PROBES] * 90)[:60_000], *_runs("".join(unknown))])
    try:
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL, str(file)],
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        said = trial.stdout.split()
    except subprocess.TimeoutExpired:
        said = [b"loaded", b"slow"]
    if b"slow" in said:
        raise ValueError(
            f"{file}: splitting a text of 60,000 characters takes too long; it is the pattern {shown!r}"
            + (" or another" if len(unknown) > 1 else "")
        )
    if b"loaded" not in said and trial.returncode == 1:
        return  # it cannot be read at all; who loads it says why
    if b"ended" not in said:
        raise ValueError(f"{file}: the tokenizer fails on ordinary texts; look at its pattern {shown!r}")


def _runs(pattern: str) -> list[str]:
    """Runs of like characters, also of the pattern's own letters, and behind each run what may make a match fail."""
    letters = "".join(dict.fromkeys(re.sub(r"\\.|\W", "", pattern)))[:16]
    units = dict.fromkeys((*_UNITS, *letters))
    return [unit * (3000 // len(unit)) + end for unit in units for end in ("!", f" {letters}")]


def _patterns(value: Any) -> Iterator[str]:
    """The regular expressions in a part of a tokenizer.json."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _patterns(inner)


def as_file_says(hf: PreTrainedTokenizerBase, file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that splits text as its tokenizer.json does.

    transformers rebuilds some classes from the vocabulary alone, and ignores the file's normalizer and pre-tokenizer.
    Where that makes a difference, the result is the file's own, with the same special tokens and chat template.

    Raises:
      ValueError: the two have other tokens or ids.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    own = tokenizers.Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    named = {name: str(getattr(hf, name)) for name in _NAMED if getattr(hf, name, None) is not None}
    probes = [*PROBES, *(token + _SENTENCE for token in {named.get("bos_token"), named.get("eos_token")} if token)]
    if all(hf(probe, add_special_tokens=False)["input_ids"] == _ids(own, probe) for probe in probes):
        return hf
    for id_, token in sorted(hf.added_tokens_decoder.items()):
        if own.token_to_id(token.content) is None:
            own.add_tokens([token])
        if own.token_to_id(token.content) != id_:
            raise ValueError(
                f"{file} and tokenizer_config.json disagree about the id of {token.content!r}; take both from one "
                "checkpoint"
            )
    if own.get_vocab() != hf.get_vocab():
        raise ValueError(f"{file} has other tokens than transformers reads from it; use another transformers")
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        **named,
        chat_template=hf.chat_template,
        model_max_length=hf.model_max_length,
        clean_up_tokenization_spaces=False,
        name_or_path=hf.name_or_path,
    )


def _ids(backend: Any, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


def check_sentencepiece(hf: PreTrainedTokenizerBase, file: Path) -> None:
    """A tokenizer.model is rebuilt by transformers as byte-pair encoding, which a unigram model is not.

    Raises:
      ValueError: transformers splits text otherwise than sentencepiece.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    texts = [probe.lstrip() for probe in PROBES]  # of two blanks at the start transformers keeps one
    if any(hf(text, add_special_tokens=False)["input_ids"] != model.encode(text) for text in texts):
        raise ValueError(f"{file} is split otherwise by transformers than by sentencepiece; add a tokenizer.json")


def asks_for_code(directory: Path) -> str | None:
    """What a checkpoint wants to run of its own for its tokenizer, as its files name it; None for nothing."""
    for name in ("tokenizer_config.json", "config.json"):
        file = directory / name
        wanted = read_json(file).get("auto_map") if file.is_file() else None
        if wanted:
            entry = wanted.get("AutoTokenizer") or wanted.get("AutoConfig") if isinstance(wanted, dict) else wanted
            return f"{name}: auto_map {json.dumps(entry)[:120]}"
    return None
