"""A tiny world, and samples from it in all qualities."""

from types import SimpleNamespace

import numpy as np
import pytest

HEROES = [f"hero{i}" for i in range(16)]
PLACES = [f"place{i}" for i in range(8)]


class TinyWorld:
    """Texts read `A <hero> in <place>.` as a document and `Tale: <hero>, <place>!` as an assistant."""

    def parse(self, text):
        words = text.replace(",", " ").replace(".", " ").replace("!", " ").split()
        heroes, places = ({word for word in words if word in known} for known in (HEROES, PLACES))
        attributes = {
            "hero": next(iter(heroes)) if len(heroes) == 1 else None,
            "place": next(iter(places)) if len(places) == 1 else None,
        }
        form = None
        if None not in attributes.values():
            form = "document" if text.endswith(".") else "assistant" if text.endswith("!") else None
        return SimpleNamespace(attributes=attributes, form=form)


@pytest.fixture
def world():
    return TinyWorld()


def _sample(hero, place, *, form="assistant", plan=True, **fields):
    text = f"A {hero} in {place}." if form == "document" else f"Tale: {hero}, {place}!"
    annotation = [["hero", hero], ["place", place]] if plan else None
    return {
        "prompt": "Tell me a story",
        "annotation": annotation,
        "annotation_text": "; ".join(f"{k}: {v}" for k, v in annotation or []),
        "annotation_wellformed": plan,
        "response": text,
        "finished": True,
        "roles": [2, 3, 4] if plan else [4],
        **fields,
    }


def _samples(n, *, heroes=16, places=8, seed=0, **fields):
    rng = np.random.default_rng(seed)
    return [_sample(HEROES[rng.integers(heroes)], PLACES[rng.integers(places)], **fields) for _ in range(n)]


@pytest.fixture
def make_sample():
    """hero, place, form=, plan=, other fields -> a sample."""
    return _sample


@pytest.fixture
def make_samples():
    """n, heroes=, places=, seed= -> n samples drawn evenly from so many values."""
    return _samples


@pytest.fixture
def sets():
    """Base of 3.5 bits, SFT of 1, a method that keeps nearly all of it and one that keeps half."""
    return {
        "base": _samples(400, form="document", seed=1),
        "sft": _samples(400, heroes=2, places=2, seed=2, plan=False),
        "masked": _samples(400, heroes=12, places=8, seed=3),
        "kl": _samples(400, seed=4),
    }
