"""The tiny story world and base run of the trainer's tests."""

import pytest

from tests.train.conftest import base, data

__all__ = ["base", "data", "post_trained"]


@pytest.fixture(scope="session")
def post_trained(data, base, tmp_path_factory):
    """A run that writes a plan and a short answer for nearly every prompt."""
    from anchortrain.train import train
    from tests.train.conftest import experiment

    run = tmp_path_factory.mktemp("post") / "run"
    train(experiment(steps=40, train=data.instructions, init_from=base), run)
    return run
