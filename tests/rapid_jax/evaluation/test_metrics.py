"""Scores: a wrong metric would make a method look better or worse than it is."""

import pytest

from rapid_jax.evaluation import metrics
from rapid_jax.evaluation.archive import Question


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("oboe", "oboe", 1.0),
        (" The Oboe.\n", "oboe", 1.0),
        ("an oboe", "the oboe", 1.0),
        ("oboes", "oboe", 0.0),
        ("", "oboe", 0.0),
        ("brass  compass", "brass compass", 1.0),
        ("a theatre", "theatre", 1.0),
    ],
)
def test_exact_match_ignores_case_articles_punctuation_and_space_only(answer, reference, expected):
    assert metrics.exact_match(answer, reference) == expected


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    """LCS of 'a b c d' and 'a c e' is 'a c': precision 2/3, recall 2/4, F 4/7."""
    assert metrics.rouge_l("x y z", "p q r") == 0.0
    assert metrics.rouge_l("alpha gamma epsilon", "alpha beta gamma delta") == pytest.approx(4 / 7)
    assert metrics.rouge_l("the same words", "The same words.") == 1.0
    assert metrics.rouge_l("", "words") == 0.0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), (" C.", "C"), ("(D) flute", "D"), ("The answer is A", "A"), ("Baker", None), ("", None), ("E", None)],
)
def test_choice_letter_must_stand_alone(answer, letter):
    assert metrics.choice_letter(answer) == letter


@pytest.mark.parametrize(
    ("task", "reference", "answer", "expected"),
    [
        ("fact", "oboe", "the oboe", 1.0),
        ("choice", "B", "B. oboe", 1.0),
        ("choice", "B", "oboe", 0.0),
        ("whole", "three", "Three", 1.0),
        ("dossier", "one two three four", "one two", pytest.approx(2 / 3)),
    ],
)
def test_each_task_has_its_metric(task, reference, answer, expected):
    assert metrics.score(Question("1", task, "?", reference), answer) == expected
