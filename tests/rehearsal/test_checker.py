"""Checkers combined, plans compared, and the story parser against stories of the world."""

import numpy as np
import pytest

from anchortrain.annotation import Tag
from anchortrain.rehearsal.checker import Verdict, compare, judge_all
from anchortrain.rehearsal.story_parser import StoryParser
from anchortrain.storyworld.world import World

PLAN = (Tag("hero", "fox"), Tag("place", "the mill"), Tag("trait", "sly"))


class Fixed:
    """Rejects some responses, and remembers what it saw."""

    def __init__(self, *bad: str) -> None:
        self.bad, self.seen = bad, []

    def check(self, rows):
        self.seen += [row["response"] for row in rows]
        return [Verdict(row["response"] not in self.bad, "bad", float(len(row["response"]))) for row in rows]

    def close(self) -> None:
        """Nothing to end."""


def test_all_must_keep_and_later_ones_see_what_is_left():
    first, second = Fixed("a"), Fixed("cc")
    found = judge_all({"first": first, "second": second}, [{"response": text} for text in ("a", "bb", "cc")])
    assert [one.kept for one in found] == [False, True, False]
    assert [one.reason for one in found] == ["first: bad", "", "second: bad"]
    assert second.seen == ["bb", "cc"]
    assert found[2].scores == {"first": 2.0, "second": 2.0} and found[2].rank == 2.0
    assert found[1].rank is None


def test_values_are_compared_by_their_class():
    read = {"hero": ["Fox"], "place": ["mill", "river"], "trait": ["sly"]}
    assert compare(PLAN, read, 1.0, nothing="-") == Verdict(True, "", 1.0)
    # A key that was not read is not compared.
    assert compare(PLAN, {"hero": ["fox"]}, 1.0, nothing="-").score == 1.0


def test_with_less_agreement_the_plan_becomes_what_was_written():
    read = {"hero": ["owl"], "place": ["mill"], "trait": []}
    verdict = compare(PLAN, read, 0.3, nothing="-")
    assert verdict.kept and verdict.score == pytest.approx(1 / 3)
    assert verdict.plan == (Tag("hero", "owl"), Tag("place", "the mill"))
    assert not compare(PLAN, read, 0.5, nothing="-").kept
    assert compare(PLAN, {}, 0.0, nothing="no key") == Verdict(False, "no key")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "world.json"
    World.from_seed(0).save(path)
    return path


@pytest.fixture
def stories(world):
    """Samples as a perfect model would write them."""
    made, rng = World.load(world), np.random.default_rng(1)
    rows = [made.instruction(latent, "Tell", rng) for latent in made.sample_latents(20, rng)]
    return [row | {"annotation": [[k, v] for k, v in row["annotation"].items()], "index": 0} for row in rows]


def test_parser_keeps_what_carries_out_its_plan(world, stories):
    assert all(verdict == Verdict(True, "", 1.0) for verdict in StoryParser(str(world), 1.0).check(stories))


def test_parser_rejects_other_forms_and_broken_plans(world, stories):
    made, rng = World.load(world), np.random.default_rng(2)
    latent = made.sample_latents(1, rng)[0]
    document = "".join(chunk["text"] for chunk in made.document(latent, rng)["chunks"])
    rows = [
        {"annotation": stories[0]["annotation"], "response": document},
        stories[0] | {"annotation": [["hero", "nobody"], *stories[0]["annotation"][1:]]},
        stories[0] | {"annotation": [*stories[0]["annotation"], ["hero", "owl"]]},
        stories[0] | {"annotation": []},
    ]
    verdicts = StoryParser(str(world), 1.0).check(rows)
    assert [verdict.kept for verdict in verdicts] == [False] * 4
    reasons = ["not in the form of an answer", "disagrees with its plan", "plan contradicts itself"]
    assert [verdict.reason for verdict in verdicts] == [*reasons, "plan names no attribute"]
    softer = StoryParser(str(world), 0.8).check(rows)[1]
    assert softer.kept and [list(tag) for tag in softer.plan] == stories[0]["annotation"]
