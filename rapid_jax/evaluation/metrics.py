"""Scores of an answer against its reference, each in [0, 1] and as the benchmark that it comes from computes it."""

import re
import string
from collections import Counter
from collections.abc import Iterable

from rapid_jax.evaluation.archive import CONCLUSION, LETTERS, Question
from rapid_jax.evaluation.packages import require_package

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# An "A" before a lower-case word is the article, unless that word is "is" or "because".
_LETTER = re.compile(r"(?<![A-Za-z])([B-D]|A(?! (?!is\b|because\b)[a-z]))(?![A-Za-z])")
_INFINITEBENCH_SPACES = str.maketrans(dict.fromkeys("\n\"'.,?!{}", " "))
_INFINITEBENCH_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
_LONGBENCH_ANSWERS = {  # in RAPID's published evaluation "the correct answer is (B)" counts too
    "benchmark": (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"),
    "rapid": (r"correct answer is \(([A-D])\)", r"correct answer is ([A-D])"),
}


def normalise(answer: str) -> str:
    """Lower case, without punctuation, articles and surplus space (SQuAD, arXiv 1606.05250, section 6.1)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1.0 where both are the same after normalisation, else 0.0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, references: Iterable[str]) -> float:
    """Best F1 of words over the references (InfiniteBench En.QA; SQuAD, arXiv 1606.05250, section 6.1).

    Words are those of the normalised texts. With n words in common (a word that stands twice counts twice only where
    both have it twice), precision n / words of the answer and recall n / words of the reference, F1 is 2PR / (P + R); 0
    without a common word.
    """
    words = Counter(normalise(answer).split())
    best = 0.0
    for reference in references:
        wanted = Counter(normalise(reference).split())
        common = (words & wanted).total()
        if common:
            best = max(best, 2 * common / (words.total() + wanted.total()))
    return best


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, in [0, 1] (Lin 2004, section 3.1), without stemming."""
    return _rouge("rougeL", answer, reference)


def rouge_lsum(answer: str, references: Iterable[str]) -> float:
    """Best ROUGE-Lsum F-measure over the references (InfiniteBench En.Sum; Lin 2004, section 3.2), without stemming.

    As in package rouge-score with its default tokenizer: a line is a sentence, and nothing else splits one. The words
    of a reference line that are in its longest common subsequence with any line of the answer are hits, each word
    counted no more often than both texts have it. Recall is hits / words of the reference, precision hits / words of
    the answer, F their harmonic mean.
    """
    return max((_rouge("rougeLsum", answer, reference) for reference in references), default=0.0)


def require_rouge() -> None:
    """Raises ValueError where the package of ROUGE is not installed, so that it is found before anything slow."""
    require_package("rouge_score", "ROUGE, the score of dossiers, dialogues and En.Sum,")


def _rouge(kind: str, answer: str, reference: str) -> float:
    require_rouge()
    from rouge_score import rouge_scorer

    return float(rouge_scorer.RougeScorer([kind]).score(reference, answer)[kind].fmeasure)


def choice_letter(answer: str) -> str | None:
    """The first of the letters A to D that stands alone in the answer and is not the article "A", or None."""
    match = _LETTER.search(answer)
    return match.group(1) if match else None


def strict_choice(answer: str, option: str, letter: str) -> float:
    """1.0 for an answer that is the text of the right option (see `exact_match`) or whose `choice_letter` is right."""
    return max(exact_match(answer, option), float(choice_letter(answer) == letter))


def infinitebench_choice(answer: str, option: str, letter: str) -> float:
    """The rule of InfiniteBench En.MC, kept with what it lets through: "Based on" is an answer of B.

    The first of these that applies decides, on the answer without space around it:
      an empty answer is wrong;
      a first character among ABCD must be the letter;
      an answer that is the option or the letter is right;
      then, with newlines, quotes and .,?!{} as single spaces: what follows one of "answer is:", "answer:", "answer is",
      "option is" (looked for in this order) and one more character must start with the option or the letter;
      the first word that is a part of "ABCD" must be the letter; without such a word the answer is wrong.

    Args:
      answer: of the model.
      option: text of the right option.
      letter: of the right option, A to D.
    """
    label = (option, letter)
    answer = answer.strip()
    if not answer:
        return 0.0
    if answer[0] in "ABCD":
        return float(answer[0] in label)
    if answer in label:
        return 1.0
    answer = re.sub(" +", " ", answer.translate(_INFINITEBENCH_SPACES))
    for prefix in _INFINITEBENCH_PREFIXES:
        _, found, rest = answer.partition(prefix)
        if found:
            return float(rest[1:].startswith(label))
    word = next((word for word in answer.split() if word in "ABCD"), None)
    return float(word in label)


def longbench_letter(answer: str, form: str = "benchmark") -> str | None:
    """The letter after "The correct answer is", in brackets or else without, or None (LongBench v2).

    Asterisks (bold type) are left out first. A form in brackets goes before one without, wherever they stand.

    Args:
      answer: of the model.
      form: "benchmark", or "rapid": the words are "correct answer is", whatever stands before them.
    """
    answer = answer.replace("*", "")
    matches = (re.search(pattern, answer) for pattern in _LONGBENCH_ANSWERS[form])
    return next((match.group(1) for match in matches if match), None)


def score(question: Question, answer: str) -> float:
    """The metric of an archive's task: option or letter for choice, ROUGE-L for dossier, exact match for the rest.

    Of an answer that shows its work what follows the last `archive.CONCLUSION` is compared.
    """
    if question.task == "choice":
        return strict_choice(answer, question.answer, LETTERS[question.choices.index(question.answer)])
    if question.task == "dossier":
        return rouge_l(answer, question.answer)
    return exact_match(answer.rpartition(CONCLUSION)[2], question.answer)
