"""The data of a study on real stories."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anchortrain.data.manifest import MANIFEST, Manifest
from anchortrain.errors import UserError
from anchortrain.scaling import config, stories

GIN = Path(__file__).parents[2] / "gin_configs" / "scaling" / "stories.gin"
TOPICS = ["ball", "pond", "forest", "cake", "school", "star"]


def story(number: int, chunks: int = 1) -> dict:
    topic = TOPICS[min(int(number % 21 / 3.5), 5)]
    text = f"Story {number} tells of a {topic} and a fox. "
    annotation = {"topic": topic, "character": ["Fox"]}
    return {
        "id": f"s{number}",
        "chunks": [{"text": text * 3 + "\n\n" * (chunks > 1), "annotation": annotation}] * chunks,
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("stories")
    annotated = made / "annotated"
    annotated.mkdir()
    rows = [story(number, 1 + (number % 10 == 0)) for number in range(400)]
    rows += [{"id": "bare", "chunks": [{"text": "A heading", "annotation": None}]}]
    for part in range(2):
        lines = "".join(json.dumps(row) + "\n" for row in rows[part::2])
        (annotated / f"part-{part:05d}.jsonl").write_text(lines, encoding="utf-8")
    (annotated / "manifest.json").write_text("{}", encoding="utf-8")
    stories.main(made)
    return made


def records(directory: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (directory / "records" / f"{name}.jsonl").read_text().splitlines()]


def test_every_story_is_in_one_file_and_responses_are_narrow(directory):
    names = ("documents", "heldout", "instructions", "instructions_heldout")
    files = {name: records(directory, name) for name in names}
    ids = [row["id"] for rows in files.values() for row in rows]
    assert len(ids) == len(set(ids)) == 401
    responses = files["instructions"] + files["instructions_heldout"]
    told = {row["annotation"]["topic"] for row in responses}
    annotations = [row["chunks"][0]["annotation"] for row in files["documents"]]
    assert len(told) == stories.NARROW_TOPICS < len({one["topic"] for one in annotations if one})
    assert 100 < len(responses) < 250 and {row["prompt"] for row in responses} == set(stories.PROMPTS)
    assert all(len(row["chunks"]) in (1, 2) for row in files["documents"])


def test_the_sets_are_those_that_the_study_names(directory):
    scaling = config.load([GIN])
    assert scaling.source.prepared.keys() == stories.SETS.keys()
    for name, (_, how) in stories.SETS.items():
        manifest = Manifest.read(directory / "prepared" / name / MANIFEST)
        assert manifest.annotated == how["annotated"] and manifest.examples > 0
    prompts = [json.loads(line)["prompt"] for line in (directory / "prompts.jsonl").read_text().splitlines()]
    assert prompts == list(stories.PROMPTS)


def test_what_is_there_is_not_made_again(directory):
    before = {path: path.stat().st_mtime_ns for path in (directory / "prepared").rglob("*")}
    stories.main(directory)
    assert before == {path: path.stat().st_mtime_ns for path in (directory / "prepared").rglob("*")}


def test_stories_that_are_not_annotated_are_refused(tmp_path):
    command = [sys.executable, "-m", "anchortrain.scaling.stories", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "annotate the stories first" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(UserError, match="no story has a tag 'topic'"):
        stories.split([{"id": "a", "chunks": [{"text": "x", "annotation": {"mood": "sad"}}]}])
    with pytest.raises(UserError, match="1 stories are too few"):
        stories.split([story(0)])
