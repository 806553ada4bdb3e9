"""Traces: who wrote each token of an answer, and the page that shows it."""

import html
import html.parser
import json

import numpy as np
import pytest

from rapid_jax.decoding.state import ALONE, BONUS, DRAFTED, INSTEAD
from rapid_jax.retrieval import Passage
from rapid_jax.tracing import page, trace_of
from rapid_jax.tracing.quotes import quoted
from rapid_jax.tracing.trace import MODEL, TARGET_WRITERS


def made(**changes):
    """Six tokens in three steps: two drafted and one refused, one drafted and a bonus, and one alone."""
    origins = [(0, DRAFTED, -1, 4), (0, DRAFTED, -1, 4), (0, INSTEAD, 9, 4), (2, DRAFTED + 1, -1, 1), (2, BONUS, -1, 1)]
    origins.append((3, ALONE, -1, 0))
    values = dict(
        method="hd",
        question="Who <asks>?",
        token_ids=[5, 6, 7, 8, 9, 2],
        pieces=["Mi", "rel ", "<b>", "plays", " it.", ""],
        text="Mirel <b>plays it.",
        origins=np.array([*origins, (0, 0, 0, 0)], np.int32),
        sources=("prompt", "answer"),
        text_of=lambda token: f"<{token}>",
    )
    values.update(changes)
    return trace_of(**values)


def test_each_token_names_its_writer_and_each_step_its_counts():
    """The colours of the page are these names, its bars these counts."""
    trace = made()
    assert [token.writer for token in trace.tokens] == [
        "prompt",
        "prompt",
        TARGET_WRITERS[INSTEAD],
        "answer",
        TARGET_WRITERS[BONUS],
        TARGET_WRITERS[ALONE],
    ]
    assert [token.refused for token in trace.tokens] == [None, None, "<9>", None, None, None]
    assert [(step.drafted, step.accepted, step.emitted) for step in trace.steps] == [(4, 2, 3), (1, 1, 2), (0, 0, 1)]
    assert list(trace.writers)[:2] == ["prompt", "answer"] and sum(trace.writers.values()) == 6
    assert json.loads(json.dumps(trace.to_dict()))["steps"][0] == {"drafted": 4, "accepted": 2, "emitted": 3}


def test_a_model_that_drafts_is_named_and_text_behind_a_stop_string_is_left_out():
    """Methods with one source have no list of names; what a stop string cut is no part of the answer."""
    trace = made(sources=(), origins=np.array([(0, DRAFTED, -1, 1)] * 6, np.int32), text="Mirel <b")
    assert {token.writer for token in trace.tokens} == {MODEL}
    assert [token.text for token in trace.tokens] == ["Mi", "rel ", "<b", "", "", ""]


@pytest.mark.parametrize(
    "passage, answer, expected",
    [
        ("By the wall Mirel PLAYS the oboe.", "mirel plays, the oboe by the wall", ["Mirel PLAYS the oboe"]),
        ("one two three four", "one two three", []),
        ("a b c d x e f g h", "a b c d e f g h", ["a b c d", "e f g h"]),
        ("", "a b c d", []),
    ],
)
def test_quotes_are_runs_of_words(passage, answer, expected):
    """Three words in a row are in any two texts; case and what stands between words do not matter."""
    assert [passage[start:end] for start, end in quoted(passage, answer)] == expected


class Page(html.parser.HTMLParser):
    """The text of each kind of element, and whatever would be loaded from elsewhere."""

    def __init__(self, source):
        super().__init__()
        self.open, self.texts, self.loaded, self.spans = [], {}, [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.open.append(tag)
        self.loaded += [v for n, v in attributes.items() if n in ("src", "href") and v]
        if tag == "span" and "data-step" in attributes:
            self.spans.append(attributes)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag] = self.texts.get(tag, "") + data


def test_the_page_shows_the_answer_as_text_and_loads_nothing():
    """A document may hold markup: on the page it is characters, and the page works without a network."""
    passage = Passage("Here <script>Mirel b plays it</script> again.", 10, 52, 9, 0.5)
    shown = Page(page([made(passages=[passage])]))
    assert not shown.loaded
    assert "Mirel <b>plays it." in shown.texts["div"] and "Who <asks>?" in shown.texts["h1"]
    assert shown.texts["mark"] == "Mirel b plays it"
    assert passage.text in shown.texts["blockquote"]
    assert [span["data-step"] for span in shown.spans] == ["0", "0", "0", "1", "1"]
    assert "'<9>'" in shown.spans[2]["title"] and "4 drafted, 2 accepted" in shown.spans[2]["title"]
    assert shown.spans[0]["class"] != shown.spans[3]["class"] != shown.spans[2]["class"]


def test_a_notebook_gets_the_page_in_a_frame(tmp_path):
    """Styles of a page would change the notebook around it."""
    trace = made()
    frame = trace._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and html.escape(trace.html(), quote=True) in frame
    trace.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == trace.html()


def test_a_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one trace"):
        page([])


@pytest.mark.parametrize("method", ["lc", "sd", "rapid", "hd", "copy", "pages", "auto"])
def test_the_trace_of_an_answer_adds_up_to_its_counts(document, questions, method):
    """What the page colours is what the acceptance figures count."""
    answer = document.ask(questions[0], method)
    trace, counts = answer.trace, answer.acceptance
    assert tuple(token.id for token in trace.tokens) == answer.token_ids
    assert "".join(token.text for token in trace.tokens).strip() == answer.text
    assert len(trace.steps) == counts.steps
    assert sum(step.emitted for step in trace.steps) == counts.generated
    kept = sum(step.accepted for step in trace.steps)
    assert counts.accepted - answer.settings["gamma"] <= kept <= counts.accepted  # the budget may cut the last draft
    assert sum(step.drafted for step in trace.steps) == counts.proposed
    refused = sum(token.refused is not None for token in trace.tokens)
    assert counts.tested - counts.accepted - 1 <= refused <= counts.tested - counts.accepted  # the last may be cut
    assert trace.passages == answer.passages
    if method == "lc":
        assert set(trace.writers) == {TARGET_WRITERS[ALONE]}
    for source, accepted in counts.by_source.items():
        assert trace.writers.get(source, 0) <= accepted
