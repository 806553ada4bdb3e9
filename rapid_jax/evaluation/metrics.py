"""Scores of an answer against its reference: exact match, ROUGE-L, and the letter of a multiple choice."""

import re
import string

from rouge_score import rouge_scorer

from rapid_jax.evaluation.archive import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LETTER = re.compile(r"(?<![A-Za-z])([A-D])(?![A-Za-z])")


def normalise(answer: str) -> str:
    """Lower case, without punctuation, articles and surplus space (SQuAD, arXiv 1606.05250, section 6.1)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1.0 where both are the same after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, in [0, 1] (Lin 2004, section 3.1), without stemming."""
    return rouge_scorer.RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure


def choice_letter(answer: str) -> str | None:
    """The first of the letters A to D that stands alone in the answer, or None."""
    match = _LETTER.search(answer)
    return match.group(1) if match else None


def score(question: Question, answer: str) -> float:
    """The metric of the question's task: letter for choice, ROUGE-L for dossier, exact match for the rest."""
    if question.task == "choice":
        return float(choice_letter(answer) == question.answer)
    if question.task == "dossier":
        return rouge_l(answer, question.answer)
    return exact_match(answer, question.answer)
