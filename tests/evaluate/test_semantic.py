"""Reading samples: every share and entropy on hand-written rows."""

import json

import pytest

from anchortrain.evaluate.semantic import summarise


def test_figures_of_a_clean_set(world, make_sample):
    found = summarise([make_sample(f"hero{i % 2}", f"place{i % 4}") for i in range(8)], world, "assistant")
    assert found["n"] == 8
    assert found["attributes"]["hero"]["text"]["plugin_bits"] == pytest.approx(1.0)
    assert found["attributes"]["place"]["annotation"]["plugin_bits"] == pytest.approx(2.0)
    assert found["text_plugin_bits"] == pytest.approx(1.5)
    assert found["text_bits"] > found["text_plugin_bits"]
    assert found["text_bits"] == found["text_with_invalid_bits"] == found["wellformed_bits"] == found["annotation_bits"]
    low, high = found["text_bits_interval"]
    assert (low + high) / 2 == pytest.approx(found["text_bits"])
    shares = ("wellformed", "finished", "annotation_wellformed", "agreement", "agreement_all")
    assert [found[share] for share in shares] == [1.0] * 5
    assert found["invalid"] == 0.0
    json.dumps(found, allow_nan=False)


def test_missing_attributes_are_invalid_and_not_a_class(world, make_sample):
    good = [make_sample("hero0", "place0") for _ in range(6)]
    bad = [make_sample("nobody", "place0"), make_sample("nobody", "place0")]
    found = summarise(good + bad, world, "assistant")
    hero = found["attributes"]["hero"]["text"]
    assert (hero["n"], hero["bits"]) == (6, 0.0)
    assert hero["with_invalid_bits"] > 0.8
    assert found["invalid"] == pytest.approx(2 / 16)
    assert found["wellformed"] == pytest.approx(6 / 8)
    assert found["wellformed_n"] == 6


def test_agreement_counts_named_attributes_only(world, make_sample):
    rows = [
        make_sample("hero0", "place0", annotation=[["hero", "hero0"]]),
        make_sample("hero0", "place0", annotation=[["hero", "hero1"], ["place", "place0"]]),
        make_sample("hero0", "place0", annotation=[["mood", "dark"]]),
        # Missing in the text: disagrees.
        make_sample("hero0", "nowhere", annotation=[["place", "place0"]]),
    ]
    found = summarise(rows, world)
    assert found["agreement"] == pytest.approx(2 / 4)
    assert found["agreement_all"] == pytest.approx(1 / 3)
    assert found["attributes"]["hero"]["agreement"] == pytest.approx(1 / 2)


def test_an_attribute_named_twice(world, make_sample):
    same = make_sample("hero0", "place0", annotation=[["hero", "hero0"], ["hero", "hero0"]])
    other = make_sample("hero0", "place0", annotation=[["hero", "hero0"], ["hero", "hero1"]])
    found = summarise([same, other], world)
    assert found["attributes"]["hero"]["annotation"]["n"] == 1
    assert found["agreement"] == pytest.approx(1 / 2)


def test_values_are_compared_in_canonical_form(world, make_sample):
    found = summarise([make_sample("hero0", "place0", annotation=[["hero", "The HERO0."]])], world)
    assert found["agreement"] == 1.0


def test_values_unknown_to_the_world_are_not_diversity(world, make_sample):
    world.values = {"hero": [f"hero{i}" for i in range(16)]}
    rows = [make_sample("hero0", "place0", annotation=[["hero", f"invented{i}"]]) for i in range(5)]
    rows.append(make_sample("hero0", "place0"))
    found = summarise(rows, world)
    assert found["attributes"]["hero"]["annotation"] == pytest.approx(
        found["attributes"]["hero"]["annotation"] | {"n": 1, "bits": 0.0}
    )
    assert found["attributes"]["hero"]["agreement"] == pytest.approx(1 / 6)


def test_form_and_end_decide_well_formedness(world, make_sample):
    rows = [make_sample("hero0", "place0"), make_sample("hero0", "place0", form="document")]
    rows.append(make_sample("hero0", "place0", finished=False))
    assert summarise(rows, world, "assistant")["wellformed"] == pytest.approx(1 / 3)
    assert summarise(rows, world, "document")["wellformed"] == pytest.approx(1 / 3)
    assert summarise(rows, world)["wellformed"] == pytest.approx(2 / 3)
    assert summarise(rows, world)["finished"] == pytest.approx(2 / 3)


def test_no_annotation_is_not_a_broken_one(world, make_samples):
    plain = make_samples(20, plan=False)
    found = summarise(plain, world)
    assert found["annotation_bits"] is found["annotation_wellformed"] is found["agreement"] is None
    broken = [row | {"annotation_text": "hero hero", "roles": [2, 3, 4]} for row in plain]
    found = summarise(broken, world)
    assert found["annotation_wellformed"] == 0.0
    assert found["agreement"] is None
    assert found["annotation_bits"] is None


def test_an_attribute_never_recovered_leaves_the_mean_undefined(world, make_sample):
    found = summarise([make_sample("nobody", "place0") for _ in range(5)], world)
    assert found["text_bits"] is None
    assert found["attributes"]["place"]["text"]["bits"] == 0.0
    assert found["wellformed_bits"] is None
    assert found["wellformed"] == 0.0


def test_low_coverage_is_told(world, make_samples):
    assert summarise(make_samples(12), world)["low_coverage"]
    assert not summarise(make_samples(400), world)["low_coverage"]


def test_instruction_records_give_the_entropy_of_the_data(world):
    rows = [{"prompt": "p", "response": f"Tale: hero{i % 4}, place0!", "annotation": {"hero": f"hero{i % 4}"}}
            for i in range(16)]  # fmt: skip
    found = summarise(rows, world, "assistant")
    assert found["attributes"]["hero"]["text"]["plugin_bits"] == pytest.approx(2.0)
    assert found["finished"] is None
    assert found["wellformed"] == 1.0


def test_real_text_has_annotation_entropy_and_surface_statistics():
    rows = [
        {"response": "The cat sat. The cat ran.", "annotation": [["topic", "Cats"], ["mood", "calm"]]},
        {"response": "A dog barked", "annotation": [["topic", "dogs"], ["topic", "cats"]]},
        {"response": "A dog barked", "annotation": [["topic", "cats"], ["topic", "dogs"]]},
        {"response": "", "annotation": None},
    ]
    found = summarise(rows)
    assert found["text_bits"] is found["wellformed"] is found["agreement"] is found["invalid"] is None
    assert list(found["attributes"]) == ["topic", "mood"]
    # A set of values is one class, whatever its order.
    assert found["attributes"]["topic"]["annotation"]["classes"] == 2
    assert found["text_statistics"] == pytest.approx(
        {
            "distinct_1": 7 / 12,
            "distinct_2": 6 / 9,
            "distinct_3": 5 / 6,
            "mean_words": 3.0,
            "median_words": 3,
            "empty": 0.25,
            "exact_repeats": 0.25,
        }
    )
    json.dumps(found, allow_nan=False)


def test_invented_keys_do_not_pile_up():
    rows = [{"response": "x", "annotation": [[f"key{i}", "v"], ["topic", "t"]]} for i in range(50)]
    found = summarise(rows)
    assert len(found["attributes"]) == 20
    assert found["other_keys"] == 31


@pytest.mark.parametrize("real", [True, False])
def test_no_samples_at_all(world, real):
    assert "NaN" not in json.dumps(summarise([], None if real else world))


def test_the_real_story_world():
    import numpy as np

    from anchortrain.storyworld.world import World

    world, rng = World.from_seed(0), np.random.default_rng(0)
    latents = world.sample_latents(300, rng)
    rows = [world.instruction(latent, "p", rng) for latent in latents]
    found = summarise(rows, world, "assistant")
    assert found["wellformed"] == found["agreement"] == found["annotation_wellformed"] == 1.0
    assert found["text_bits"] == pytest.approx(world.mean_prior_bits, abs=0.06)
