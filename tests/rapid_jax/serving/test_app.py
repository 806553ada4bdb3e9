"""Keys, limits, documents over HTTP, metrics, health, and the end."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from rapid_jax.serving.settings import ServerSettings
from tests.rapid_jax.serving.clients import wait_until


def body(live, text="Who keeps the kettle?", **more):
    return {"model": live.model, "messages": [{"role": "user", "content": text}], **more}


def test_a_document_is_uploaded_listed_and_deleted(live, document_text):
    made = live.post("/v1/documents", dict(text=document_text, name="houses")).json()
    assert made["name"] == "houses" and made["in_memory"] and made["truncated_tokens"] == 0
    assert made["characters"] == len(document_text) and made["tokens"] > 1000
    assert live.post("/v1/documents", dict(text=document_text, name="again")).json()["id"] == made["id"]
    listed = httpx.get(f"{live.url}/v1/documents").json()["data"]
    assert [entry["name"] for entry in listed if entry["id"] == made["id"]] == ["again"]
    assert httpx.get(f"{live.url}/v1/documents/{made['id']}").json()["name"] == "again"
    gone = httpx.delete(f"{live.url}/v1/documents/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "document", "deleted": True}
    assert httpx.delete(f"{live.url}/v1/documents/{made['id']}").status_code == 404
    assert live.post("/v1/chat/completions", body(live, document=made["id"])).status_code == 404


@pytest.mark.parametrize("name, data", [("a.txt", "utf-8"), ("b.txt", "utf-16"), ("c.md", "utf-8-sig")])
def test_a_file_is_uploaded_in_any_encoding(live, document_text, name, data):
    files = {"file": (name, f"\u00e9 {document_text}".encode(data))}
    made = httpx.post(f"{live.url}/v1/documents", files=files, timeout=60)
    assert made.status_code == 201, made.text
    assert made.json()["name"] == name and made.json()["characters"] == len(document_text) + 2


@pytest.mark.parametrize(
    "files, message",
    [
        ({"file": ("a.txt", b"")}, "has no text"),
        ({"file": ("a.bin", b"\x00\x01")}, "binary file"),
        ({"file": ("a.pdf", b"not a pdf")}, "a.pdf"),
        ({"other": ("a.txt", b"text")}, "has no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_400(live, files, message):
    answer = httpx.post(f"{live.url}/v1/documents", files=files, timeout=60)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize(
    "wrong", [{}, {"text": 5}, {"text": " "}, {"text": "x", "name": ""}, {"text": "x", "nam": "y"}]
)
def test_an_upload_without_a_text_is_refused(live, wrong):
    answer = live.post("/v1/documents", wrong)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_key_is_asked_for_where_one_is_set(serve):
    with serve(api_key="secret") as live:
        assert httpx.get(live.url).status_code == httpx.get(f"{live.url}/health").status_code == 200
        for path in ("/v1/models", "/v1/documents", "/metrics"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                answer = httpx.get(live.url + path, headers=headers)
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            live.client("wrong").models.list()
        assert live.client("secret").models.list().data
        assert "secret" not in repr(live.worker.settings)


@pytest.mark.parametrize("declared", [True, False])
def test_a_request_that_is_too_large_is_refused(serve, declared):
    """By what it says of itself, and by what comes, where it says nothing."""
    with serve(max_request_bytes=5000) as live:
        text = json.dumps(dict(text="x" * 20_000)).encode()
        content = text if declared else iter([text[:4000], text[4000:]])
        answer = httpx.post(f"{live.url}/v1/documents", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "request_too_large"
        assert live.post("/v1/documents", dict(text="A short text about nothing.")).status_code == 201


def test_a_full_queue_is_429_and_asks_for_patience(serve, document_text):
    with serve(seats=1, groups=1, queue=1) as live:
        document = live.upload(document_text)
        with httpx.stream(
            "POST", f"{live.url}/v1/chat/completions", timeout=60,
            json=body(live, document=document, stream=True, max_tokens=4000),
        ) as stream:  # fmt: skip
            lines = stream.iter_lines()  # an iterator that nobody holds closes the connection
            next(lines)
            waits = threading.Thread(
                target=lambda: live.post("/v1/chat/completions", body(live, document=document, max_tokens=1))
            )
            waits.start()
            wait_until(lambda: live.worker.waiting == 1)
            answer = live.post("/v1/chat/completions", body(live, document=document))
            assert answer.status_code == 429 and answer.headers["Retry-After"]
            with pytest.raises(openai.RateLimitError):
                live.client().chat.completions.create(**body(live), extra_body=dict(document=document))
        waits.join(60)
        live.until_idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_frees_its_row(serve, document_text, stream):
    """Whether it reads a stream or waits for the whole answer."""
    with serve(seats=1, groups=1) as live:
        document = live.upload(document_text)
        text = json.dumps(body(live, document=document, stream=stream, max_tokens=6000)).encode()
        connection = socket.create_connection(live.server.servers[0].sockets[0].getsockname())
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        connection.sendall(head.encode() + text)
        wait_until(lambda: live.worker.decoding == 1)
        if stream:
            connection.recv(100)
        begun = time.monotonic()
        connection.close()
        live.until_idle()
        assert time.monotonic() - begun < 10
        assert live.post("/v1/chat/completions", body(live, document=document, max_tokens=4)).status_code == 200


def test_a_deadline_is_504_or_the_end_of_a_stream(serve, document_text):
    with serve(deadline_seconds=1.0) as live:
        document = live.upload(document_text)
        answer = live.post("/v1/chat/completions", body(live, document=document, max_tokens=6000))
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
        with pytest.raises(openai.APIError, match="deadline"):
            list(
                live.client().chat.completions.create(
                    **body(live), max_tokens=6000, stream=True, extra_body=dict(document=document)
                )
            )


def test_the_end_finishes_answers_and_refuses_others(serve, document_text):
    """While it ends, the server still listens: a client learns that it should ask another one."""
    with serve() as live:
        document = live.upload(document_text)
        whole = live.post("/v1/chat/completions", body(live, document=document, max_tokens=300)).json()
        got = []
        asking = threading.Thread(
            target=lambda: got.append(live.post("/v1/chat/completions", body(live, document=document, max_tokens=300)))
        )
        asking.start()
        wait_until(lambda: live.worker.decoding == 1)
        live.server.handle_exit(15, None)
        wait_until(lambda: live.worker.draining)
        refused = live.post("/v1/chat/completions", body(live, document=document))
        if not got:  # it has not come to its end yet
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopping"
            assert httpx.get(f"{live.url}/health").status_code == 503
        asking.join(60)
        assert got[0].status_code == 200
        assert got[0].json()["choices"] == whole["choices"]
        wait_until(lambda: live.server.should_exit)


def test_metrics_count_what_happens(serve, document_text):
    with serve() as live:
        document = live.upload(document_text)
        live.post("/v1/chat/completions", body(live, document=document, method="copy", max_tokens=9))
        live.post("/v1/chat/completions", body(live, document="doc-1"))
        httpx.get(f"{live.url}/strange/path")
        text = httpx.get(f"{live.url}/metrics").text
        assert 'rapid_jax_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
        assert 'rapid_jax_requests_total{path="/v1/chat/completions",status="404"} 1.0' in text
        assert 'rapid_jax_requests_total{path="other",status="404"} 1.0' in text
        assert 'rapid_jax_generated_tokens_total{method="copy"} 9.0' in text
        assert 'rapid_jax_first_token_seconds_count{method="copy"} 1.0' in text
        assert "rapid_jax_decoding_requests 0.0" in text and "rapid_jax_documents 1.0" in text
        (size,) = (line.split()[1] for line in text.splitlines() if line.startswith("rapid_jax_document_bytes "))
        assert float(size) == live.worker.library.nbytes > 0


def test_health_and_page(live):
    assert httpx.get(f"{live.url}/health").json()["status"] == "ok"
    page = httpx.get(live.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text and "https://" not in page.text, "the page needs nothing from elsewhere"


@pytest.mark.parametrize(
    "wrong", [dict(seats=0), dict(queue=True), dict(method="magic"), dict(deadline_seconds=-1), dict(api_key="\u00e9")]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServerSettings(**wrong)


@pytest.mark.parametrize("site, status", [("cross-site", 403), ("same-site", 403), ("same-origin", 201), ("none", 201)])
def test_pages_of_other_sites_cannot_use_a_server_on_this_machine(live, site, status):
    """A browser sends their forms to localhost as well; it says so in a header that pages cannot change."""
    answer = live.post("/v1/documents", dict(text="A short text about nothing."), headers={"Sec-Fetch-Site": site})
    assert answer.status_code == status
    assert httpx.get(live.url, headers={"Sec-Fetch-Site": site}).status_code == 200, "a link to the page works"
