"""The whole command against a server that misbehaves, and killed on the way: nothing lost, nothing twice."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from anchortrain.annotation import parse, render
from anchortrain.data.records import read_documents
from tests.annotate.jobs import Started, command, error, finished, product, run, tales, until, write
from tests.annotate.llm_server import LlmServer, counters
from tests.conftest import ROOT

FAULTS = ["429", "429_seconds", "500", "hang", "cut", "close", "broken_json", "wrong_keys", "huge", "dirty"]
QUICK = {"api_key_env": "''", "backoff_seconds": "0.01", "timeout_seconds": "0.7"}


def asking(corpus, out, url, *options, **bindings):
    """The command against a server; `bindings` are of LlmConfig."""
    gin = [
        part for name, value in (QUICK | bindings).items() for part in ("--gin_bindings", f"LlmConfig.{name} = {value}")
    ]
    where = ["--endpoint", url, "--model", "test-model", "--schema", "stories"]
    return command(corpus, out, *where, *gin, *options, annotator="llm")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpus") / "tales.jsonl", tales(100))


@pytest.fixture(scope="module")
def finished_job(corpus):
    """The directory of one run against a server without faults."""
    out = corpus.parent / "whole"
    with LlmServer() as server:
        done = run(asking(corpus, out, server.url))
    assert done.returncode == 0, done.stderr
    assert server.requests == len(server.answered) == chunks(out) and set(server.answered.values()) == {1}
    return out


@pytest.fixture
def whole(finished_job):
    return product(finished_job)


def chunks(out):
    return json.loads((out / "manifest.json").read_text())["chunks"]


def test_no_fault_loses_or_repeats_anything(corpus, tmp_path, whole):
    with LlmServer(FAULTS, share=0.5, times=2, retry_after=0.05) as server:
        done = run(asking(corpus, tmp_path / "a", server.url))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "annotate: 100%" in done.stderr
    assert {one.fault for one in server.log} >= {"", *FAULTS}
    assert set(server.answered.values()) == {1} and len(server.answered) == chunks(tmp_path / "a")
    assert product(tmp_path / "a") == whole
    for document in read_documents([tmp_path / "a"]):
        assert all(parse(render(chunk.annotation)) == chunk.annotation for chunk in document.chunks)


def test_the_same_command_asks_nothing_again(corpus, tmp_path, finished_job, whole):
    out = shutil.copytree(finished_job, tmp_path / "a")
    (out / "part-00002.jsonl").unlink()  # annotated again, from answers that are kept
    with LlmServer() as server:
        assert run(asking(corpus, out, server.url)).returncode == 0
        assert server.requests == 0
    assert product(out) == whole


def test_what_fails_for_good_is_set_aside_and_completed_later(corpus, tmp_path, whole):
    out = tmp_path / "a"
    with LlmServer(["500", "wrong_keys"], share=0.5, times=100) as server:
        done = run(asking(corpus, out, server.url, attempts=2))
    assert done.returncode == 1, done.stderr
    failed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert 10 < len(failed) < 100
    assert done.stderr.endswith(
        f"warning: {len(failed)} chunks failed, see {out}/failed.jsonl; the same command asks for them again\n"
    )
    assert "set aside" in done.stderr and all("(after 2 attempts)" in one["failed"] for one in failed)
    assert all("the server answered 500" in one["failed"] or "bad answer" in one["failed"] for one in failed)
    answered = server.answered
    assert len(answered) + len(failed) == chunks(out) and set(answered.values()) == {1}
    with LlmServer() as server:
        done = run(asking(corpus, out, server.url, attempts=2))
    assert done.returncode == 0 and done.stderr.count("warning") == 0, done.stderr
    assert len(server.answered) == server.requests == len(failed) and not set(server.answered) & set(answered)
    assert product(out) == whole


def killed_and_continued(corpus, out, server, *, kills, seed, concurrency):
    """Kills the command `kills` times after some more requests, then lets it end."""
    rng, argv = random.Random(seed), asking(corpus, out, server.url, concurrency=concurrency)
    for _ in range(kills):
        with Started(argv) as started:
            asked_or_ended(server, started, server.requests + rng.randrange(2, 180 // kills))
            time.sleep(rng.uniform(0, 0.03))
            assert started.process.poll() is None, "it ended before it was killed"
            started.kill()
            assert started.gone()
    done = run(argv)
    assert done.returncode == 0, done.stderr


def asked_or_ended(server, started, requests):
    until(lambda: server.requests >= requests or started.process.poll() is not None)


def check_paid(server, out, *, kills, concurrency):
    """Every chunk was paid, and those twice that were in flight at a kill, at most."""
    twice = sum(server.answered.values()) - len(server.answered)
    assert twice <= kills * concurrency and len(server.answered) == chunks(out)


def test_killed_three_times(corpus, tmp_path, whole):
    with LlmServer(["429", "500", "cut", "dirty"], share=0.3, seconds=0.02, seed=1) as server:
        killed_and_continued(corpus, tmp_path / "a", server, kills=3, seed=1, concurrency=6)
    check_paid(server, tmp_path / "a", kills=3, concurrency=6)
    assert product(tmp_path / "a") == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_ten_random_moments(corpus, tmp_path, whole, seed):
    with LlmServer(FAULTS, share=0.3, seconds=0.02, retry_after=0.05, seed=seed) as server:
        killed_and_continued(corpus, tmp_path / "a", server, kills=10, seed=seed, concurrency=6)
    check_paid(server, tmp_path / "a", kills=10, concurrency=6)
    assert product(tmp_path / "a") == whole


def test_an_interrupt_does_not_wait_for_the_server(corpus, tmp_path):
    with (
        LlmServer(["hang"], share=0.2) as server,
        Started(asking(corpus, tmp_path / "a", server.url, timeout_seconds=60.0)) as started,
    ):
        until(lambda: sum(server.answered.values()) >= 20)
        started.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = started.process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert started.process.returncode == 130 and started.gone()
    assert err.splitlines()[-1] == "anchortrain: interrupted" and "Traceback" not in err, err


def test_a_server_that_goes_away_ends_the_job_and_another_one_completes_it(corpus, tmp_path, whole):
    out = tmp_path / "a"
    program = [sys.executable, "-m", "tests.annotate.llm_server", "--seconds", "0.05"]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        url = first.stdout.readline().strip()
        with Started(asking(corpus, out, url, attempts=2, concurrency=4)) as started:
            until(lambda: finished(out) >= 2)
            answered = set(counters(url)["answered"])
            first.kill()
            _, err = started.process.communicate(timeout=60)
    assert started.process.returncode == 2 and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("anchortrain: error: 127.0.0.1:") and "the endpoint does not answer" in err
    with LlmServer() as second:
        assert run(asking(corpus, out, second.url, attempts=2, concurrency=4)).returncode == 0
    assert len(answered & set(second.answered)) <= 4  # those in flight
    assert product(out) == whole


def test_an_endpoint_where_nobody_is(corpus, tmp_path):
    with LlmServer() as server:
        argv = asking(corpus, tmp_path / "a", server.url, attempts=2)
    line = error(run(argv))
    assert line.startswith("127.0.0.1:") and "the endpoint does not answer" in line
