"""Checkers that ask an annotator or a judge: the offline annotator, and a server such as language models have."""

import json
from pathlib import Path

import pytest

from anchortrain.annotate.config import (
    AnnotateConfig,
    Annotating,
    ChunkConfig,
    LabelsConfig,
    OfflineConfig,
    SourceConfig,
)
from anchortrain.annotate.job import annotate
from anchortrain.errors import UserError
from anchortrain.rehearsal.config import load
from anchortrain.rehearsal.judge import Judge
from anchortrain.rehearsal.reannotation import Reannotation
from tests.annotate.llm_server import LlmServer, annotation_of
from tests.annotate.llm_setup import quick

ROWS = [
    {
        "index": i,
        "prompt": "Tell me a tale.",
        "annotation": [],
        "response": f"Tale {i}: a fox met Anna near the {place}.",
    }
    for i, place in enumerate(("mill", "forest", "castle", "harbour", "village", "river"))
]


def settings(*more: str, server: LlmServer | None = None, checkers: str = "annotator"):
    llm = quick(server.url) if server else quick("http://127.0.0.1:9/v1")
    fields = ("endpoint", "model", "api_key_env", "backoff_seconds")
    bound = [f"LlmConfig.{name} = {getattr(llm, name)!r}" for name in fields]
    return load([], [f"RehearsalConfig.checkers = {checkers!r}", *bound, *more])


def test_the_llm_reads_the_plan_back(tmp_path):
    with LlmServer() as server:
        config = settings("AnnotateConfig.annotator = 'llm'", "AnnotateConfig.schema = 'stories'", server=server)
        checker = Reannotation(config, tmp_path)
        try:
            assert not any(verdict.kept for verdict in checker.check(ROWS))  # empty plans
            system = server.log[0].body["messages"][0]["content"]
            said = [annotation_of(row["response"], system) for row in ROWS]
            plans = [[[key, value] for key, [value] in one.items()] for one in said]
            right = [row | {"annotation": plan} for row, plan in zip(ROWS, plans, strict=True)]
            wrong = [
                row | {"annotation": [[key, "nonsense"] for key, _ in plan]}
                for row, plan in zip(ROWS, plans, strict=True)
            ]
            asked = server.requests
            assert [verdict.kept for verdict in checker.check(right)] == [True] * len(ROWS)
            assert {verdict.reason for verdict in checker.check(wrong)} == {"disagrees with its plan"}
            assert server.requests == asked  # what was answered is kept
        finally:
            checker.close()


def test_the_fitted_offline_annotator_reads_the_plan_back(tmp_path):
    source = tmp_path / "answers.jsonl"
    places = ("Paris", "London", "Berlin", "Madrid")
    texts = [
        f"In {place} Anna was very happy and laughed all day. It was a wonderful summer in {place}."
        for place in places * 8
    ]
    source.write_text(
        "".join(json.dumps({"id": str(i), "prompt": "Tell", "response": t}) + "\n" for i, t in enumerate(texts))
    )
    sections = [SourceConfig(), ChunkConfig(), AnnotateConfig(kind="instructions", schema="stories", workers=1)]
    offline = OfflineConfig(topics=2, sample_chunks=100)
    annotate([source], tmp_path / "job", Annotating(*sections, offline, settings().llm, LabelsConfig()))
    made = [json.loads(line) for path in sorted((tmp_path / "job").glob("part-*.jsonl")) for line in path.open()]
    rows = [
        {"index": i, "prompt": "Tell", "response": one["response"], "annotation": one["annotation"]}
        for i, one in enumerate(made[:8])
    ]
    assert all(row["annotation"] for row in rows)
    job = f"RehearsalConfig.annotate_job = {str(tmp_path / 'job')!r}"
    checker = Reannotation(settings(job, "AnnotateConfig.schema = 'stories'"), tmp_path / "checker")
    assert [verdict.kept for verdict in checker.check(rows)] == [True] * 8
    elsewhere = rows[0] | {"response": rows[1]["response"]}
    assert not checker.check([elsewhere])[0].kept


def test_the_annotator_needs_what_it_reads_with(tmp_path):
    with pytest.raises(UserError, match="the offline annotator needs its fitted model"):
        Reannotation(settings(), tmp_path)
    with pytest.raises(UserError, match="'labels' cannot read a response"):
        Reannotation(settings("AnnotateConfig.annotator = 'labels'"), tmp_path)


def test_the_judge_keeps_good_grades(tmp_path):
    with LlmServer(["500", "prose"], share=0.5) as server:
        config = settings("RehearsalConfig.judge_grade = 3", server=server, checkers="judge")
        judge = Judge(config.rehearsal, config.llm, tmp_path)
        try:
            verdicts = judge.check(ROWS)
            system, user = (message["content"] for message in server.log[0].body["messages"][:2])
        finally:
            judge.close()
    grades = [int(annotation_of(row["response"], system)["grade"][0]) for row in ROWS]
    assert len(set(grades)) > 1
    assert [verdict.score for verdict in verdicts] == [float(grade) for grade in grades]
    assert [verdict.kept for verdict in verdicts] == [grade >= 3 for grade in grades]
    assert '"before": "Tell me a tale."' in user


def test_a_judge_that_gives_no_grade_keeps_nothing(tmp_path):
    with LlmServer(["prose"], times=1000) as server:
        config = settings("LlmConfig.attempts = 2", server=server, checkers="judge")
        judge = Judge(config.rehearsal, config.llm, Path(tmp_path))
        try:
            [verdict] = judge.check(ROWS[:1])
        finally:
            judge.close()
    assert not verdict.kept and verdict.reason == "judge gave no grade"
