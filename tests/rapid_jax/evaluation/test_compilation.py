"""How much the runs of an evaluation compiled, kept beside their results."""

import pytest

from rapid_jax.decoding.programs import Programs
from rapid_jax.evaluation.compilation import COMPILATION, compiled_line, read_compilation, recording_compilation


def compiling(directory, programs, count, seconds, *, fails=False, write=True):
    with recording_compilation(directory, programs, write=write):
        programs.count += count
        programs.compile_seconds += seconds
        if fails:
            raise KeyboardInterrupt


def test_every_run_adds_what_it_compiled_also_where_it_was_interrupted(tmp_path):
    programs = Programs(compile_seconds=9.0, count=4)
    compiling(tmp_path, programs, 3, 1.5)
    with pytest.raises(KeyboardInterrupt):
        compiling(tmp_path, programs, 1, 0.25, fails=True)
    compiling(tmp_path, programs, 0, 0.0)
    compiling(tmp_path, programs, 5, 1.0, write=False)
    assert read_compilation(tmp_path) == [(3, 1.5), (1, 0.25)]


def test_a_full_disk_is_named_unless_something_else_went_wrong_before(tmp_path):
    (tmp_path / COMPILATION).mkdir()
    with pytest.raises(OSError, match=f"{COMPILATION} cannot be written"):
        compiling(tmp_path, Programs(), 1, 1.0)
    with pytest.raises(KeyboardInterrupt):
        compiling(tmp_path, Programs(), 1, 1.0, fails=True)


def test_results_of_an_earlier_version_have_no_such_file(tmp_path):
    assert read_compilation(tmp_path) == []


@pytest.mark.parametrize("line", ["[]", "{cut", '{"programs": -1, "seconds": 1}', '{"programs": 1}'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / COMPILATION).write_text(f'{{"programs": 1, "seconds": 2}}\n{line}\n{{"programs": 1')
    with pytest.raises(ValueError, match=f"{COMPILATION}, line 2: "):
        read_compilation(tmp_path)


def test_a_line_says_how_many_programs_in_how_many_runs():
    assert compiled_line(1, 0.52) == "1 program was compiled in 0.5 s."
    assert compiled_line(1200, 60.0, 2) == "1,200 programs were compiled in 60.0 s, in 2 runs."
