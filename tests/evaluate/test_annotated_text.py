"""Real text read by the offline annotator of a real job."""

import json

import pytest

from anchortrain.annotate.config import (
    AnnotateConfig,
    Annotating,
    ChunkConfig,
    LabelsConfig,
    LlmConfig,
    OfflineConfig,
    SourceConfig,
)
from anchortrain.annotate.job import annotate
from anchortrain.cli import main
from anchortrain.errors import UserError
from anchortrain.evaluate.annotated_text import AnnotatedText
from anchortrain.evaluate.collapse import compare

PLACES = ("Paris", "Cairo", "Boston", "Madrid", "Tokyo", "Berlin")


def _tale(place):
    return f"Anna was a happy girl. She went to {place} in the morning with her brother. They all laughed in {place}."


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    (root / "docs.jsonl").write_text("".join(json.dumps({"text": _tale(place)}) + "\n" for place in PLACES * 10))
    settings = AnnotateConfig(schema="stories", workers=1)
    config = Annotating(SourceConfig(), ChunkConfig(), settings, OfflineConfig(), LlmConfig(), LabelsConfig())
    annotate([root / "docs.jsonl"], root / "out", config)
    return root / "out"


def _samples(places):
    return [{"response": _tale(place), "annotation": [["location", place]], "finished": True} for place in places]


def test_entropy_and_agreement_are_those_of_what_is_read(job):
    world = AnnotatedText(job)
    assert world.parse(_tale("Cairo")).attributes["location"] == "cairo" and world.parse(" ").form is None
    sets = {"base": _samples(PLACES * 20), "sft": _samples(("Paris",) * 120)}
    table = compare(sets, world, expected_form=None)
    assert table["base"]["attributes"]["location"]["text"]["plugin_bits"] == pytest.approx(2.585, abs=0.01)
    assert table["sft"]["attributes"]["location"]["text"]["plugin_bits"] == 0.0
    assert table["base"]["attributes"]["location"]["agreement"] == 1.0 and table["base"]["wellformed"] == 1.0
    lying = [sample | {"annotation": [["location", "Rome"]]} for sample in sets["base"]]
    assert compare({"base": lying}, world, expected_form=None)["base"]["attributes"]["location"]["agreement"] == 0.0


def test_the_command_takes_a_job_and_refuses_what_is_none(job, tmp_path, capsys):
    for name, places in (("base", PLACES * 4), ("sft", ("Paris",) * 24)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _samples(places)))
    files = [str(tmp_path / f"{name}.jsonl") for name in ("base", "sft")]
    assert main(["evaluate", *files, "--annotate_job", str(job)]) == 0
    assert "standard SFT" in capsys.readouterr().out
    assert main(["evaluate", *files, "--annotate_job", str(tmp_path)]) == 2
    assert "job.json: cannot be read" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no annotation job"):
        (tmp_path / "job.json").write_text("{}")
        AnnotatedText(tmp_path)
