"""FairytaleQA as annotated documents and instructions, from its human labels.

The 278 tales are cut into sections by hand, and people asked and answered questions about each section;
every question carries the attribute that it is about. A short answer thereby becomes a tag of its
section: attribute and answer are key and value. docs/data.md says what is kept and what is left out.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anchortrain.annotation import Annotation, AnnotationError, Tag, make_tag
from anchortrain.data.records import load_object
from anchortrain.data.sources import read_lines
from anchortrain.errors import UserError
from anchortrain.files import write_text_atomic

STORIES = "corpus/fairytaleqa_stories.jsonl.gz"
QUESTIONS = "sft/fairytaleqa_qa.jsonl.gz"

# Attribute of a question to key of a tag, in the order in which tags are listed.
_KEYS = {
    "character": "character",
    "setting": "setting",
    "action": "action",
    "feeling": "feeling",
    "causal relationship": "cause",
    "outcome resolution": "outcome",
    "prediction": "prediction",
}
_TAGS = 6  # of a section, at most
_BORROWED_TAGS = 3  # that an instruction takes over from its section, at most: who and where come first
_VALUE_WORDS = 5  # of a value, at most
_SECTIONS = 2  # of a question whose answer becomes a tag, at most
_PASSAGE_WORDS = 60  # of the passage in a prompt, at most

_ARTICLE = re.compile(r"(?:a|an|the)\s+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[a-z]{4,}")

_Sections = dict[tuple[str, int], list[Tag]]


def write_fairytale(data: str | Path, out: str | Path) -> dict[str, int]:
    """Writes `documents_*.jsonl` and `instructions_*.jsonl` for train and heldout under `out`.

    Args:
      data: directory that holds the files `STORIES` and `QUESTIONS`.
      out: directory to write to.

    Returns:
      Name of each file written to its number of records. Raises UserError on missing or bad files.
    """
    stories = [_checked(one, ("id", "split", "sections")) for one in read_lines([Path(data) / STORIES])]
    questions = [_checked(one, _QUESTION_FIELDS) for one in read_lines([Path(data) / QUESTIONS])]
    tags = _section_tags(questions)
    written = {}
    for split, records in {
        "documents": ((story["split"], _document(story, tags)) for story in stories),
        "instructions": _instructions(stories, questions, tags),
    }.items():
        lines = defaultdict(list)
        for part, record in records:
            lines["train" if part == "train" else "heldout"].append(json.dumps(record, ensure_ascii=False) + "\n")
        for part, rows in lines.items():
            write_text_atomic(Path(out) / f"{split}_{part}.jsonl", "".join(rows))
            written[f"{split}_{part}.jsonl"] = len(rows)
    return written


_QUESTION_FIELDS = ("story", "split", "sections", "attribute", "question", "answers")


def _checked(line: Any, fields: Iterable[str]) -> dict[str, Any]:
    value = load_object(line)
    for field in fields:
        if not value.get(field):
            raise UserError(f"no field {field!r}", where=line.where, mend="this is not the file of ../shared/data")
    return value


def tag_of(question: Mapping[str, Any]) -> Tag | None:
    """The tag that a question and its first answer make, or None when the answer is long."""
    value = " ".join(question["answers"][0].replace(";", ",").split()).strip(" .,!?\"'")
    value = _ARTICLE.sub("", value, count=1) if _ARTICLE.match(value) else value
    if len(value.split()) > _VALUE_WORDS:
        return None
    try:
        return make_tag(_KEYS[question["attribute"][0]], value)
    except AnnotationError:
        return None


def _section_tags(questions: Iterable[Mapping[str, Any]]) -> _Sections:
    """The tags of each section (story, number from 1), in the order of `_KEYS`, each once."""
    found: _Sections = defaultdict(list)
    for question in questions:
        tag = tag_of(question)
        if tag is None or len(question["sections"]) > _SECTIONS:
            continue
        for section in question["sections"]:
            tags = found[question["story"], section]
            if (tag.key, tag.value.lower()) not in {(one.key, one.value.lower()) for one in tags}:
                tags.append(tag)
    order = list(_KEYS.values())
    return {at: sorted(tags, key=lambda tag: order.index(tag.key))[:_TAGS] for at, tags in found.items()}


def _as_json(annotation: Annotation) -> list[list[str]] | None:
    return [list(tag) for tag in annotation] or None


def _document(story: Mapping[str, Any], tags: _Sections) -> dict[str, Any]:
    last = len(story["sections"])
    chunks = [
        {
            "text": text if number == last else text + "\n\n",
            "annotation": _as_json(tuple(tags.get((story["id"], number), ()))),
        }
        for number, text in enumerate(story["sections"], 1)
    ]
    return {"id": story["id"], "chunks": chunks}


def _instructions(
    stories: Iterable[Mapping[str, Any]], questions: Iterable[Mapping[str, Any]], tags: _Sections
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Split and record of each question whose story is there."""
    sections = {story["id"]: story["sections"] for story in stories}
    numbers: Counter[str] = Counter()
    for question in questions:
        story, first = question["story"], question["sections"][0]
        if first > len(sections.get(story, ())):
            raise UserError(f"a question is about section {first} of {story!r}, which does not exist")
        numbers[story] += 1
        own = tag_of(question)
        others = [tag for tag in tags.get((story, first), ()) if tag != own]
        passage = _passage(sections[story][first - 1], question["question"])
        yield (
            question["split"],
            {
                "id": f"{story}/{numbers[story]}",
                "prompt": f"{passage}\n\n{question['question'].strip()}",
                "response": question["answers"][0].strip(),
                "annotation": _as_json((*([own] if own else []), *others[:_BORROWED_TAGS])),
            },
        )


def _passage(section: str, question: str) -> str:
    """The sentences of a section that share most words with the question, in order, at most `_PASSAGE_WORDS`."""
    sentences = _SENTENCE_END.split(section)
    asked = set(_WORD.findall(question.lower()))
    shared = [len(asked & set(_WORD.findall(sentence.lower()))) for sentence in sentences]
    chosen, left = [], _PASSAGE_WORDS
    for i in sorted(range(len(sentences)), key=lambda i: (-shared[i], i)):
        if len(words := sentences[i].split()) <= left:
            chosen.append(i)
            left -= len(words)
    if not chosen:
        return " ".join(section.split()[:_PASSAGE_WORDS])
    return " ".join(sentences[i] for i in sorted(chosen))
