"""The results of all shards of an evaluation as the directory that an unsharded run would have written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from rapid_jax.evaluation.benchmarks.files import Record, shown
from rapid_jax.evaluation.compilation import COMPILATION, compilation_lines, read_compilation
from rapid_jax.evaluation.distribution_shift_table import FILE as SHIFTS
from rapid_jax.evaluation.distribution_shift_table import read_shifts, shift_lines
from rapid_jax.evaluation.results import PARTIAL, SHARD, check_manifest, check_result
from rapid_jax.evaluation.series import Key
from rapid_jax.evaluation.shards import Part
from rapid_jax.evaluation.store import MANIFEST, RESULTS, first_difference, read_manifest, read_results, replace_results

Place = tuple[int, str]  # context length and item


@dataclasses.dataclass(frozen=True)
class ShardResults:
    """What one shard's directory holds.

    Attributes:
      directory: its place.
      manifest: without the entry of the shard.
      part: which shard it is, and what it asks.
      places: (context length, item) of what it asks, with the number of the document in the whole benchmark.
      records: its results.
      shifts: its figures of --rules; None where it was run without.
      compiled: programs and seconds of each of its runs.
    """

    directory: Path
    manifest: dict[str, Any]
    part: Part
    places: dict[Place, int]
    records: list[dict[str, Any]]
    shifts: list[dict[str, Any]] | None
    compiled: list[tuple[int, float]]

    @classmethod
    def read(cls, directory: Path) -> ShardResults:
        """The results of a directory.

        Raises:
          FileNotFoundError, ValueError: no results, those of no shard, or a damaged file; names the directory or file.
        """
        manifest = read_manifest(directory)
        check_manifest(manifest, directory / MANIFEST)
        if SHARD not in manifest:
            raise ValueError(f"{directory} holds no shard of an evaluation: only runs with --shard are merged")
        found = Record(f"{directory / MANIFEST} is not the manifest of a shard", manifest)
        lengths = found.part("benchmark").value("context_lengths")
        if not isinstance(lengths, list) or not all(type(length) is int for length in lengths):
            raise found.error(f"field 'context_lengths' must be a list of whole numbers, got {shown(lengths)}")
        part = Part.read(found.part(SHARD), len(lengths))
        places = part.places(lengths)
        records = read_results(directory, check_result)
        shifts = read_shifts(directory) if (directory / SHIFTS).is_file() else None
        for file, lines in ((RESULTS, records), (SHIFTS, shifts or [])):
            stray = next((line for line in lines if _place(line) not in places), None)
            if stray is not None:
                raise ValueError(
                    f"{directory / file} holds item {shown(stray['item'])}, which shard {part.shard} does not ask"
                )
        rest = {name: value for name, value in manifest.items() if name != SHARD}
        return cls(directory, rest, part, places, records, shifts, read_compilation(directory))


def merge(directories: Sequence[Path], output: Path, *, partial: bool = False) -> None:
    """Writes the results of all shards of an evaluation into one directory, in the order of an unsharded run.

    Args:
      directories: one for each shard, in any order.
      output: gets the results; where it holds some already, they must be among those of the shards.
      partial: what is missing is said as a warning and noted in the manifest, instead of an error.

    Raises:
      FileNotFoundError: a directory without results.
      ValueError: shards that do not belong together, one that is missing, stands twice or has not come to its end, or
        see `ShardResults.read` and `store.replace_results`.
      OSError: the results cannot be written; names the file.
    """
    if output.resolve() in [directory.resolve() for directory in directories]:
        raise ValueError(f"{output} is one of the shards: name another directory for all of them together")
    shards = sorted((ShardResults.read(directory) for directory in directories), key=lambda one: one.part.shard.index)
    _check_together(shards)
    missing = _missing(shards)
    if missing and not partial:
        raise ValueError(f"{'; '.join(missing)}. --partial merges what is there")
    if missing:
        logging.warning("a partial report: %s", "; ".join(missing))
    manifest = shards[0].manifest | ({PARTIAL: "; ".join(missing)} if missing else {})
    files = {}
    if compiled := [run for one in shards for run in one.compiled]:
        files[COMPILATION] = compilation_lines(compiled)
    if any(one.shifts is not None for one in shards):
        files[SHIFTS] = shift_lines(_in_order(shards, [line for one in shards for line in one.shifts or []]))
    records = _in_order(shards, [record for one in shards for record in one.records])
    replace_results(output, manifest, records, files)


def _place(line: Mapping[str, Any]) -> Place:
    return line["context_length"], line["item"]


def _in_order(shards: Sequence[ShardResults], lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of all shards by the place of their documents in the whole benchmark; those of one stay as they are."""
    places = {place: number for one in shards for place, number in one.places.items()}
    return sorted(lines, key=lambda line: places[_place(line)])


def _check_together(shards: Sequence[ShardResults]) -> None:
    """Shards of one evaluation, each once, no two of which ask the same. Raises ValueError."""
    first = shards[0]
    owners: dict[Place, ShardResults] = {}
    for before, one in zip([None, *shards], shards, strict=False):
        if one.part.shard.count != first.part.shard.count:
            raise ValueError(
                f"{one.directory} is shard {one.part.shard} and {first.directory} shard {first.part.shard}: they are "
                "not of one evaluation"
            )
        if before is not None and before.part.shard == one.part.shard:
            raise ValueError(
                f"{before.directory} and {one.directory} are both shard {one.part.shard}: name one of them"
            )
        different = first_difference(first.manifest, one.manifest)
        if different is not None:
            name, ours, theirs = different
            raise ValueError(
                f"{one.directory} holds results with {name} = {theirs!r}, {first.directory} with {ours!r}: they are "
                "not of one evaluation; run one of them again with the setting of the other"
            )
        for place in one.places:
            other = owners.setdefault(place, one)
            if other is not one:
                raise ValueError(f"{other.directory} and {one.directory} both ask item {place[1]!r}")


def _missing(shards: Sequence[ShardResults]) -> list[str]:
    """What a whole evaluation has beyond these shards: other shards, answers, figures of the rules."""
    count = shards[0].part.shard.count
    absent = [str(index) for index in sorted(set(range(count)) - {one.part.shard.index for one in shards})]
    found = []
    if absent:
        names = ", ".join(absent[:20]) + (", ..." if len(absent) > 20 else "")
        what = f"shard {names} of {count} is" if len(absent) == 1 else f"shards {names} of {count} are"
        found.append(f"{what} missing (they are counted from 0)")
    ways = {_way(record): _label(record) for one in shards for record in one.records}
    ruled = any(one.shifts is not None for one in shards)
    for one in shards:
        there = {(_place(record), _way(record)) for record in one.records}
        lacking = [(place, way) for place in one.places for way in ways if (place, way) not in there]
        if lacking:
            (_, item), way = lacking[0]
            found.append(
                f"shard {one.part.shard} lacks {len(lacking):,} of {len(one.places) * len(ways):,} answers, the first "
                f"{ways[way]} to {item}"
            )
        if ruled and one.shifts is None:
            found.append(f"shard {one.part.shard} was run without --rules, or not to its end")
    return found


def _way(record: Mapping[str, Any]) -> str:
    """A method and its setting, to be compared."""
    return json.dumps([record["method"], record["variation"]], sort_keys=True)


def _label(record: Mapping[str, Any]) -> str:
    return Key(0, record["method"], tuple(record["variation"].items())).label
