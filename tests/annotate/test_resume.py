"""Killed at any moment and continued, a job gives what an uninterrupted one gives, and leaves no process behind."""

import contextlib
import gzip
import os
import random
import signal
import time

import pytest

from anchortrain.annotate.job import annotate
from anchortrain.data.records import read_instructions
from tests.annotate.jobs import Started, annotating, command, error, finished, product, run, tales, until, write


def killed_and_continued(argv, out, *, kills, seed, parts, seconds):
    """Kills the command `kills` times at random moments, then lets it end.

    Every second time within its first `seconds`, the others after some more of its `parts`; never after more than its
    share of them, so that something is left for the last on a fast machine, too.
    """
    rng, seen = random.Random(seed), 0
    for i in range(kills):
        with Started(argv) as started:
            if i % 2 == 0:
                reached(started, out, seen + parts // kills, within=rng.uniform(0.05, seconds))
            else:
                reached(started, out, seen + rng.randrange(1, parts // kills))
                time.sleep(rng.uniform(0, 0.02))
            assert started.process.poll() is None, "it ended before it was killed"
            started.kill()
            assert started.gone(), "workers outlive the command"
        assert finished(out) >= seen, "what was finished is lost"
        seen = finished(out)
    assert 0 < seen < parts
    done = run(argv)
    assert done.returncode == 0, done.stderr


def reached(started, out, parts, within=float("inf")):
    end = time.monotonic() + within
    until(lambda: finished(out) >= parts or started.process.poll() is not None or time.monotonic() > end)


@pytest.mark.parametrize(("format", "kills"), [("jsonl", 4), pytest.param("parquet", 6, marks=pytest.mark.slow)])
def test_labels_killed_at_random_moments(tmp_path, format, kills):
    corpus = write(tmp_path / "tales.jsonl", tales(800))
    annotate([corpus], tmp_path / "a", annotating(part_chunks=5, format=format))
    argv = command(corpus, tmp_path / "b", "--format", format, part_chunks=5)
    parts = finished(tmp_path / "a")
    killed_and_continued(argv, tmp_path / "b", kills=kills, seed=format, parts=parts, seconds=0.4)
    assert product(tmp_path / "b") == product(tmp_path / "a")


def test_gzip_is_continued_too(tmp_path):
    """It cannot be entered in the middle: what is skipped must be what was there."""
    corpus = write(tmp_path / "tales.jsonl", tales(200))
    packed = tmp_path / "tales.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    annotate([packed], tmp_path / "a", annotating(part_chunks=5))
    whole = product(tmp_path / "a")
    for name in ("part-00003", "part-00004", "part-00040"):
        (tmp_path / "a" / f"{name}.jsonl").unlink()
    annotate([packed], tmp_path / "a", annotating(part_chunks=5))
    assert product(tmp_path / "a") == whole


OFFLINE = ["--workers", "2", "--schema", "stories"]


def test_offline_killed_while_workers_work(tmp_path):
    corpus = write(tmp_path / "tales.jsonl", tales(250))
    whole = run(command(corpus, tmp_path / "a", "--workers", "1", *OFFLINE[2:], annotator="offline"))
    assert whole.returncode == 0, whole.stderr
    argv = command(corpus, tmp_path / "b", *OFFLINE, annotator="offline")
    with Started(argv) as started:  # in the middle of its parts, with both workers at work
        until(lambda: finished(tmp_path / "b") > 2)
        assert len(started.alive()) >= 3
        started.kill()
        assert started.gone(), "workers outlive the command"
    assert finished(tmp_path / "b") < finished(tmp_path / "a")
    with Started(argv) as started:  # while workers start
        until(lambda: len(started.alive()) >= 3)
        started.kill()
        assert started.gone(), "workers outlive the command"
    assert run(argv).returncode == 0
    assert product(tmp_path / "b") == product(tmp_path / "a")


@pytest.mark.slow
def test_offline_killed_at_random_moments(tmp_path):
    corpus = write(tmp_path / "tales.jsonl", tales(4000))
    assert run(command(corpus, tmp_path / "a", *OFFLINE, annotator="offline", part_chunks=10)).returncode == 0
    argv = command(corpus, tmp_path / "b", *OFFLINE, annotator="offline", part_chunks=10)
    parts = finished(tmp_path / "a")
    killed_and_continued(argv, tmp_path / "b", kills=10, seed=0, parts=parts, seconds=2.0)
    assert product(tmp_path / "b") == product(tmp_path / "a")


@pytest.mark.parametrize("moment", ["workers start", "workers work"])
def test_an_interrupt_ends_all_with_one_line(tmp_path, moment):
    corpus = write(tmp_path / "tales.jsonl", tales(1500))
    argv = command(corpus, tmp_path / "a", *OFFLINE, annotator="offline")
    with Started(argv) as started:
        if moment == "workers start":
            until(lambda: len(started.alive()) >= 4)  # the command, two workers, and Python's tracker of resources
        else:
            until(lambda: finished(tmp_path / "a") > 2)
        for pid in started.alive():  # a terminal tells the whole group
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        _, err = started.process.communicate(timeout=30)
        assert started.gone()
    assert started.process.returncode == 130
    lines = [line for line in err.splitlines() if line]
    assert lines[-1] == "anchortrain: interrupted"
    assert all(line.startswith(("index: ", "annotate: ")) for line in lines[:-1]), err


def test_what_a_worker_cannot_do_is_told_in_one_line(tmp_path):
    corpus = write(tmp_path / "tales.jsonl", tales(100))
    argv = command(corpus, tmp_path / "a", *OFFLINE, annotator="offline")
    assert run(argv).returncode == 0
    (tmp_path / "a" / "part-00001.jsonl").unlink()
    for path in (tmp_path / "a" / "model").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert str(tmp_path / "a" / "model") in error(run(argv))


def test_long_passages_block_no_pipe(tmp_path):
    text = "The fox met Anna near the mill. " * 10_000
    rows = [{"prompt": f"Tell {i}.", "response": f"{i} {text}"} for i in range(40)]
    corpus = write(tmp_path / "a.jsonl", rows)
    argv = command(corpus, tmp_path / "a", "--kind", "instructions", "--workers", "2", annotator="offline")
    assert run(argv).returncode == 0
    assert [one.response for one in read_instructions([tmp_path / "a"])] == [row["response"] for row in rows]


def test_a_worker_that_dies_ends_the_job_with_one_line(tmp_path):
    corpus = write(tmp_path / "tales.jsonl", tales(1500))
    argv = command(corpus, tmp_path / "a", *OFFLINE, annotator="offline")
    with Started(argv) as started:
        until(lambda: finished(tmp_path / "a") > 2)
        workers = [pid for pid in started.alive() if pid != started.process.pid]
        os.kill(max(workers), signal.SIGKILL)
        _, err = started.process.communicate(timeout=30)
        assert started.gone()
    assert started.process.returncode == 2
    assert err.splitlines()[-1].startswith("anchortrain: error: a worker process died, of lack of memory perhaps")
    assert "Traceback" not in err
