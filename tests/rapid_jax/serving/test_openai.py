"""The server as OpenAI's own client sees it: its answers are those of the engine asked alone."""

import json

import httpx
import openai
import pytest

from rapid_jax.serving.reading import TEMPLATE
from tests.marks import quick

METHODS = ("lc", "copy", "auto", "pages", "hd", "rapid", "sd", "rag")


@pytest.fixture(scope="module")
def client(live):
    return live.client()


@pytest.fixture(scope="module")
def model(live):
    return live.model


@pytest.fixture(scope="module")
def report(live, document_text):
    return live.upload(document_text)


def chat(client, model, messages, *, stream=False, **more):
    """A completion; of a stream its text, finish reason and usage in one."""
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    standard = {name: more.pop(name) for name in list(more) if name not in ("document", "method", "eta", "trace")}
    standard.setdefault("max_tokens", 24)
    arguments = dict(model=model, messages=messages, extra_body=more or None, **standard)
    if not stream:
        return client.chat.completions.create(**arguments)
    return list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments))


def text_of(completion):
    return completion.choices[0].message.content


@pytest.mark.parametrize("method", quick(METHODS, "lc", "rapid"))
def test_an_answer_is_that_of_the_document_asked_alone(client, model, report, read, questions, method):
    found = chat(client, model, questions[0], document=report, method=method)
    alone = read.ask(questions[0], method)
    assert text_of(found).strip() == alone.text
    assert found.choices[0].finish_reason == {"stop": "stop", "length": "length"}[alone.finish_reason]
    assert found.usage.completion_tokens == len(alone.token_ids)
    assert found.usage.prompt_tokens == alone.target_tokens
    assert found.rapid_jax["method"] == method
    assert found.rapid_jax["document"] == report


@pytest.mark.parametrize("method", ["lc", "sd"])
def test_a_stream_is_the_answer_in_pieces(client, model, report, questions, method):
    """What is shown while it is decoded must not differ from what is given at the end."""
    whole = chat(client, model, questions[1], document=report, method=method)
    chunks = chat(client, model, questions[1], document=report, method=method, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text_of(whole)
    assert len([piece for piece in pieces if piece]) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(client, model, report):
    chunks = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Who?"}], max_tokens=4, stream=True,
        extra_body=dict(document=report),
    )  # fmt: skip
    assert not any(chunk.usage for chunk in chunks)


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_document_in_a_message_is_read_once(client, model, serving_engine, document_text, questions, role):
    """Its prefix is reused by later requests with the same beginning, whatever they ask."""
    text = f"{role}: {document_text}"
    alone = serving_engine.read(text, template=TEMPLATE)

    def messages(question):
        if role == "system":
            return [{"role": "system", "content": text}, {"role": "user", "content": question}]
        return [{"role": "user", "content": f"{text}\n\n{question}"}]

    first, second = (chat(client, model, messages(question)) for question in questions[:2])
    for found, question in zip((first, second), questions, strict=False):
        assert text_of(found).strip() == alone.ask(question, "lc").text
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == alone.num_tokens
    assert first.rapid_jax["document"] == second.rapid_jax["document"]


def test_a_parted_message_is_the_message_again(serving_engine, document_text):
    """Else the server would read another prompt than the client sent."""
    message = f"{document_text}\n\nWho keeps the kettle?"
    whole = serving_engine.converse([{"role": "user", "content": message}])
    document = serving_engine.read(document_text, template=TEMPLATE, prefill=False)
    parted = document.token_ids + document.prompt(serving_engine.target).question("Who keeps the kettle?")
    assert parted == whole.token_ids + whole.prompt(serving_engine.target).question("")


def test_earlier_turns_count(client, model, report, read, questions):
    turns = [{"role": "user", "content": questions[0]}, {"role": "assistant", "content": "Sava Brint."}]
    found = chat(client, model, [*turns, {"role": "user", "content": questions[1]}], document=report)
    assert text_of(found).strip() == read.after(turns).ask(questions[1], "lc").text
    assert found.usage.prompt_tokens > chat(client, model, questions[1], document=report).usage.prompt_tokens


def test_earlier_turns_count_behind_a_document_in_a_message(client, model, serving_engine, document_text, questions):
    turns = [{"role": "user", "content": questions[0]}, {"role": "assistant", "content": "Sava Brint."}]
    first = {"role": "user", "content": f"{document_text}\n\n{questions[0]}"}
    found = chat(client, model, [first, turns[1], {"role": "user", "content": questions[1]}])
    document = serving_engine.read(document_text, template=TEMPLATE)
    assert text_of(found).strip() == document.after(turns).ask(questions[1], "lc").text
    assert found.rapid_jax["document"]


def test_a_system_message_stands_before_the_first_question(client, model, report, read, questions):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": questions[0]}]
    found = chat(client, model, messages, document=report)
    assert text_of(found).strip() == read.ask(f"Be short.\n\n{questions[0]}", "lc").text


def test_a_conversation_without_a_document(client, model, serving_engine):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who keeps bees?"}]
    found = chat(client, model, messages)
    assert text_of(found).strip() == serving_engine.converse(messages).ask("Who keeps bees?", "lc").text
    assert found.rapid_jax["document"] is None


def test_parts_of_a_content_are_one_text(client, model, report, read, questions):
    parts = [{"type": "text", "text": questions[0][:5]}, {"type": "text", "text": questions[0][5:]}]
    found = chat(client, model, [{"role": "user", "content": parts}], document=report)
    assert text_of(found).strip() == read.ask(questions[0], "lc").text


def test_sampling_is_that_of_the_request(client, model, report, read, questions):
    """Seeds, temperature, top_p and lengths reach the engine; equal seeds give equal answers."""
    settings = dict(temperature=4.0, top_p=0.95, seed=11)
    found = chat(client, model, questions[0], document=report, max_tokens=12, **settings)
    assert text_of(found).strip() == read.ask(questions[0], "lc", max_new_tokens=12, **settings).text
    other = chat(client, model, questions[0], document=report, max_tokens=12, **{**settings, "seed": 12})
    assert text_of(found) != text_of(other)


def test_a_stop_string_ends_the_answer(client, model, report, questions):
    whole = text_of(chat(client, model, questions[0], document=report))
    stop = whole[6:8]
    found = chat(client, model, questions[0], document=report, stop=stop)
    assert text_of(found) == whole[: whole.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    listed = chat(client, model, questions[0], document=report, stop=["\x07", stop])
    assert text_of(listed) == text_of(found)


def test_a_completion_goes_on_with_the_text(client, model, serving_engine):
    """No chat template, the text as it is."""
    found = client.completions.create(model=model, prompt="Odan Keld keeps", max_tokens=8)
    tokenizer, target = serving_engine.target.tokenizer, serving_engine.target
    ids = tokenizer.encode("Odan Keld keeps")
    expected = []
    for _ in range(found.usage.completion_tokens):
        expected.append(int(target.logits([ids + expected])[0, -1].argmax()))
    assert found.choices[0].text == tokenizer.decode([id_ for id_ in expected if id_ not in tokenizer.stop_ids])
    assert found.usage.prompt_tokens == len(ids)
    chunks = list(client.completions.create(model=model, prompt="Odan Keld keeps", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.choices[0].text


def test_a_completion_about_a_document(client, model, report, read, questions):
    found = client.completions.create(
        model=model, prompt=questions[0], max_tokens=24, extra_body=dict(document=report, method="lc")
    )
    assert found.choices[0].text.strip() == read.ask(questions[0], "lc").text


def test_a_trace_tells_who_wrote_each_token(client, model, report, questions):
    found = chat(client, model, questions[0], document=report, method="copy", trace=True)
    tokens = found.rapid_jax["trace"]["tokens"]
    assert len(tokens) == found.usage.completion_tokens
    assert "".join(token["text"] for token in tokens) == text_of(found)
    assert "trace" not in chat(client, model, questions[0], document=report).rapid_jax


def test_models(client, model):
    assert [entry.id for entry in client.models.list()] == [model]
    assert client.models.retrieve(model).owned_by == "rapid_jax"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("gpt-4")


WRONG = {
    "no messages": (dict(messages=[]), "messages must be"),
    "role": (dict(messages=[{"role": "tool", "content": "x"}]), "must have a role"),
    "last": (dict(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]), "last message"),
    "late system": (
        dict(
            messages=[
                {"role": "user", "content": "x"},
                {"role": "system", "content": "y"},
                {"role": "user", "content": "z"},
            ]
        ),
        "system message must be the first",
    ),
    "picture": (
        dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "must be texts",
    ),
    "n": (dict(n=2), "n must be 1"),
    "logprobs": (dict(logprobs=True), "logprobs must be"),
    "tools": (dict(tools=[{"type": "function"}]), "tools must be"),
    "unknown field": (dict(gama=3), "unknown field 'gama'"),
    "temperature": (dict(temperature=-1), "temperature must be"),
    "seed": (dict(seed=-1), "seed must be"),
    "limits": (dict(max_tokens=3, max_completion_tokens=4), "differ"),
    "no limit": (dict(max_tokens=0), "max_new_tokens must be at least 1"),
    "stop": (dict(stop=5), "stop must be"),
    "method": (dict(method="magic"), "unknown method 'magic'"),
    "retrieves": (dict(method="rapid"), "retrieves, and the messages hold no document"),
    "stream": (dict(stream="yes"), "stream must be true or false"),
    "options": (dict(stream_options=[]), "stream_options must be"),
    "too long": (dict(max_tokens=9000), "positions"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_clear_400(live, name):
    """A client must learn what is wrong and what would be right, before anything is decoded."""
    wrong, message = WRONG[name]
    body = {"model": live.model, "messages": [{"role": "user", "content": "Who keeps bees?"}], "stream": True, **wrong}
    answer = live.post("/v1/chat/completions", body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and message in error["message"], error
    assert "\n" not in error["message"]


def test_what_is_not_there_is_404(live, client, model):
    with pytest.raises(openai.NotFoundError, match="no document 'doc-1'"):
        chat(client, model, "Who?", document="doc-1")
    with pytest.raises(openai.NotFoundError, match="this server has"):
        chat(client, "gpt-4", "Who?")
    assert httpx.get(f"{live.url}/v2").json()["error"]["message"].startswith("GET /v2")
    assert httpx.get(f"{live.url}/v1/completions").status_code == 405


def test_a_body_that_is_no_json_is_refused(live):
    url = f"{live.url}/v1/chat/completions"
    for body in (b"{", b"[1]", b'"text"', b"[" * 100_000, b"\xff"):
        answer = httpx.post(url, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and "error" in answer.json()
    assert "Content-Type" in httpx.post(url, content=b"{}").json()["error"]["message"]


def test_a_prompt_of_too_few_tokens_is_refused(live):
    answer = live.post("/v1/completions", {"model": live.model, "prompt": "Hi"})
    assert answer.status_code == 400 and "three are needed" in answer.json()["error"]["message"]


def test_text_that_is_no_unicode_is_answered(live, report):
    """Half of a surrogate pair, which JSON can hold, must not end in an error of the server."""
    half = "\ud800"
    headers = {"Content-Type": "application/json"}

    def ask(**fields):
        body = {"model": live.model, "messages": [{"role": "user", "content": f"Who? {half}"}], **fields}
        return httpx.post(f"{live.url}/v1/chat/completions", content=json.dumps(body), headers=headers, timeout=60)

    assert ask(document=report, max_tokens=2, trace=True).status_code == 200
    assert ask(max_tokens=2).status_code == 200
    for wrong in ({half: 1}, {"method": half}, {"document": half}, {"model": half}, {"stop": [half * 2000]}):
        answer = ask(**wrong)
        assert answer.status_code in (400, 404) and answer.json()["error"]["message"]
    upload = dict(text=f"{half} A short text about nothing.", name=half)
    assert httpx.post(f"{live.url}/v1/documents", content=json.dumps(upload), headers=headers).status_code == 400
