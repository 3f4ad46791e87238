"""Clients that leave, full queues, time that is over, metrics, and the process with its signals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.conftest import ROOT

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "What happened?"}]
LONG = {"model": "tiny", "messages": ASKED, "max_tokens": 256, "n": 16, "seed": 1}


def metric(url, name):
    """The value of one line of the metrics."""
    for line in httpx2.get(f"{url}/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def head(length) -> bytes:
    """Of a request whose body has so many bytes."""
    lines = (f"POST {CHAT} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def send(url, body) -> socket.socket:
    """A request on a bare connection."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head(len(content)) + content)
    return connection


@pytest.fixture(scope="module")
def slow_server(make_server):
    """So much to draw that nothing is over before a test wants it to be."""
    with make_server(max_tokens=6000, places=16, max_n=64) as server:
        yield server


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_vanishes_frees_its_places_within_a_second(slow_server, stream, reset):
    body = LONG | {"max_tokens": 6000, "stream": stream, "n": 24}
    connection = send(slow_server.url, body)
    if stream:
        assert b"data: " in connection.recv(65536) + connection.recv(65536)
    else:
        wait_for(lambda: slow_server.service.worker.in_flight == 16, 30)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    worker = slow_server.service.worker
    wait_for(lambda: not (worker.in_flight or worker.waiting or worker.outstanding), 1.0)
    assert slow_server.service.running == 0


def test_a_full_queue_refuses_and_says_when_to_come_again(make_server):
    with make_server(places=16, max_queue=8, max_n=24, max_tokens=3000) as server:
        first = send(server.url, LONG | {"n": 20, "max_tokens": 3000, "stream": True})
        wait_for(lambda: server.service.worker.outstanding == 20, 30)
        answer = httpx2.post(server.url + CHAT, json=LONG | {"n": 5})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert error["code"] == "queue_full" and error["type"] == "rate_limit_error"
        wait_for(lambda: metric(server.url, "anchortrain_places_in_use") == 16, 30)
        first.close()
        wait_for(lambda: server.service.worker.outstanding == 0, 5)
        assert httpx2.post(server.url + CHAT, json=LONG | {"n": 5, "max_tokens": 4}).status_code == 200


def test_without_a_queue_what_fits_is_drawn_and_the_rest_refused(make_server):
    with make_server(places=16, max_queue=0, max_n=16, max_tokens=3000) as server:
        first = send(server.url, LONG | {"n": 12, "max_tokens": 3000, "stream": True})
        wait_for(lambda: server.service.worker.outstanding == 12, 30)
        assert httpx2.post(server.url + CHAT, json=LONG | {"n": 4, "max_tokens": 4}, timeout=60).status_code == 200
        answer = httpx2.post(server.url + CHAT, json=LONG | {"n": 5, "max_tokens": 4})
        assert answer.status_code == 429 and "4 more samples" in answer.json()["error"]["message"]
        first.close()
        wait_for(lambda: server.service.worker.outstanding == 0, 5)
        assert httpx2.post(server.url + CHAT, json=LONG | {"max_tokens": 4}, timeout=60).status_code == 200


def test_a_request_that_takes_too_long(make_server):
    with make_server(timeout_s=0.5, max_tokens=6000) as server:
        body = LONG | {"max_tokens": 6000}
        answer = httpx2.post(server.url + CHAT, json=body, timeout=30)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        text = httpx2.post(server.url + CHAT, json=body | {"stream": True}, timeout=30).text
        last = text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert server.service.worker.outstanding == 0
        host, port = server.url.removeprefix("http://").split(":")  # and one that never says all it has to say
        with socket.create_connection((host, int(port))) as idle:
            idle.sendall(head(9) + b"{")
            idle.settimeout(10)
            assert idle.recv(4096).startswith(b"HTTP/1.1 504 ")


def test_forbidding_all_is_a_refusal_and_forbidding_some_is_obeyed(server):
    first = httpx2.post(server.url + CHAT, json=LONG | {"n": 4, "max_tokens": 4, **annotated({})}).json()
    found = [tuple(tag) for choice in first["choices"] for tag in choice["anchortrain"]["annotation"]]
    forbidden = {}
    for key, value in found:
        forbidden.setdefault(key, []).append(value)
    body = LONG | {"n": 4, "max_tokens": 4, **annotated({"forbidden": forbidden})}
    for choice in httpx2.post(server.url + CHAT, json=body).json()["choices"]:
        tags = [tuple(tag) for tag in choice["anchortrain"]["annotation"]]
        assert not set(tags) & set(found)
    # Greedy, so that what is forbidden is drawn again and again.
    greedy = {"annotation_temperature": 0, "max_annotation_tokens": 10}
    (choice,) = httpx2.post(server.url + CHAT, json=LONG | {"n": 1, **annotated(greedy)}).json()["choices"]
    forbidden = dict([choice["anchortrain"]["annotation"][0]])
    body = LONG | {"n": 1, **annotated(greedy | {"forbidden": forbidden})}
    for choice in httpx2.post(server.url + CHAT, json=body, timeout=60).json()["choices"]:
        assert choice["finish_reason"] == "content_filter" and choice["message"]["content"] == ""
        assert "plans was without" in choice["message"]["refusal"]


def annotated(extension):
    return {"anchortrain": {"return_annotation": True, **extension}}


def test_steering_is_obeyed(server):
    for extension, expected in (
        ({"fixed": {"hero": "fox", "place": "mill"}}, {("hero", "fox"), ("place", "mill")}),
        ({"plan": [["place", "mill"], ["hero", "fox"]]}, {("place", "mill"), ("hero", "fox")}),
        ({"prefix": "place: mill; "}, {("place", "mill")}),
    ):
        body = LONG | {"n": 3, "max_tokens": 8, **annotated(extension)}
        for choice in httpx2.post(server.url + CHAT, json=body, timeout=60).json()["choices"]:
            assert choice["anchortrain"]["wellformed"]
            assert expected <= {tuple(tag) for tag in choice["anchortrain"]["annotation"]}
    empty = LONG | {"n": 1, **annotated({"plan": []})}
    (choice,) = httpx2.post(server.url + CHAT, json=empty, timeout=60).json()["choices"]
    assert choice["anchortrain"]["annotation"] == [] and choice["anchortrain"]["wellformed"]


def test_the_same_seed_gives_the_same_whatever_else_is_in_flight(server):
    body = {**LONG, "n": 2, "max_tokens": 40, "seed": 11}

    def texts(seed):
        answer = httpx2.post(server.url + CHAT, json=body | {"seed": seed}, timeout=60)
        return [choice["message"]["content"] for choice in answer.json()["choices"]]

    alone = texts(11)
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(texts, [11, *range(20), 11]))
    assert crowd[0] == crowd[12] == crowd[-1] == alone


def test_what_outlives_the_grace_is_told(make_server):
    with make_server(grace_s=0.3, max_tokens=3000) as server:
        with httpx2.stream("POST", server.url + CHAT, json=LONG | {"max_tokens": 3000, "stream": True}) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            server.service.draining = True
            last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"


def test_metrics_tell_what_happened(make_server):
    with make_server() as server:
        body = LONG | {"n": 2, "max_tokens": 5, "seed": 4}
        usage = httpx2.post(server.url + CHAT, json=body).json()["usage"]
        httpx2.post(server.url + CHAT, json={})
        httpx2.get(server.url + "/secret/of/somebody")
        annotation = usage["completion_tokens_details"]["reasoning_tokens"]
        for stage, count in (
            ("prompt", usage["prompt_tokens"]),
            ("annotation", annotation),
            ("response", usage["completion_tokens"] - annotation),
        ):
            assert metric(server.url, f'anchortrain_tokens_total{{stage="{stage}"}}') == count > 0
        for status in ("200", "400"):
            name = f'anchortrain_requests_total{{endpoint="{CHAT}",status="{status}"}}'
            assert metric(server.url, name) == 1
        text = httpx2.get(server.url + "/metrics").text
        assert "somebody" not in text and 'endpoint="other",status="404"' in text
        assert metric(server.url, f'anchortrain_request_seconds_count{{endpoint="{CHAT}"}}') == 2


def test_numbers_that_are_not_finite_end_what_is_in_flight_and_nothing_else(make_server):
    from anchortrain.errors import UserError

    with make_server() as server:
        step, times = server.service.worker._sampler.step, iter((True,))

        def faulty(tokens):
            updates = step(tokens)
            if next(times, False):
                raise UserError("not finite")
            return updates

        server.service.worker._sampler.step = faulty
        answer = httpx2.post(server.url + CHAT, json=LONG, timeout=60)
        assert answer.status_code == 500 and answer.json()["error"]["message"] == "not finite"
        assert server.service.worker._sampler.in_flight == server.service.worker.outstanding == 0
        assert httpx2.post(server.url + CHAT, json=LONG, timeout=60).status_code == 200
        assert httpx2.get(server.url + "/health").status_code == 200


def test_a_sampler_that_breaks_down_is_told_to_all(make_server):
    with make_server() as server:

        def broken(tokens, *, idle=None):
            raise FloatingPointError("boom")

        server.service.worker._sampler.step = broken
        answer = httpx2.post(server.url + CHAT, json=LONG)
        assert answer.status_code == 500 and answer.json()["error"]["code"] == "sampler_failed"
        assert httpx2.post(server.url + CHAT, json=LONG).status_code == 500
        assert httpx2.get(server.url + "/health").status_code == 500
        assert httpx2.get(server.url + "/ready").status_code == 503


# -- the process -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, model, vocabulary):
    """A run of the tiny model, as training leaves it."""
    from tests.serve.runs import write_run

    return write_run(tmp_path_factory.mktemp("run") / "tiny", model, vocabulary, ("hero", "place"))


@pytest.fixture
def process(run_dir):
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "ANCHORTRAIN_CACHE": str(run_dir.parent / "cache")}
    made = subprocess.Popen(
        [sys.executable, "-m", "anchortrain", "serve", str(run_dir), "--port", "0", "--places", "16",
         "--max_tokens", "900", "--max_prompt_tokens", "32", "--grace_s", "60"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | quick,
    )  # fmt: skip
    yield made
    made.kill()
    made.communicate()


def test_sigterm_lets_finish_what_runs_and_refuses_what_comes(process):
    said = process.stdout.readline()
    name, url = re.fullmatch(r"(\S+): (http://127\.0\.0\.1:\d+)\n", said).groups()
    assert name == "tiny" and httpx2.get(f"{url}/ready").status_code == 200
    body = LONG | {"max_tokens": 900, "n": 4, "stream": True}
    with httpx2.stream("POST", url + CHAT, json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx2.get(f"{url}/ready").status_code == 503, 5)
        assert httpx2.get(f"{url}/health").status_code == 200
        refused = httpx2.post(url + CHAT, json=LONG)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        ended = [choice["finish_reason"] for line in rest[:-1] for choice in json.loads(line[6:])["choices"]]
        assert len(list(filter(None, ended))) == 4
    assert process.wait(timeout=20) == 0
    log = process.stderr.read()
    assert "Traceback" not in log and "happened" not in log
    assert len(re.findall(r"POST /v1/chat/completions 200", log)) == 1


def test_a_second_signal_ends_at_once(process):
    url = process.stdout.readline().split()[-1]
    body = LONG | {"max_tokens": 900, "n": 64, "stream": True}
    with httpx2.stream("POST", url + CHAT, json=body, timeout=60) as stream:
        lines = stream.iter_lines()  # kept: its end would close the connection
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=2) == 128 + signal.SIGTERM
