"""Reading a study: what is there, and one clear line for what is damaged."""

import json

import pytest

from anchortrain.errors import UserError
from anchortrain.scaling.reading import read_study
from tests.scaling import synthetic_study as synthetic


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(synthetic.write(tmp_path_factory.mktemp("study"), synthetic.rows(), synthetic.curves()))


def test_sizes_ascend_whatever_their_order_in_the_file(tmp_path):
    sizes = dict(reversed(synthetic.SIZES.items()))
    found = read_study(synthetic.write(tmp_path, synthetic.rows(1), described=synthetic.description(sizes=sizes)))
    assert list(found.sizes) == list(synthetic.SIZES)
    assert found.curves == ()  # a study without the file


def test_rows_at_the_defaults_are_one_a_seed_and_sweeps_are_apart(study):
    rows = study.at("kl", "160k")
    assert list(rows) == [0, 1, 2]
    assert all(row.temperature == 1.0 and row.examples == 8000 for row in rows.values())
    assert study.values_of("examples", "kl", "160k") == [1000, 2000, 4000, 8000]
    assert {row.examples for row in study.at("kl", "160k", examples=1000).values()} == {1000}
    assert study.values_of("examples", "kl", "27k") == [8000]


def test_the_base_is_found_whatever_post_training_is_asked_for(study):
    assert study.at("base", "160k", narrowness=0.0, examples=1000) == study.at("base", "160k")
    assert study.at("base", "160k", temperature=0.6) == {}


def test_a_method_with_a_budget_of_its_own_is_at_its_default_there(tmp_path):
    rows = synthetic.rows(1)
    for row in rows:
        if row["method"] == "sft_compute":
            row["tokens"] = 3_000_000
    found = read_study(synthetic.write(tmp_path, rows))
    assert found.at("sft_compute", "27k")[0].tokens == 3_000_000
    assert found.at("sft_compute", "27k", tokens=800_000) == {}


def test_a_repeated_measurement_replaces_the_earlier_one(tmp_path):
    rows = synthetic.rows(1)
    found = read_study(synthetic.write(tmp_path, [*rows, rows[0] | {"text_bits": 1.25}]))
    assert found.at("base", "27k")[0].text_bits == 1.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_bits": "3.6"}, "results.jsonl:2: field 'text_bits' must be a finite number or null, found \"3.6\""),
        ({"text_bits": float("nan")}, "results.jsonl:2: field 'text_bits' must be a finite number or null"),
        ({"agreement": 97.0}, "results.jsonl:2: field 'agreement' must lie in 0..1"),
        ({"n": True}, "results.jsonl:2: field 'n' must be a finite number or null"),
        ({"size": "26k"}, "results.jsonl:2: field 'size': no size '26k' in study.json"),
        ({"seed": None}, "results.jsonl:2: field 'seed' must be a whole number, found null"),
        ({"method": ["kl"]}, "results.jsonl:2: field 'method' must be a string"),
        ({"text_bits_se": -1}, "results.jsonl:2: field 'text_bits_se' must not be negative"),
    ],
)
def test_damaged_rows_are_named(tmp_path, change, message):
    rows = synthetic.rows(1)[:3]
    rows[1] |= change
    with pytest.raises(UserError, match=message.replace("..", r"\.\.").replace("(", r"\(")):
        read_study(synthetic.write(tmp_path, rows))


def test_broken_lines_and_files_are_named(tmp_path):
    synthetic.write(tmp_path, synthetic.rows(1)[:2], synthetic.curves(1)[:2])
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('\n{"size": "27k", \n')
    with pytest.raises(UserError, match=r"results\.jsonl:4: broken JSON"):
        read_study(tmp_path)
    synthetic.write(tmp_path, [])
    with pytest.raises(UserError, match="holds no results yet"):
        read_study(tmp_path)
    synthetic.write(tmp_path, synthetic.rows(1)[:2], [{"kind": "drift", "size": "27k", "method": "kl", "seed": 0}])
    with pytest.raises(UserError, match=r"curves\.jsonl:1: field 'points' must be a list of \[tokens, kl, se\]"):
        read_study(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        read_study(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": {"27k": 0}}, "field 'sizes' must name different positive numbers"),
        ({"defaults": {"tokens": 1}}, "field 'defaults' must have narrowness, examples, temperature"),
        ({"sweep_size": "1M"}, "field 'sweep_size': no size '1M'"),
        ({"seeds": 0}, "field 'seeds' must be at least 1"),
        ({"prior_bits": {"first": 3.6}}, "field 'prior_bits' must be an object from seed to bits"),
        ({"methods": "kl"}, "field 'methods' must be a list of strings"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, change, message):
    synthetic.write(tmp_path, synthetic.rows(1)[:1], described=synthetic.description(**change))
    with pytest.raises(UserError, match=message):
        read_study(tmp_path)


def test_fields_that_are_not_known_do_no_harm(tmp_path):
    synthetic.write(tmp_path, [synthetic.rows(1)[0] | {"later": {"a": 1}}])
    (tmp_path / "study.json").write_text(json.dumps(synthetic.description(cells=12)))
    assert len(read_study(tmp_path).rows) == 1
