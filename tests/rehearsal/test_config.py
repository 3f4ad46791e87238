"""The configuration of rehearsal: ranges, choices, and which names belong where."""

import dataclasses

import pytest

from anchortrain import experiment as experiments
from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.rehearsal.config import CHOICES, RANGES, RehearsalConfig, load

FIELDS = {field.name: field.type for field in dataclasses.fields(RehearsalConfig)}
CHECKED = "RehearsalConfig.checkers = 'likelihood'"


def test_every_number_has_a_range_and_every_name_exists():
    assert set(RANGES) == {name for name, kind in FIELDS.items() if kind in (int, float)}
    assert set(CHOICES) <= set(FIELDS)


def test_sections_of_the_experiment_are_bound_beside_it(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text("RehearsalConfig.rounds = 3\nModelConfig.d_model = 96\nLlmConfig.model = 'm'\n")
    found = load([path], [CHECKED, "ModelConfig.n_heads = 6", "ModelConfig.n_kv_heads = 6"])
    assert found.rehearsal.rounds == 3 and found.llm.model == "m"
    assert type(found.experiment) is Experiment and found.experiment.model.d_model == 96


@pytest.mark.parametrize(
    "binding, message",
    [
        ("RehearsalConfig.round = 1", "unknown field 'round' of RehearsalConfig; did you mean 'rounds'?"),
        ("RehearsalConfig.rounds = 0", "RehearsalConfig.rounds must be 1 or more, got 0"),
        ("RehearsalConfig.share = 1", "RehearsalConfig.share must be above 0 and below 1, got 1.0"),
        ("RehearsalConfig.agreement = 2", "RehearsalConfig.agreement must be between 0 and 1, got 2.0"),
        ("RehearsalConfig.draws = 1.5", "RehearsalConfig.draws must be of type int, got float 1.5"),
        ("RehearsalConfig.correction = 'weight'", "must be one of 'none', 'stratify', 'reweight', got 'weight'"),
        ("RehearsalConfig.checkers = 'story_parse'", "unknown checker 'story_parse'; did you mean 'story_parser'?"),
        ("RehearsalConfig.checkers = 'story_parser'", "'story_parser' needs RehearsalConfig.world"),
        ("RehearsalConfig.checkers = 'judge+judge'", "'judge+judge' names one twice"),
        ("RehearsalConfig.checkers = ''", "RehearsalConfig.checkers is empty"),
        ("RunConfig.tokens = 0", "RunConfig.tokens must be positive, got 0"),
    ],
)
def test_mistakes_are_named(binding, message):
    with pytest.raises(UserError) as error:
        load([], [CHECKED, binding])
    assert message in str(error.value)


def test_training_alone_says_where_the_section_belongs():
    with pytest.raises(UserError, match="RehearsalConfig belongs to `anchortrain rehearse`"):
        experiments.load([], ["RehearsalConfig.rounds = 1"])
