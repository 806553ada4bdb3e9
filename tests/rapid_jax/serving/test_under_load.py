"""Many clients at once: every answer is that of its question alone, and memory stays what it is."""

import concurrent.futures
import gc
import json
import os
import random
import socket
from pathlib import Path

import httpx
import jax
import pytest

from rapid_jax.serving.load import Caller, measure
from tests.rapid_jax.serving.clients import MODEL, Client, question

METHODS = ("lc", "copy", "auto", "hd")


def resident_bytes():
    """Memory of this process, where the system says it."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0


def assert_same(engine, document, asked, text, **overrides):
    """The text of the question alone, but where the target's logits of two tokens are a near-tie (teacher forcing)."""
    alone = document.ask(asked, "lc", **overrides)
    if text.strip() == alone.text:
        return
    tokenizer, prompt = engine.target.tokenizer, document.prompt(engine.target).question(asked)
    logits = engine.target.logits([document.token_ids + prompt + list(alone.token_ids)])[0][-len(alone.token_ids) - 1 :]
    shown = ""
    for index in range(len(alone.token_ids)):
        shown = tokenizer.decode(alone.token_ids[: index + 1])
        if not text.startswith(shown.strip()):
            best, second = sorted(logits[index].tolist())[-1:-3:-1]
            assert not overrides.get("temperature") and best - second < 1e-4, (text, alone.text)
            return
    raise AssertionError((text, alone.text, shown))


@pytest.mark.slow
def test_two_hundred_requests_of_sixteen_clients(serve, serving_engine, document_text, read, questions):
    """Mixed lengths, methods and seeds, clients that disconnect, requests that are wrong."""
    rng = random.Random(7)
    with serve(seats=4, groups=2, queue=64) as live:
        document, model = live.upload(document_text), live.model

        def body(index):
            greedy = rng.random() < 0.7
            sampling = {} if greedy else dict(temperature=0.7, seed=rng.randrange(5))
            return {
                "model": model,
                "messages": [{"role": "user", "content": questions[index % len(questions)]}],
                "document": document,
                "method": METHODS[index % len(METHODS)] if greedy else "lc",
                "max_tokens": rng.choice((1, 5, 20, 60)),
                **sampling,
            }

        def good(body):
            answer = live.post("/v1/chat/completions", body)
            return body, answer.status_code, answer.json()

        def disconnects(body):
            text = json.dumps({**body, "max_tokens": 200, "stream": True}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
            with socket.create_connection(live.server.servers[0].sockets[0].getsockname()) as connection:
                connection.sendall(head.encode() + text)
                connection.recv(50)
            return body, None, None

        def wrong(body):
            answer = live.post("/v1/chat/completions", {**body, "temperature": -1})
            return body, answer.status_code, None

        kinds = [good] * 150 + [disconnects] * 30 + [wrong] * 20
        rng.shuffle(kinds)
        bodies = [body(index) for index in range(len(kinds))]
        sizes, resident, answers = [], [], []
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for start in range(0, len(kinds), 50):
                part = zip(kinds[start : start + 50], bodies[start : start + 50], strict=True)
                answers += list(pool.map(lambda pair: pair[0](pair[1]), part))
                live.until_idle()
                gc.collect()
                sizes.append(sum(x.nbytes for x in jax.live_arrays()))
                resident.append(resident_bytes())
        assert max(sizes[1:]) <= sizes[1] * 1.05, f"bytes of arrays grow: {sizes}"
        assert resident[-1] <= resident[1] * 1.1, f"the process grows: {resident}"
        statuses = [status for _, status, _ in answers]
        assert statuses.count(200) == 150 and statuses.count(400) == 20, statuses
        whole = httpx.get(f"{live.url}/metrics").text
        assert 'requests_total{path="/v1/chat/completions",status="400"} 20.0' in whole
    for sent, status, found in answers:
        if status == 200:
            settings = {name: sent[name] for name in ("temperature", "seed") if name in sent}
            text = found["choices"][0]["message"]["content"]
            asked = sent["messages"][0]["content"]
            assert_same(serving_engine, read, asked, text, max_new_tokens=sent["max_tokens"], **settings)


def test_the_measurement_counts_what_the_server_did(serve, document_text, questions):
    """Tokens, rounds and percentiles come from the answers, not from what was asked for."""
    with serve(seats=4) as live:
        caller = Caller(live.url, max_tokens=7)
        assert caller.upload(document_text, "report")["tokens"] > 1000
        one, many = measure(caller, questions, 4, 2)
        assert (one.at_a_time, many.at_a_time) == (1, 2)
        assert [answer.tokens for answer in one.answers] == [7] * 4
        assert [answer.text for answer in many.answers] == [answer.text for answer in one.answers]
        for load in (one, many):
            assert 0 < load.first_token(50) <= load.first_token(95) <= load.whole(95) <= load.seconds
            assert load.tokens_per_second == pytest.approx(28 / load.seconds)


def test_a_server_that_is_not_there_is_one_line(serve):
    with pytest.raises(ValueError, match="no server answers at http://127.0.0.1:9"):
        Caller("http://127.0.0.1:9")
    with serve(api_key="secret") as live, pytest.raises(ValueError, match="status 401"):
        Caller(live.url)


def test_the_worker_alone_under_threads(work, document_text, read, questions):
    """Threads that submit and cancel at any time neither lose a job nor mix up answers."""
    worker = work(seats=3)
    held = worker.library

    def one(index):
        asked = questions[index % len(questions)]
        client = Client(worker, {**question(asked, document, max_tokens=1 + index % 9), "model": MODEL})
        if index % 5 == 4:
            worker.cancel(client.job)
        return index, client.end()

    from tests.rapid_jax.serving.clients import call

    document = call(worker, lambda: held.upload(document_text, "report")).id
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for index, event in pool.map(one, range(30)):
            if index % 5 != 4:
                alone = read.ask(questions[index % len(questions)], "lc", max_new_tokens=1 + index % 9)
                assert event.answer.token_ids == alone.token_ids
