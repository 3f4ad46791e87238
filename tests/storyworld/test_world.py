"""The world: what a seed decides, and entropies that are computed exactly."""

import json

import numpy as np
import pytest

from anchortrain.errors import UserError
from anchortrain.storyworld.values import ATTRIBUTES
from anchortrain.storyworld.world import World, entropy_bits


def _empirical_bits(latents_NA):
    return {
        name: entropy_bits(np.bincount(latents_NA[:, i], minlength=len(values)) / len(latents_NA))
        for i, (name, values) in enumerate(ATTRIBUTES.items())
    }


def test_sizes_of_the_attributes():
    sizes = {"hero": 24, "trait": 12, "place": 16, "object": 16, "genre": 8, "ending": 8}
    assert {name: len(values) for name, values in ATTRIBUTES.items()} == sizes


@pytest.mark.parametrize("seed", range(5))
def test_prior_is_broad_in_every_world(seed):
    assert World.from_seed(seed).mean_prior_bits == pytest.approx(3.6, abs=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 1.0])
def test_computed_entropy_equals_empirical(rho):
    world = World.from_seed(3)
    latents_NA = world.sample_latents(200_000, np.random.default_rng(0), rho)
    assert latents_NA.shape == (200_000, len(ATTRIBUTES))
    assert _empirical_bits(latents_NA) == pytest.approx(world.instruction_bits(rho), abs=0.01)


def test_rho_narrows_the_instructions_monotonically():
    world = World.from_seed(0)
    bits = [world.instruction_bits(rho) for rho in np.linspace(0, 1, 11)]
    assert bits[0] == world.prior_bits
    for name in ATTRIBUTES:
        # A favourite that the prior neglects may first even the distribution out, hence not before 0.2.
        falling = [row[name] for row in bits[2:]]
        assert falling == sorted(falling, reverse=True)
        assert bits[-1][name] == pytest.approx(entropy_bits(np.array([0.8, 0.2])))
    means = [world.mean_instruction_bits(rho) for rho in np.linspace(0, 1, 11)]
    assert all(low < high for high, low in zip(means, means[1:], strict=False))


def test_attributes_are_correlated():
    """Mutual information of hero and place, exact from the clusters, is clearly above zero."""
    world = World.from_seed(0)
    hero_CV, place_CV = (world.value_probabilities[name] for name in ("hero", "place"))
    joint = np.einsum("c,cv,cw->vw", world.cluster_weights, hero_CV, place_CV)
    information = world.prior_bits["hero"] + world.prior_bits["place"] - entropy_bits(joint.ravel())
    assert information > 0.1


def test_worlds_of_different_seed_differ_and_of_the_same_seed_do_not():
    one, same, other = World.from_seed(1), World.from_seed(1), World.from_seed(2)
    assert one.to_json() == same.to_json()
    assert one.prior_bits != other.prior_bits
    assert one.favourites != other.favourites


def test_load_gives_back_what_was_saved(tmp_path):
    world = World.from_seed(7)
    world.save(tmp_path / "world.json", narrowness=0.8)
    assert World.load(tmp_path / "world.json").to_json() == world.to_json()


def _broken(change):
    def write(path):
        World.from_seed(0).save(path)
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_text('{"format": 1,'),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text("{}"),
        _broken(lambda record: record.update(format=2)),
        _broken(lambda record: record.update(cluster_weights=[0.5, 0.5])),
        _broken(lambda record: record.update(cluster_weights=[2, -1, 0, 0, 0, 0])),
        _broken(lambda record: record.update(cluster_weights="six")),
        _broken(lambda record: record["attributes"].pop("hero")),
        _broken(lambda record: record["attributes"]["hero"]["values"].reverse()),
        _broken(lambda record: record["attributes"]["hero"].update(favourites=["fox", "unicorn"])),
        _broken(lambda record: record["attributes"]["hero"].update(favourites=["fox"])),
        _broken(lambda record: record.update(attributes=3)),
    ],
)
def test_broken_file_is_a_user_error(tmp_path, write):
    path = tmp_path / "world.json"
    write(path)
    with pytest.raises(UserError) as caught:
        World.load(path)
    assert str(path) in str(caught.value)
    assert "anchortrain storyworld" in str(caught.value)


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_narrowness_out_of_range_is_a_user_error(rho):
    with pytest.raises(UserError, match="narrowness"):
        World.from_seed(0).sample_latents(3, np.random.default_rng(0), rho)
