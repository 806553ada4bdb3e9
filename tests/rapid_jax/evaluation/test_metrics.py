"""Scores: a wrong metric would make a method look better or worse than it is."""

import sys

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
        ("choice", "oboe", "oboe", 1.0),
        ("choice", "oboe", "B. oboe", 1.0),
        ("choice", "oboe", "harp", 0.0),
        ("choice", "oboe", "C", 0.0),
        ("whole", "three", "Three", 1.0),
        ("whole", "three", "the Otter, first: Mirel Tavos; the Otter, second: nobody. So three", 1.0),
        ("whole", "three", "the Otter, first: Mirel Tavos. So three or four", 0.0),
        ("dossier", "one two three four", "one two", pytest.approx(2 / 3)),
    ],
)
def test_each_task_has_its_metric(task, reference, answer, expected):
    choices = ("harp", "oboe", "lute") if task == "choice" else ()
    assert metrics.score(Question("1", task, "?", reference, choices), answer) == expected


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The old red house.", ["old house"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # 2 of 3 words and 2 of 2
        ("an 'Old' house!", ["the old house"], 1.0),
        ("new new york", ["new york york"], 2 / 3),  # new once, york once: 2 of 3 and 2 of 3
        ("yes yes", ["yes yes no"], 4 / 5),  # twice in both: 2 of 2 and 2 of 3
        ("new new new", ["new"], 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("red", ["blue", "green", "red hat"], 2 * 1 * (1 / 2) / (1 + 1 / 2)),
        ("the", ["the"], 0.0),
        ("", ["words"], 0.0),
        ("words", [], 0.0),
    ],
)
def test_token_f1_counts_words_as_often_as_both_have_them(answer, references, expected):
    """Sets instead of counts, or the mean over references, would give numbers that nobody else has."""
    assert metrics.token_f1(answer, references) == pytest.approx(expected)


def test_rouge_lsum_takes_lines_as_sentences():
    """Lines in another order cost ROUGE-L but not ROUGE-Lsum; sentences on one line are one sentence."""
    reference = "one two three\nfour five six"
    assert metrics.rouge_lsum("four five six\none two three", [reference]) == 1.0
    assert metrics.rouge_l("four five six\none two three", reference) == pytest.approx(0.5)
    assert metrics.rouge_lsum("four five six. one two three.", ["one two three. four five six."]) == pytest.approx(0.5)


def test_rouge_lsum_is_the_f_measure_of_the_union_of_subsequences():
    """Of five reference words four are hit, by two lines of six words: recall 4/5, precision 4/6, F 8/11."""
    assert metrics.rouge_lsum("w1 w2 x\nw3 y w5", ["w1 w2 w3 w4 w5"]) == pytest.approx(8 / 11)
    assert metrics.rouge_lsum("w1 w2 x\nw3 y w5", ["zzz", "w1 w2 w3 w4 w5"]) == pytest.approx(8 / 11)
    assert metrics.rouge_lsum("runs", ["running"]) == 0.0
    assert metrics.rouge_lsum("", ["words"]) == 0.0 and metrics.rouge_lsum("words", []) == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", 0.0),
        (" \n", 0.0),
        ("B", 1.0),
        ("  B. red hat", 1.0),
        ("Based on the book, it is C", 1.0),  # the first character alone decides
        ("Clearly B", 0.0),
        ("red hat", 1.0),
        ("red hats", 0.0),
        ("the answer is: B", 1.0),
        ("the answer is:B", 0.0),  # one character is skipped, whatever it is
        ("my answer:\n'red hat'", 1.0),  # newline and quote become one space, which is skipped
        ("my answer: red hats", 1.0),
        ("the answer is red hat", 1.0),
        ("the answer is: C, or else the answer is: B", 0.0),
        ("option is C; the answer: B", 1.0),  # "answer:" is looked for before "option is"
        ("the answer is", 0.0),
        ("the right option is B", 1.0),
        ("I take (B)", 0.0),
        ("I take B!", 1.0),
        ("I take AB or B", 0.0),  # "AB" is a part of "ABCD" and decides
        ("I take neither", 0.0),
    ],
)
def test_the_official_rule_of_infinitebench_is_kept_with_its_pitfalls(answer, expected):
    """Published numbers were counted this way; a sounder rule under the same name could not be compared."""
    assert metrics.infinitebench_choice(answer, "red hat", "B") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", 1.0),
        ("(B)", 1.0),
        ("I take (B).", 1.0),
        ("The Red Hat.", 1.0),
        ("Based on the book, it is C", 0.0),
        ("Baker", 0.0),
        ("Clearly B", 1.0),
        ("red hats", 0.0),
        ("", 0.0),
    ],
)
def test_the_strict_rule_wants_a_letter_that_stands_alone_or_the_option(answer, expected):
    """Beside the official one it shows how much of a score is luck with first characters."""
    assert metrics.strict_choice(answer, "red hat", "B") == expected


@pytest.mark.parametrize(
    ("answer", "letter"), [("A dog.", None), ("A is right", "A"), ("A dog, so C", "C"), ("A", "A")]
)
def test_the_article_is_not_a_choice(answer, letter):
    """Every answer that opens with "A ..." would count as option A."""
    assert metrics.choice_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The correct answer is (C).", "C"),
        ("The correct answer is C", "C"),
        ("**The correct answer is (D)**", "D"),
        ("The correct answer is **B**", "B"),
        ("The correct answer is A. No: The correct answer is (B).", "B"),  # brackets first
        ("The correct answer is (A). The correct answer is (B).", "A"),
        ("the correct answer is (A)", None),
        ("The correct answer is (E)", None),
        ("The correct answer is: (A)", None),
        ("B", None),
        ("", None),
    ],
)
def test_longbench_takes_its_sentence_only(answer, letter):
    """A letter found elsewhere would raise the score of models that do not follow the form."""
    assert metrics.longbench_letter(answer) == letter


def test_the_published_evaluation_of_rapid_asks_for_fewer_words():
    """There "the correct answer is (B)" counts; LongBench v2 itself wants "The" before it."""
    for answer, benchmark, rapid in (
        ("I think the correct answer is (B).", None, "B"),
        ("So the correct answer is B", None, "B"),
        ("The correct answer is (C)", "C", "C"),
        ("**The correct answer is** (D)", "D", "D"),
        ("the correct answer is A; The correct answer is (B)", "B", "B"),
        ("Correct answer is (B)", None, None),
        ("correct answer: (B)", None, None),
    ):
        assert metrics.longbench_letter(answer) == benchmark
        assert metrics.longbench_letter(answer, "rapid") == rapid


def test_rouge_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ValueError, match=r'needs the package rouge_score: pip install "rapid_jax\[reports\]"$'):
        metrics.rouge_l("a", "b")
