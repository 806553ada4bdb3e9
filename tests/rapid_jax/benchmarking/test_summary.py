"""Speeds of many prompts taken together: which figure stands where, and what is no measurement."""

import json

import pytest

from rapid_jax.benchmarking.summary import read_measurements, speed_tables


def record(method, kind, length, prompt, speed, up, steps=1.0):
    return dict(
        method=method,
        kind=kind,
        context_length=length,
        prompt=prompt,
        tokens_per_second=speed,
        tokens_per_step=steps,
        speed_up=up,
    )


def records():
    found = []
    for length in (1024, 2048):
        for kind in ("ask", "quote"):
            for prompt in range(2):
                found.append(record("lc", kind, length, prompt, 20.0, 1.0))
                up = {"ask": 2.0, "quote": 0.5}[kind] * (1 if length == 1024 else 4)
                found.append(record("copy", kind, length, prompt, 20 * up, up, steps=2.0 if prompt else 1.0))
    return found


def write(path, found):
    path.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return path


def test_each_figure_is_of_its_prompts(tmp_path):
    """A mean over the wrong prompts would be believed."""
    all_records = records()
    files = [write(tmp_path / f"{half}.jsonl", all_records[half::2]) for half in range(2)]
    by_length, by_kind = speed_tables(read_measurements(files))
    assert by_length.columns[1:] == (
        "1,024 tokens (4)", "2,048 tokens (4)", "all (8)", "slowest", "fastest", "tokens a step",
    )  # fmt: skip
    rows = {row[0]: row[1:] for row in by_length.rows}
    assert rows["lc"] == ("20.0 tokens/s",) * 3 + ("-", "-", "1.00")
    first, second, both, slowest, fastest, steps = rows["copy"]
    assert first.startswith("1.00 [0.50") and second.startswith("4.00 [2.00") and both.startswith("2.00 [")
    assert (slowest, fastest, steps) == ("0.50", "8.00", "1.33")
    assert {row[0]: row[1] for row in by_kind.rows}["copy"].startswith("4.00 [2.00, 8.00")
    assert by_kind.columns[1:4] == ("ask (4)", "quote (4)", "all (8)")


def test_one_prompt_has_no_interval():
    (table,) = speed_tables([record("lc", "", 64, 0, 5.0, 1.0), record("sd", "", 64, 0, 8.0, 1.6)])
    assert {row[0]: row[1] for row in table.rows} == {"lc": "5.0 tokens/s", "sd": "1.60"}
    (table,) = speed_tables([record("sd", "", 64, 0, 8.0, None)])
    assert table.rows[0][1:4] == ("-", "-", "-")


@pytest.mark.parametrize("line", ["", "{", "[1]", "7", '{"method": "lc"}'])
def test_what_is_no_measurement_is_named(tmp_path, line):
    """Another program's file would otherwise end in a traceback."""
    good = json.dumps(record("lc", "", 64, 0, 5.0, 1.0))
    (tmp_path / "x.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x.jsonl:2 is no measurement of launch.benchmark"):
        read_measurements([tmp_path / "x.jsonl"])
    with pytest.raises(FileNotFoundError, match="y.jsonl: no such file"):
        read_measurements([tmp_path / "y.jsonl"])
