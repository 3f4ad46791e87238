"""What the llm annotator keeps to: budgets, pauses, secrets, and what is paid once."""

import dataclasses
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback

import pytest

from anchortrain.annotate.llm import LlmAnnotator, describe
from anchortrain.annotate.passages import Answer
from anchortrain.errors import UserError
from tests.annotate.llm_server import LlmServer
from tests.annotate.llm_setup import STORIES, expected, opened, passages, quick
from tests.conftest import ROOT

KEY = "sk-test-4f9a8b7c6d5e"


def cached(directory) -> int:
    """Answers in the cache."""
    with sqlite3.connect(directory / "llm.sqlite") as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


# Retry-After and backoff.


@pytest.mark.parametrize("fault", ["429_seconds", pytest.param("429_date", marks=pytest.mark.slow)])
def test_retry_after_stops_all_requests(fault, tmp_path):
    with LlmServer(seconds=0.01) as server, opened(quick(server.url, concurrency=4), tmp_path) as annotator:
        annotator.annotate(passages(8))
        server.faults, server.retry_after = [fault], 1.0
        answers = annotator.annotate(passages(16, 8))
    assert all(answer.annotation for answer in answers)
    arrivals = [one.seconds for one in server.log[8:]]
    first = next(one.seconds for one in server.log if one.fault == fault)
    # Requests already on their way when the first refusal comes back may still arrive.
    quiet = [seconds for seconds in arrivals if first + 0.2 < seconds < first + 0.9]
    assert not quiet and any(seconds > first + 0.9 for seconds in arrivals)


def test_a_busy_server_delays_passages_but_none_is_given_up(tmp_path):
    with LlmServer(per_second=100) as server:
        with opened(quick(server.url, attempts=3, concurrency=16), tmp_path) as annotator:
            answers = annotator.annotate(passages(70))
    assert all(answer.annotation for answer in answers)
    tries = [one.passage for one in server.log]
    assert max(map(tries.count, tries)) > 3  # more refusals than attempts


def test_backoff_grows(tmp_path):
    with LlmServer(["500"], times=4) as server:
        with opened(quick(server.url, backoff_seconds=0.1), tmp_path) as annotator:
            annotator.annotate(passages(1))
    times = [one.seconds for one in server.log]
    waits = [b - a for a, b in zip(times, times[1:], strict=False)]
    for wait, longest in zip(waits, [0.1, 0.2, 0.4, 0.8], strict=True):
        assert longest / 2 <= wait < longest + 0.3


# Nothing more can succeed.


@pytest.mark.parametrize(
    "status, said",
    [
        ("401", "API_KEY_OF_TEST"),
        ("403", "key"),
        ("402", "credit"),
        ("429_quota", "credit"),
        ("404", "LlmConfig.model"),
        ("302", "endpoint"),
    ],
)
def test_errors_that_stay_end_the_job(status, said, tmp_path):
    config = {"api_key_env": "API_KEY_OF_TEST", "concurrency": 4}
    with LlmServer(seconds=0.02) as server, opened(quick(server.url, **config), tmp_path) as annotator:
        good = annotator.annotate(passages(10))
        server.faults, server.times = [status], 100
        with pytest.raises(UserError, match=f"{status[:3]}.*{said}.*what is finished is saved"):
            annotator.annotate(passages(200))
        sent = server.requests
        assert sent <= 10 + 4
        with pytest.raises(UserError, match=status[:3]):
            annotator.annotate(passages(300, 200))
        assert server.requests == sent  # nothing more is sent
        assert annotator.annotate(passages(10)) == good  # but what is cached is there


def test_a_wrong_path_and_a_wrong_key_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY_OF_TEST", "wrong-key-of-test")
    with LlmServer(key=KEY) as server:
        with (
            opened(quick(server.url + "/v9"), tmp_path) as annotator,
            pytest.raises(UserError, match="401.*set the key"),
        ):
            annotator.annotate(passages(1))
        config = quick(server.url, api_key_env="API_KEY_OF_TEST")
        with opened(config, tmp_path) as annotator, pytest.raises(UserError, match=r"401.*\[key\].*check the key"):
            annotator.annotate(passages(1))
        monkeypatch.setenv("API_KEY_OF_TEST", KEY)
        config = quick(server.url + "/v9", api_key_env="API_KEY_OF_TEST")
        with opened(config, tmp_path) as annotator, pytest.raises(UserError, match="404.*chat/completions follows"):
            annotator.annotate(passages(1))


def test_an_endpoint_that_never_answers_is_named(tmp_path):
    with LlmServer() as server:
        port = server.url.split(":")[2].split("/")[0]
    with opened(quick(server.url, attempts=3), tmp_path) as annotator:
        with pytest.raises(UserError, match=f"^127.0.0.1:{port}: the endpoint does not answer.*start the server"):
            annotator.annotate(passages(50))
        assert annotator.spent()["requests"] == 0
    with LlmServer(["hang"], times=9) as server:
        with opened(quick(server.url, attempts=2, timeout_seconds=0.2), tmp_path) as annotator:
            with pytest.raises(UserError, match="does not answer.*0.2 seconds"):
                annotator.annotate(passages(50))


def test_a_server_that_dies_on_the_way_ends_the_job_and_its_return_goes_on(tmp_path):
    asked = passages(60)
    with LlmServer() as server, opened(quick(server.url, attempts=3), tmp_path) as annotator:
        first = annotator.annotate(asked[:20])
        server.__exit__(None, None, None)
        with pytest.raises(UserError, match="does not answer"):
            annotator.annotate(asked)
    port = int(server.url.split(":")[2].split("/")[0])
    with LlmServer(port=port) as server, opened(quick(server.url), tmp_path) as annotator:
        answers = annotator.annotate(asked)
        assert answers[:20] == first and server.requests == 40


# Paid once.


def test_a_second_run_and_another_annotator_send_nothing(tmp_path):
    asked = passages(25)
    with LlmServer() as server:
        with opened(quick(server.url), tmp_path) as annotator:
            answers = annotator.annotate(asked)
        with opened(quick(server.url), tmp_path) as one, opened(quick(server.url), tmp_path) as other:
            assert one.annotate(asked) == other.annotate(asked[::-1])[::-1] == answers
        assert server.requests == 25
        for change in ({"model": "other"}, {"temperature": 0.5}, {"max_answer_tokens": 99}, {"structured": "none"}):
            before = server.requests
            with opened(quick(server.url, **change), tmp_path) as annotator:
                annotator.annotate(asked[:1])
            assert server.requests == before + 1, change
        with opened(quick(server.url), tmp_path) as annotator:
            annotator.annotate([asked[0]._replace(before="It was summer."), asked[0]._replace(kind="verse")])
        assert server.requests == 31


def test_a_cache_elsewhere_is_shared_but_spending_is_not(tmp_path):
    asked = passages(10)
    with LlmServer() as server:
        for job in ("a", "b"):
            config = quick(server.url, cache=str(tmp_path / "cache"))
            with opened(config, tmp_path / job) as annotator:
                annotator.annotate(asked)
                assert annotator.spent()["requests"] == (10 if job == "a" else 0)
    assert server.requests == 10


def test_two_annotators_at_once_agree(tmp_path):
    asked, found = passages(60), []
    with LlmServer(seconds=0.005) as server:
        with opened(quick(server.url), tmp_path) as one, opened(quick(server.url), tmp_path) as other:
            threads = [threading.Thread(target=lambda a=a: found.append(a.annotate(asked))) for a in (one, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert one.spent() != {} and server.requests <= 120
    assert found[0] == found[1] and cached(tmp_path) == 60
    with opened(quick(server.url), tmp_path) as annotator:
        assert annotator.spent()["requests"] == server.requests  # both counted


SCRIPT = """
import sys
from pathlib import Path
from tests.annotate.llm_setup import opened, passages, quick
with opened(quick(sys.argv[1]), Path(sys.argv[2])) as annotator:
    for start in range(0, 200, 50):
        annotator.annotate(passages(start + 50, start))
print("finished")
"""


def test_processes_share_a_cache(tmp_path):
    with LlmServer() as server:
        command = [sys.executable, "-c", SCRIPT, server.url, str(tmp_path)]
        running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.communicate(timeout=50)[0] for process in running] == ["finished\n"] * 3
        assert cached(tmp_path) == 200
        with opened(quick(server.url), tmp_path) as annotator:
            assert annotator.spent()["requests"] == server.requests
            assert annotator.annotate(passages(200)) == expected(passages(200), tmp_path / "other")


@pytest.mark.parametrize("after", [110, pytest.param(30, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_without_paying_again(after, tmp_path):
    asked = passages(200)
    with LlmServer(seconds=0.02) as server:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, server.url, str(tmp_path)], cwd=ROOT)
        while sum(server.answered.values()) < after:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while server.in_flight:
            time.sleep(0.01)
        saved, sent = cached(tmp_path), server.requests
        assert after - 16 <= saved <= sent <= saved + 16
        with opened(quick(server.url), tmp_path) as annotator:
            assert annotator.spent()["requests"] >= sent  # what was in flight counts
            answers = annotator.annotate(asked)
        assert server.requests == sent + 200 - saved
    assert answers == expected(asked, tmp_path / "other")


# Budgets.


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_requests_never_exceed_their_limit(limit, tmp_path):
    with LlmServer(["500", "429", "prose", "cut"], share=0.5, seconds=0.005) as server:
        for _ in range(2):  # over all runs
            with opened(quick(server.url, max_requests=limit), tmp_path) as annotator:
                with pytest.raises(UserError, match="max_requests.*what is finished is saved; raise LlmConfig.max_req"):
                    annotator.annotate(passages(60))
                assert annotator.spent()["requests"] == server.requests == limit
        assert cached(tmp_path) == sum(server.answered.values()) > 0 or limit == 1
        with opened(quick(server.url), tmp_path) as annotator:
            assert all(answer.annotation for answer in annotator.annotate(passages(60)))
        assert set(server.answered.values()) == {1}


def test_tokens_and_money_never_exceed_their_limits(tmp_path):
    prices = {"prompt_price": 2.0, "answer_price": 10.0}
    for limit in ({"max_tokens": 30_000}, {"max_cost": 0.06} | prices):
        directory = tmp_path / next(iter(limit))
        with LlmServer(["500", "hang", "prose"], share=0.2, seconds=0.005) as server:
            config = quick(server.url, timeout_seconds=0.5, **limit)
            with opened(config, directory) as annotator:
                with pytest.raises(UserError, match=f"no room for another request.*{next(iter(limit))}"):
                    annotator.annotate(passages(400))
                spent = annotator.spent()
        assert server.requests > 16 and spent["requests"] == server.requests
        tokens = spent["prompt_tokens"] + spent["answer_tokens"]
        assert server.tokens <= tokens
        if "max_tokens" in limit:
            assert tokens <= 30_000 and spent["cost"] == 0
        else:
            assert spent["cost"] <= 0.06
            assert spent["cost"] == pytest.approx((2 * spent["prompt_tokens"] + 10 * spent["answer_tokens"]) / 1e6)


def test_spending_is_what_the_server_counted(tmp_path):
    with LlmServer() as server, opened(quick(server.url, prompt_price=3, answer_price=5), tmp_path) as annotator:
        annotator.annotate(passages(20))
        spent = annotator.spent()
    assert spent["requests"] == 20 and spent["prompt_tokens"] + spent["answer_tokens"] == server.tokens
    assert json.loads(json.dumps(spent)) == spent
    with LlmServer(["no_usage"]) as server, opened(quick(server.url), tmp_path / "other") as annotator:
        annotator.annotate(passages(20))
        assert annotator.spent()["prompt_tokens"] > server.tokens  # the upper bound
        assert annotator.spent()["answer_tokens"] == 20 * 300


# Secrets.


def test_the_key_is_sent_and_never_told(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("API_KEY_OF_TEST", KEY)
    told = []
    faults = ["echo", "echo_500", "cut", "429"]
    with LlmServer(faults, key=KEY, share=0.7, times=9) as server:
        config = quick(server.url, api_key_env="API_KEY_OF_TEST", attempts=2)
        with opened(config, tmp_path) as annotator:
            answers = annotator.annotate(passages(40))
            told += [repr(answers), repr(annotator.spent()), json.dumps(describe(config, STORIES)), repr(annotator)]
            server.key = "another"
            with pytest.raises(UserError) as raised:
                annotator.annotate(passages(41, 40))
            told += traceback.format_exception(raised.value)
            files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert {"echo", "echo_500"} <= {one.fault for one in server.log}
    assert any(answer.annotation for answer in answers) and any("[key]" in (a.failed or "") for a in answers)
    assert "127.0.0.1" not in json.dumps(describe(config, STORIES))
    assert {record.name.split(".")[0] for record in caplog.records} >= {"httpx2", "httpcore2"}
    assert KEY not in caplog.text and KEY not in "".join(told)
    assert files and KEY.encode() not in files


@pytest.mark.parametrize("key", ["qxz\u00e9", "qxz qxw", "qxz\nqxw"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key, tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY_OF_TEST", key)
    with pytest.raises(UserError, match="API_KEY_OF_TEST") as raised:
        LlmAnnotator(quick("http://127.0.0.1:9/v1", api_key_env="API_KEY_OF_TEST"), STORIES, tmp_path)
    assert "qx" not in str(raised.value)


# The file.


def test_a_full_disk_is_named_and_what_is_saved_stays(tmp_path):
    asked = passages(400)
    with LlmServer() as server:
        with opened(quick(server.url), tmp_path) as annotator:
            annotator.annotate(asked[:5])
        with sqlite3.connect(tmp_path / "llm.sqlite") as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        with opened(quick(server.url), tmp_path) as annotator:
            annotator._budget._database.run_now(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall())
            with pytest.raises(
                UserError, match="llm.sqlite: cannot keep answers: database or disk is full; free space"
            ):
                annotator.annotate(asked)
        before, saved = server.requests, cached(tmp_path)
        assert 5 < saved < 400
        with opened(quick(server.url), tmp_path) as annotator:
            assert all(answer.annotation for answer in annotator.annotate(asked))
        assert server.requests == before + 400 - saved


def test_a_file_that_became_read_only_is_named(tmp_path):
    with LlmServer() as server, opened(quick(server.url), tmp_path) as annotator:
        annotator._budget._database.run_now(lambda c: c.execute("PRAGMA query_only = ON"))
        with pytest.raises(UserError, match="llm.sqlite: cannot keep answers: attempt to write a readonly database"):
            annotator.annotate(passages(20))
    assert server.requests == 0  # nothing is sent that could not be counted


def test_a_file_that_is_no_database_and_a_place_that_cannot_be_made_are_named(tmp_path):
    (tmp_path / "llm.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(UserError, match="llm.sqlite: cannot keep answers: file is not a database"):
        LlmAnnotator(quick("http://127.0.0.1:9/v1"), STORIES, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/sub: cannot make the directory"):
        LlmAnnotator(quick("http://127.0.0.1:9/v1"), STORIES, tmp_path / "file" / "sub")
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / "llm.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version"):
        LlmAnnotator(quick("http://127.0.0.1:9/v1"), STORIES, other)


def test_a_damaged_answer_in_the_cache_is_asked_again(tmp_path):
    with LlmServer() as server:
        with opened(quick(server.url), tmp_path) as annotator:
            answers = annotator.annotate(passages(3))
        with sqlite3.connect(tmp_path / "llm.sqlite") as connection:
            connection.execute('UPDATE answers SET annotation = \'[["topic", "a; b"]]\'')
        with opened(quick(server.url), tmp_path) as annotator:
            assert annotator.annotate(passages(3)) == answers
            assert annotator.annotate(passages(3)) == answers
    assert server.requests == 6


def test_an_answer_of_which_nothing_is_left_is_an_empty_annotation(tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY_OF_TEST", "no-value-of-these-keys")
    closed = dataclasses.replace(STORIES, keys=tuple(key for key in STORIES.keys if key.values))
    with LlmServer(["echo"]) as server:
        annotator = LlmAnnotator(quick(server.url, api_key_env="API_KEY_OF_TEST"), closed, tmp_path)
        assert annotator.annotate(passages(1)) == annotator.annotate(passages(1)) == [Answer(())]
        annotator.close()
    assert server.requests == 1
