"""Annotations of real corpora: what people said about the same passages, and how the values are spread."""

import gzip
import json
import random
import re
from collections import Counter

import pytest

from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.config import OfflineConfig
from anchortrain.annotate.offline import OfflineAnnotator, fit
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema
from benchmarks import annotate_offline
from tests.conftest import shared_data

_SMALL = {"the", "a", "an", "old", "his", "her", "of", "in", "s"}


def rows(path):
    with gzip.open(shared_data() / path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def annotated(passages, schema, directory):
    """(passage, key -> values) for all passages that the schema suits; fitted on the same."""
    schema = load_schema(schema)
    passages = [one for one in passages if one.kind in schema.suits]
    fit(passages, schema, OfflineConfig(), 0, directory)
    found = []
    for passage, answer in zip(passages, OfflineAnnotator(directory, schema).annotate(passages), strict=True):
        values = {}
        for key, value in answer.annotation:
            values.setdefault(key, []).append(value)
        found.append((passage, values))
    return found


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    passages = [
        Passage(text, "", chunk_type(text), row["id"], index, {})
        for row in rows("corpus/fairytaleqa_stories.jsonl.gz")[:60]
        for index, text in enumerate(row["sections"])
    ]
    return annotated(passages, "stories", tmp_path_factory.mktemp("tales"))


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    chosen = rows("corpus/wikipedia_passages_boolq_train.jsonl.gz")[::6]
    passages = [Passage(row["text"], "", chunk_type(row["text"]), row["id"], 0, {}) for row in chosen]
    return annotated(passages, "web", tmp_path_factory.mktemp("articles"))


def content(text):
    return set(re.findall(r"\w+", text.lower())) - _SMALL


@pytest.mark.parametrize(
    ("attribute", "key", "least"), [("character", "character", 0.28), ("setting", "location", 0.2)]
)
def test_tags_of_tales_are_what_people_answered(tales, attribute, key, least):
    """A person asked for one character or place of the section; ours are the two or one that stand out."""
    ours = {(passage.record, passage.index + 1): values.get(key, []) for passage, values in tales}
    answers = {}
    for row in rows("sft/fairytaleqa_qa.jsonl.gz"):
        where = (row["story"], row["sections"][0])
        short = len(row["answers"][0].split()) <= 5
        if attribute in row["attribute"] and len(row["sections"]) == 1 and short and where in ours:
            answers.setdefault(where, set()).update(content(row["answers"][0]))
    others = random.Random(0).choices(list(ours.values()), k=len(answers))
    hits = sum(any(content(value) & said for value in ours[where]) for where, said in answers.items())
    by_chance = sum(any(content(v) & said for v in other) for said, other in zip(answers.values(), others, strict=True))
    assert len(answers) > 80 and hits > least * len(answers) and hits > 5 * by_chance


@pytest.mark.parametrize(
    ("corpus", "key", "coverage", "share"),
    [
        ("tales", "topic", 0.5, 0.15),
        ("tales", "character", 0.9, 0.2),
        ("tales", "location", 0.35, 0.25),
        ("tales", "sentiment", 0.99, 0.6),
        ("tales", "style", 0.99, 0.85),
        ("articles", "topic", 0.45, 0.2),
        ("articles", "domain", 0.7, 0.35),
        ("articles", "entity", 0.7, 0.05),
        ("articles", "location", 0.4, 0.45),
        ("articles", "time", 0.4, 0.5),
    ],
)
def test_values_are_neither_rare_nor_all_the_same(request, corpus, key, coverage, share):
    """`coverage` of the passages have a value at least; no value has more than `share` of the tags."""
    found = request.getfixturevalue(corpus)
    values = Counter(value for _, tags in found for value in tags.get(key, []))
    assert sum(key in tags for _, tags in found) > coverage * len(found)
    assert values.most_common(1)[0][1] < share * values.total()


def test_no_pronouns_or_openings_of_sentences_are_names(tales, articles):
    wrong = "he she it they we you i the this that but and when then there however although after before lastly".split()
    for found, key in ((tales, "character"), (articles, "entity")):
        names = Counter(value.lower().split()[0] for _, tags in found for value in tags.get(key, []))
        assert sum(names[word] for word in wrong) < 0.005 * names.total()


def test_articles_are_english_and_speak_of_themselves(articles):
    assert sum(tags.get("language") == ["English"] for _, tags in articles) > 0.99 * len(articles)
    # Names and keywords stand in the text, letter by letter apart from full stops and inflections.
    for passage, tags in articles[:300]:
        for name in tags.get("entity", []):
            assert name.split()[-1].rstrip(".") in passage.text


def test_strategies_of_worked_problems(tmp_path):
    problems = rows("sft/gsm8k_train.jsonl.gz")[:800]
    passages = [Passage(one["answer"], one["question"], chunk_type(one["answer"]), "r", 0, {}) for one in problems]
    found = annotated(passages, "mathematics", tmp_path)
    operations = Counter(value for _, tags in found for value in tags.get("operation", []))
    assert min(operations[one] for one in ("addition", "subtraction", "multiplication", "division")) > 100
    assert sum("strategy" in tags for _, tags in found) > 0.75 * len(found)
    for passage, tags in found:
        if tags.get("operation") == ["addition"]:
            assert "+" in passage.text


def test_topics_of_one_seed_are_the_same_again(tmp_path, articles):
    passages = [passage for passage, _ in articles[:300]]
    again = [annotated(passages, "web", tmp_path / name) for name in ("one", "two")]
    assert again[0] == again[1]


def test_benchmark(tmp_path, capsys):
    path = tmp_path / "report.json"
    arguments = ["--data", str(shared_data()), "--chunks", "60", "--workers", "1", "--json", str(path)]
    annotate_offline.main(arguments)
    report, table = json.loads(path.read_text()), capsys.readouterr().out
    assert report["benchmark"] in table and all(column.title in table for column in annotate_offline.COLUMNS)
    assert [row["schema"] for row in report["rows"]] == ["stories", "web"]
    for row in report["rows"]:
        assert row["chunks"] == 60 and row["tags"] > 4 and row["peak_mb"] > row["growth_mb"] >= 0
        assert min(row["milliseconds"], row["chunks_per_second"], row["fit_seconds"]) > 0
