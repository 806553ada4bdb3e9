"""The embedded model answers, and speculation changes nothing of its answers but their speed."""

import functools
import json

import numpy as np
import pytest

from rapid_jax import Engine
from rapid_jax.config import embedded
from rapid_jax.engine.prompt import Prompt
from rapid_jax.evaluation.archive import make_archive, with_choices
from rapid_jax.evaluation.benchmarks.archive import MAX_NEW_TOKENS, sample_questions
from rapid_jax.evaluation.metrics import score

NEAR_TIE = 1e-3  # logits; forwards of 1 and of 11 tokens round differently


@pytest.fixture(scope="module")
def engine():
    return Engine.load()


@pytest.fixture(scope="module")
def archive(engine):
    return make_archive(2048, 7_000_001, lambda part: len(engine.target.tokenizer.encode(part)))


@pytest.fixture(scope="module")
def document(engine, archive):
    return engine.read(archive.document)


@pytest.fixture(scope="module")
def plain(engine, document):
    """A function: questions of a task -> the target's own answers, asked once for all methods."""

    @functools.cache
    def ask(task, asked):
        return engine.ask_many(document, asked, "lc", max_new_tokens=MAX_NEW_TOKENS[task])

    return ask


def test_the_embedded_files_are_what_the_readme_says():
    """A checkout without its model, document or questions could not run its first command."""
    questions = [json.loads(line) for line in embedded.QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert {question["task"] for question in questions} == {"fact", "choice", "dossier", "whole"}
    assert embedded.default_question() in {question["question"] for question in questions}
    assert len(embedded.DOCUMENT.read_text(encoding="utf-8")) > 60_000
    assert sum(file.stat().st_size for file in embedded.ASSETS.rglob("*") if file.is_file()) < 20e6


@pytest.mark.slow
@pytest.mark.parametrize("method, number", [("sd", 100), ("hd", 100), ("magicdec", 40), ("pages", 40), ("sd+hd", 40)])
def test_greedy_speculative_decoding_gives_the_target_s_tokens(engine, archive, document, plain, method, number):
    """Lossless means lossless: questions, token for token, but for near-ties of the target's own logits."""
    chosen = sample_questions(archive, number * 2 // 5, seed=0)
    questions = [question for group in chosen.values() for question in group][:number]
    assert len(questions) == number
    head = document.head + document.tokenized.tokens
    prompt = Prompt(engine.target.tokenizer, engine.config.prompt)
    differing = 0
    for task in chosen:
        group = [question for question in questions if question.task == task]
        if not group:
            continue
        asked = tuple(with_choices(question) for question in group)
        drafted = engine.ask_many(document, asked, method, max_new_tokens=MAX_NEW_TOKENS[task], length_rule="none")
        for text, a, b in zip(asked, plain(task, asked), drafted, strict=True):
            if a.token_ids == b.token_ids:
                continue
            differing += 1
            place = next(i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y)
            tokens = [*head, *prompt.question(text), *a.token_ids[:place]]
            logits = np.asarray(engine.target.logits([tokens])[0, -1])
            assert abs(logits[a.token_ids[place]] - logits[b.token_ids[place]]) < NEAR_TIE
    assert differing <= 3


@pytest.mark.slow
def test_the_embedded_model_answers_about_unseen_archives(engine, archive, document):
    """The default must be worth asking about an archive that no training step has seen."""
    chosen = sample_questions(archive, 24, seed=1)
    means = {}
    for task in chosen:
        asked = [with_choices(question) for question in chosen[task]]
        answers = engine.ask_many(document, asked, "lc", max_new_tokens=MAX_NEW_TOKENS[task])
        means[task] = np.mean([score(q, answer.text) for q, answer in zip(chosen[task], answers, strict=True)])
    assert means["fact"] >= 0.85
    assert means["choice"] >= 0.85
    assert means["dossier"] >= 0.75
    assert means["whole"] >= 0.3
