"""Small data files of our own in the formats of the benchmarks."""

import json

import pytest


@pytest.fixture
def write_records(tmp_path):
    """A function that writes records to tmp_path / name, as JSONL or as a JSON list by the name's ending."""

    def write(name, records):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            text = "".join(json.dumps(record) + "\n" for record in records)
        else:
            text = json.dumps(records)
        path.write_text(text, encoding="utf-8")
        return path

    return write
