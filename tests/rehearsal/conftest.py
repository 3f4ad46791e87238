"""The tiny data of the trainer's tests, and one run that plans broadly and answers briefly."""

import pytest

from anchortrain.annotation import Tag
from anchortrain.files import write_jsonl_atomic
from anchortrain.rehearsal.records import prepare_records, record
from tests.train.conftest import HEROES, LENGTH, PLACES, data, experiment

__all__ = ["base", "data"]


@pytest.fixture(scope="session")
def base(data, tmp_path_factory):
    """Trained on plan and answer alike: 36 different pairs of hero and place."""
    from anchortrain.train import train

    root = tmp_path_factory.mktemp("broad")
    pairs = [(hero, place) for hero in HEROES for place in PLACES] * 4
    made = [
        record(f"b-{i}", "Tell", f"The {hero} ran to the {place}.", (Tag("hero", hero), Tag("place", place)), {})
        for i, (hero, place) in enumerate(pairs)
    ]
    write_jsonl_atomic(root / "broad.jsonl", made)
    prepare_records(root / "broad.jsonl", data.vocabulary, root / "broad", length=LENGTH)
    train(experiment("LossConfig.objective = 'unmasked'", steps=80, train=root / "broad"), root / "run")
    return root / "run"
