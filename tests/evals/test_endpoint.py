"""The endpoint judge, against a server on this machine."""

import json
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server

import pytest

from ledmerge.errors import DataError, LedmergeError
from ledmerge.evals.judges import endpoint
from ledmerge.evals.judges.endpoint import ask, harmful

KEY = "sk-very-secret"
MESSAGES = [{"role": "user", "content": "Hi"}]


def says(text):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server(monkeypatch):
    """Answers with `replies` in turn, the last again and again; notes what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers["Content-Length"])
            httpd.asked.append((self.path, dict(self.headers), json.loads(self.rfile.read(size))))
            reply = httpd.replies.pop(0) if len(httpd.replies) > 1 else httpd.replies[0]
            code, text, *headers = reply
            if code is None:
                return  # hangs up without a word
            self.send_response(code)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.replies, httpd.slept = [], [says("hello")], []
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    monkeypatch.setattr(endpoint.time, "sleep", httpd.slept.append)
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_the_request_and_the_answer(server):
    assert ask(server.url, "judge-1", MESSAGES, api_key=KEY) == "hello"
    [(path, headers, body)] = server.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert body == {"model": "judge-1", "messages": MESSAGES, "temperature": 0}


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_no_key_is_sent_where_there_is_none(server, key):
    ask(server.url, "m", MESSAGES, api_key=key)
    assert "Authorization" not in server.asked[0][1]


def test_addresses_may_be_whole_or_end_in_a_slash(server):
    for end in ("/", "/chat/completions", "/chat/completions?api-version=1"):
        ask(server.url + end, "m", MESSAGES, api_key=f"{KEY}\n")
    assert [path for path, _, _ in server.asked] == [
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/chat/completions?api-version=1",
    ]
    assert server.asked[0][1]["Authorization"] == f"Bearer {KEY}"


def test_a_busy_server_is_asked_again_later(server):
    server.replies = [
        (429, ""),
        (503, ""),
        (None, ""),
        (500, "", ("Retry-After", "20")),
        says("yes"),
    ]
    assert ask(server.url, "m", MESSAGES, api_key=KEY) == "yes"
    assert server.slept == [0, 1, 2, 4, 20]


def test_no_wait_is_endless(server):
    server.replies = [
        (429, "", ("Retry-After", "86400")),
        (429, "", ("Retry-After", "Tue")),
        says("a"),
    ]
    assert ask(server.url, "m", MESSAGES, api_key=KEY) == "a"
    assert server.slept == [0, 60, 2]


def test_a_failing_server_is_named_without_the_key(server):
    server.replies = [(500, f"no luck with {KEY}")]
    with pytest.raises(LedmergeError) as caught:
        ask(f"{server.url}?token={KEY}", "m", MESSAGES, api_key=KEY, retries=2)
    assert str(caught.value) == (
        f"{server.url}: HTTP 500, 'no luck with ***'; asked 3 times; is the server up, and the "
        "address right?"
    )
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("code", "wrong"),
    [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "the address and the model's name")],
)
def test_a_refused_request_is_not_repeated(server, code, wrong):
    server.replies = [(code, f'{{"error": "Incorrect API key provided: {KEY}"}}')]
    with pytest.raises(LedmergeError, match=rf"HTTP {code}, .*\*\*\*.*; check {wrong}") as caught:
        ask(server.url, "m", MESSAGES, api_key=KEY)
    assert KEY not in str(caught.value)
    assert len(server.asked) == 1


def test_the_key_is_not_taken_along_by_a_redirect(server):
    server.replies = [(307, "", ("Location", f"{server.url}/elsewhere")), says("hello")]
    with pytest.raises(LedmergeError, match="HTTP 307, ''; check the address"):
        ask(server.url, "m", MESSAGES, api_key=KEY)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        '{"choices": []}',
        says(None)[1],
        '{"choices": [{"text": "a"}]}',
        "[" * 9999,
    ],
)
def test_another_answer_is_named(server, text):
    server.replies = [(200, text)]
    with pytest.raises(LedmergeError, match=r"/v1: sent .*expected a chat completion with a text"):
        ask(server.url, "m", MESSAGES, api_key=KEY)
    assert len(server.asked) == 1


def test_a_silent_server_times_out(server):
    with closing(create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(LedmergeError, match=f"{url}: timed out; asked 2 times"):
            ask(url, "m", MESSAGES, api_key=KEY, timeout=0.05, retries=1)
    with pytest.raises(LedmergeError, match=f"{url}: .*refused; asked 1 times"):
        ask(url, "m", MESSAGES, api_key=KEY, retries=0)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/v1", "host/v1", "http://", "http://a b/v1", "http://[1"],
)
def test_only_the_web_is_asked(url):
    with pytest.raises(LedmergeError, match="is no address of an API, such as https://host/v1"):
        ask(url, "m", MESSAGES, api_key=KEY)


def test_secrets_are_not_shown(server):
    with pytest.raises(LedmergeError, match=r"^http://127.*/v1: has a password") as caught:
        ask(server.url.replace("//", f"//me:{KEY}@"), "m", MESSAGES, api_key=None)
    assert KEY not in str(caught.value)
    for key in (f"{KEY}\nX: y", f"{KEY}é", f"{KEY}\x00"):
        with pytest.raises(LedmergeError, match="OPENAI_API_KEY holds characters") as caught:
            ask(server.url, "m", MESSAGES, api_key=key)
        assert KEY not in str(caught.value)
    assert server.asked == []


def test_each_pair_is_judged(server):
    server.replies = [says("Yes."), says("no")]
    pairs = [("Do harm.", 'Sure! "}'), ("Do harm.", "No.")]
    assert harmful(server.url, "m", pairs, api_key=KEY) == [True, False]
    for pair, (_, _, body) in zip(pairs, server.asked, strict=True):
        rule, user = body["messages"]
        assert (rule["role"], rule["content"]) == ("system", endpoint.RULE)
        assert (user["role"], json.loads(user["content"])) == (
            "user",
            dict(zip(("request", "answer"), pair, strict=True)),
        )
    assert harmful(server.url, "m", [], api_key=KEY) == []


def test_a_judge_that_does_not_decide_is_named(server):
    server.replies = [says("It depends.")]
    with pytest.raises(
        DataError, match=r"/v1, on the answer to 'Do harm.': the judge answered 'It"
    ):
        harmful(server.url, "m", [("Do harm.", "Sure!")], api_key=KEY)
