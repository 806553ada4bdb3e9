"""What a line of results and a manifest must hold: a file that was edited, cut or joined by hand is named, not counted.

A result is an answer, with its scores and what it cost, or a failure: an item that could not be asked, with the reason
in its field "failed".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rapid_jax.evaluation.benchmarks.files import Record, parse_json, shown

FAILED = "failed"
SHARD, PARTIAL = "shard", "partial"  # in a manifest: which part of a benchmark was asked; what a merge could not find

_MOST = 2**62  # of any count: more is damage
_LONGEST = 1e9  # seconds of an answer: more is damage
_DEEPEST = 30  # of a manifest's settings
_COUNTERS = ("steps", "proposed", "tested", "accepted")


Check = Callable[[Record], None]  # raises ValueError for a record that is not what it should be


def check_key(record: Record) -> None:
    """Checks the name of a result alone. Raises ValueError where it is missing or no text; names the line."""
    record.text("key")


def check_result(record: Record) -> None:
    """Checks everything that a report reads of a line.

    Raises:
      ValueError: a field that is missing, of the wrong type, or no finite number; names the line and the field.
    """
    for name in ("key", "source", "item", "task", "method"):
        record.text(name)
    record.count("context_length", 0, _MOST)
    groups = record.value("groups")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise record.error(f"field 'groups' must be a list of strings, got {shown(groups)}")
    _check_variation(record.part("variation"))
    if FAILED in record.fields:
        record.text(FAILED)
        return
    record.part("batch").count("size", 1, _MOST)
    scores = record.part("scores")
    for name in _names(scores):
        scores.number(name, 0, 1)
    turns = record.value("turns")
    if not isinstance(turns, list) or not turns:
        raise record.error(f"field 'turns' must be a list of at least one answer, got {shown(turns)}")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise record.error(f"turn {number} is not an object but {shown(turn)}")
        _check_turn(Record(f"{record.where}: turn {number}", turn))


def _check_turn(turn: Record) -> None:
    tokens = turn.value("token_ids")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise turn.error(f"field 'token_ids' must be a list of whole numbers, got {shown(tokens)}")
    seconds = turn.part("seconds")
    for name in ("retrieval", "prefill", "decode"):
        seconds.number(name, 0, _LONGEST)
    acceptance = turn.part("acceptance")
    for name in _COUNTERS:
        acceptance.count(name, 0, _MOST)
    if "drafter_forwards" in acceptance.fields:  # older results do not count them
        acceptance.count("drafter_forwards", 0, _MOST)
    if "accepted_by_source" in acceptance.fields:
        sources = acceptance.part("accepted_by_source")
        for name in sources.fields:
            sources.count(name, 0, _MOST)


def _check_variation(variation: Record) -> None:
    for name in _names(variation):
        value = variation.value(name)
        if not isinstance(value, str | bool):
            variation.number(name, -_MOST, _MOST)


def _names(record: Record) -> Iterator[str]:
    """The names of fields, which headings and files are named after."""
    for name in record.fields:
        if not name.isidentifier():
            raise record.error(f"{shown(name)} is not the name of a field")
        yield name


def identity(result: Mapping[str, Any]) -> tuple:
    """What a result is the answer to: two with the same identity are one answer that stands twice."""
    names = ("context_length", "method", "variation", "item")
    if not all(name in result for name in names):
        return (result["key"],)
    return tuple(json.dumps(result[name], sort_keys=True) for name in names)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """A file with one JSON object.

    Args:
      path: the file, which exists.
      what: it should be, for messages: "the manifest of an evaluation".

    Raises:
      ValueError: it is something else; names the file.
    """
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not {what}: {error}") from None
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path} is not {what}: it holds {shown(value)}, not an object with settings")
    if _depth(value) > _DEEPEST:
        raise ValueError(f"{path} is not {what}: its settings are nested more than {_DEEPEST} deep")
    return value


def _depth(value: Any) -> int:
    """How deep a JSON value is nested, without recursion."""
    deepest, layer = 0, [value]
    while layer:
        deepest += 1
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Checks what a report reads of a manifest.

    Raises:
      ValueError: a part that is missing or of the wrong type; names the file.
    """
    record = Record(f"{path} is not the manifest of an evaluation", manifest)
    record.part("benchmark").text("name")
    record.part("config")
    record.part("versions")
    if SHARD in manifest:
        record.part(SHARD).text("part")
    if PARTIAL in manifest:
        record.text(PARTIAL)
