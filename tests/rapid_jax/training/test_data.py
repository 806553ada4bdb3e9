"""Training rows: a wrong target, position or weight would teach the model something else than answering."""

import numpy as np
import pytest

from rapid_jax.evaluation.archive import TASKS
from rapid_jax.training.data import Phase, RowMaker

PHASE = Phase(until=1, rows=3, tokens=256, document=0.5, weights=(0.5, 0.1, 0.3, 0.1), reach=4096)


@pytest.fixture(scope="module")
def batch(rows):
    return rows.batch(PHASE, (0, 0, 0))


def test_rows_depend_on_the_seed_alone(rows, batch):
    assert np.array_equal(rows.batch(PHASE, (0, 0, 0)).tokens, batch.tokens)
    assert not np.array_equal(rows.batch(PHASE, (0, 0, 1)).tokens, batch.tokens)


def test_targets_are_the_next_tokens_and_spell_answers_that_end(rows, batch):
    for row in range(PHASE.rows):
        scored = batch.weight[row] > 0
        assert scored.any()
        assert np.array_equal(batch.tokens[row][batch.index[row][scored] + 1], batch.target[row][scored])
        for number in np.unique(batch.answer[row][scored]):
            span = scored & (batch.answer[row] == number)
            assert batch.tokens[row][batch.index[row][span][0]] == rows.answer
            assert batch.target[row][span][-1] == rows.eos


def test_dossiers_weigh_less_a_token_than_short_answers(batch):
    dossier = batch.task == TASKS.index("dossier")
    assert set(batch.weight[dossier & (batch.weight > 0)]) == {0.25}
    assert set(batch.weight[~dossier & (batch.weight > 0)]) == {1.0}


def test_the_end_of_a_log_weighs_more(rows):
    """Whether there is one more entry, and what follows from that, are few tokens among many easy ones."""
    phase = Phase(until=1, rows=2, tokens=512, document=0.6, weights=(0.0, 0.0, 0.0, 1.0), reach=0)
    batch = rows.batch(phase, (3, 0, 0))
    for row in range(phase.rows):
        for number in np.unique(batch.answer[row][batch.weight[row] > 0]):
            span = (batch.answer[row] == number) & (batch.weight[row] > 0)
            end = batch.target[row][span].tolist().index(rows.nobody)
            assert set(batch.weight[row][span][:end]) == {1.0} and set(batch.weight[row][span][end:]) == {4.0}


def test_positions_rise_and_jump_at_paragraph_ends_only(rows):
    """A jump within a sentence would tear apart what belongs together."""
    newline = rows.encode("\n")[0]
    jumped = False
    for step in range(5):
        batch = rows.batch(PHASE, (1, 0, step))
        for tokens, positions in zip(batch.tokens, batch.positions, strict=True):
            used = int((positions > 0).sum())
            steps = np.diff(positions[: used + 1])
            assert (steps >= 1).all()
            assert positions.max() <= PHASE.reach
            jumps = np.flatnonzero(steps > 1)
            jumped |= len(jumps) > 0
            assert all(tokens[i + 1] == newline or i == 0 for i in jumps)
    assert jumped


def test_without_reach_positions_are_contiguous(rows):
    phase = Phase(until=1, rows=4, tokens=256, document=0.5, weights=PHASE.weights, reach=0)
    for row in rows.batch(phase, (0, 0, 0)).positions:
        used = int((row > 0).sum())
        assert np.array_equal(row[: used + 1], np.arange(used + 1))


def test_a_task_of_weight_zero_is_never_asked(rows):
    phase = Phase(until=1, rows=4, tokens=256, document=0.5, weights=(0.0, 0.0, 0.0, 1.0), reach=0)
    batch = rows.batch(phase, (0, 0, 0))
    assert set(batch.task[batch.weight > 0]) <= {TASKS.index("whole")}


def test_the_log_of_a_vessel_is_worked_through_once_in_a_row(rows):
    """A second question about it could be answered from the first answer, without reading the document."""
    phase = Phase(until=1, rows=2, tokens=1024, document=0.6, weights=(0.0, 0.0, 0.0, 1.0), reach=0)
    seen = 0
    for step in range(3):
        batch = rows.batch(phase, (2, 0, step))
        for row in range(phase.rows):
            answers = {}
            for number, target in zip(batch.answer[row], batch.target[row], strict=True):
                answers.setdefault(number, []).append(target)
            logs = [rows.backend.decode(answer).split(",")[0] for answer in answers.values() if answer[0]]
            assert len(set(logs)) == len(logs)
            seen += len(logs)
    assert seen > 3


def test_turn_spells_the_chat_template(rows: RowMaker):
    from rapid_jax.evaluation.archive import Question

    asked, answered = rows.turn(Question("fact-1", "fact", "Who?", "Mirel Tavos"))
    assert rows.backend.decode(asked + answered, skip_special_tokens=False) == "\n\nWho?<answer> Mirel Tavos</s>"
    _, answered = rows.turn(Question("whole-1", "whole", "How many?", "two", (), "the Otter, first: nobody. So "))
    assert rows.backend.decode(answered) == " the Otter, first: nobody. So two"
