"""The endpoint engine against a real HTTP server in this process: every way in which one lets its users down."""

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from active_reading.augment import endpoint
from active_reading.augment.endpoint import Concurrency, EndpointEngine, EndpointSettings
from active_reading.augment.engine import TOO_LONG, Completion, Sampling

SAMPLING = Sampling(0.5, 0.9, 32, 7)
ANSWER = {
    "choices": [{"message": {"content": " The owl sleeps. "}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}},
}
Reply = Callable[[Any, int], None]


class Server:
    """Answers the nth request with `reply(handler, n)`; remembers what it was asked, and when."""

    def __init__(self, reply: Reply) -> None:
        server, self.bodies, self.headers, self.times = self, [], [], []
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                    server.headers.append(dict(self.headers))
                    server.times.append(time.monotonic())
                    number = len(server.times)
                    server.at_once += 1
                    server.most_at_once = max(server.at_once, server.most_at_once)
                try:
                    reply(self, number)
                finally:
                    with lock:
                        server.at_once -= 1

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(handler: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def close_mid_stream(handler: Any, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Reply], Server]]:
    servers: list[Server] = []

    def start(reply: Reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MAX_PAUSE", 0.01)


def ask(
    server: Server | str, count: int = 1, most: int = 8, sampling: Sampling = SAMPLING, **settings: Any
) -> dict[str, Completion]:
    url = server if isinstance(server, str) else server.url
    engine = EndpointEngine(EndpointSettings(url=url, model="tiny", **settings), most)
    try:
        for number in range(count):
            engine.submit(f"r{number}", [{"role": "user", "content": "The owl."}], sampling)
        done: list[Completion] = []
        while engine.num_running:
            done += engine.poll()
    finally:
        engine.close()
    return {completion.request_id: completion for completion in done}


def test_an_answer_comes_back_with_its_counts_and_the_request_says_all_that_was_asked(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server = serve(lambda handler, _: send(handler, 200, ANSWER))
    (done,) = ask(server).values()
    assert done == Completion("r0", "The owl sleeps.", "stop", 9, 4, cached_tokens=6)
    assert server.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "The owl."}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 32,
            "seed": 7,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret-key"


def test_half_a_character_in_an_answer_becomes_one_that_a_file_can_hold(serve):
    said = {"choices": [{"message": {"content": "The \ud83d owl"}, "finish_reason": "stop"}]}
    (done,) = ask(serve(lambda handler, _: send(handler, 200, said))).values()
    assert done.text == "The \ufffd owl"


def test_a_key_with_a_line_end_is_sent_without_it(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key\n")
    server = serve(lambda handler, _: send(handler, 200, ANSWER))
    ask(server)
    assert server.headers[0]["Authorization"] == "Bearer secret-key"


@pytest.mark.parametrize("key", ["sk-\u2019x\u2019", "sk-two\nlines"])
def test_what_can_be_no_key_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="^OPENAI_API_KEY in the environment is no key") as told:
        EndpointEngine(EndpointSettings(url="http://127.0.0.1:9", model="tiny"), 1)
    assert "sk-" not in str(told.value)


def test_a_yes_or_no_comes_back_as_the_probability_of_a_yes(serve):
    candidates = [{"token": "Yes", "logprob": math.log(0.6)}, {"token": " no", "logprob": math.log(0.2)}]
    choice = {"message": {"content": "Yes"}, "finish_reason": "length"}
    said = {"choices": [choice | {"logprobs": {"content": [{"top_logprobs": candidates}]}}]}
    server = serve(lambda handler, _: send(handler, 200, said))
    (done,) = ask(server, sampling=dataclasses.replace(SAMPLING, yes_no=True)).values()
    assert (done.text, done.finish_reason, done.error) == ("0.750000", "stop", None)
    assert server.bodies[0]["max_tokens"] == 1
    assert server.bodies[0]["top_logprobs"] == 20


def test_a_server_that_gives_no_probabilities_is_a_bad_answer(serve):
    server = serve(lambda handler, _: send(handler, 200, ANSWER))
    (done,) = ask(server, sampling=dataclasses.replace(SAMPLING, yes_no=True), max_tries=1).values()
    assert done.error is not None
    assert done.error.startswith("bad_answer")


def test_without_a_key_in_the_environment_none_is_sent(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = serve(lambda handler, _: send(handler, 200, ANSWER))
    ask(server)
    assert "Authorization" not in server.headers[0]


PASSING: dict[str, tuple[Reply, str]] = {
    "too many requests": (lambda h, _: send(h, 429, {"error": "slow down"}), "rate_limited: HTTP 429"),
    "broken": (lambda h, _: send(h, 500, b"oops"), "server_error: HTTP 500 oops"),
    "overloaded": (lambda h, _: send(h, 503, b""), "server_error: HTTP 503"),
    "closes in the middle": (close_mid_stream, "connection: "),
    "nonsense": (lambda h, _: send(h, 200, b"<html>Hello</html>"), "bad_answer: JSONDecodeError in '<html>Hello"),
    "another shape": (lambda h, _: send(h, 200, {"result": []}), "bad_answer: KeyError"),
    "a list": (lambda h, _: send(h, 200, [1]), "bad_answer: TypeError"),
}


@pytest.mark.parametrize("name", PASSING)
def test_trouble_that_passes_is_not_seen(serve, name):
    reply, _ = PASSING[name]
    server = serve(lambda handler, n: reply(handler, n) if n <= 2 else send(handler, 200, ANSWER))
    (done,) = ask(server).values()
    assert (done.text, done.failed, len(server.times)) == ("The owl sleeps.", False, 3)


@pytest.mark.parametrize("name", PASSING)
def test_trouble_that_stays_is_a_failure_of_a_type_after_so_many_tries(serve, name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    reply, message = PASSING[name]
    server = serve(reply)
    (done,) = ask(server, max_tries=3).values()
    assert done.failed
    assert done.is_final
    assert done.error is not None
    assert done.error.startswith(message)
    assert "secret-key" not in done.error
    assert len(server.times) == 3


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"who are you", "not_allowed: HTTP 401 who are you"),
        (404, b"no such model", "bad_request: HTTP 404 no such model"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(serve, status, body, kind):
    server = serve(lambda handler, _: send(handler, status, body))
    (done,) = ask(server).values()
    assert (done.error, done.failed, len(server.times)) == (kind, True, 1)


def test_a_prompt_beyond_the_servers_context_is_rejected_as_such(serve):
    message = {"error": "This model's maximum context length is 10 tokens"}
    server = serve(lambda handler, _: send(handler, 400, message))
    (done,) = ask(server).values()
    assert (done.finish_reason, done.failed, len(server.times)) == (TOO_LONG, False, 1)


def test_a_server_that_hangs_is_a_timeout(serve):
    released = threading.Event()
    server = serve(lambda *_: released.wait(5) and None)
    (done,) = ask(server, timeout_seconds=0.2, max_tries=2).values()
    released.set()
    assert done.error == "timeout: no answer in 0.2 s"
    assert len(server.times) == 2


def test_where_nobody_listens_the_connection_fails():
    (done,) = ask("http://127.0.0.1:9/v1", max_tries=2).values()
    assert done.error is not None
    assert done.error.startswith("connection: ConnectError")


def test_retry_after_holds_back_every_request(serve):
    def reply(handler: Any, number: int) -> None:
        if number == 1:
            send(handler, 429, b"", {"Retry-After": "0.3"})
        else:
            send(handler, 200, ANSWER)

    server = serve(reply)
    done = ask(server, count=6, most=1)
    assert [completion.failed for completion in done.values()] == [False] * 6
    assert server.times[1] - server.times[0] >= 0.3


def test_every_request_is_answered_once_while_the_server_refuses_every_third(serve):
    def reply(handler: Any, number: int) -> None:
        send(handler, 429 if number % 3 == 0 else 200, ANSWER)

    done = ask(serve(reply), count=60, max_tries=20)
    assert sorted(done) == sorted(f"r{number}" for number in range(60))
    assert not any(completion.failed for completion in done.values())


def test_no_more_requests_run_at_once_than_allowed(serve):
    def slow(handler: Any, _: int) -> None:
        time.sleep(0.01)
        send(handler, 200, ANSWER)

    server = serve(slow)
    ask(server, count=80, most=6)
    assert 4 <= server.most_at_once <= 6


def test_the_number_at_once_grows_by_one_a_round_and_halves_once_for_all_that_were_refused_together():
    at_once = Concurrency(16)
    for _ in range(4):
        at_once.answered()
    assert 4.8 < at_once.limit <= 5
    for _ in range(200):
        at_once.answered()
    assert at_once.limit == 16
    for _ in range(16):
        at_once.refused(16)
    assert at_once.limit == 8
    at_once.refused(8)
    assert at_once.limit == 4
    for _ in range(100):
        at_once.refused(1)
    assert at_once.limit == 1


def test_closing_gives_up_what_runs(serve):
    released = threading.Event()
    server = serve(lambda *_: released.wait(5) and None)
    engine = EndpointEngine(EndpointSettings(url=server.url, model="tiny"), 4)
    engine.submit("r0", [{"role": "user", "content": "The owl."}], SAMPLING)
    assert engine.poll() == []
    engine.close()
    released.set()
    assert not engine._thread.is_alive()
