"""Slices by name: the published shapes and figures, and what mistakes say."""

import math
import subprocess
import sys

import pytest

from anchortrain.errors import UserError
from anchortrain.plan.slices import GENERATIONS, parse_slice, parse_slices


@pytest.mark.parametrize(
    "name, shape, chips, devices, hosts",
    [
        ("v5p-8", (2, 2, 1), 4, 4, 1),
        ("v5p-32", (2, 2, 4), 16, 16, 4),
        ("v5p-64", (2, 4, 4), 32, 32, 8),
        ("v4-32", (2, 2, 4), 16, 16, 4),
        ("v5e-1", (1, 1), 1, 1, 1),
        ("v5e-8", (2, 4), 8, 8, 1),
        ("v5e-64", (8, 8), 64, 64, 16),
        ("v6e-256", (16, 16), 256, 256, 64),
        ("2xv5e-256", (16, 16), 512, 512, 128),
        ("tpu7x-128", (4, 4, 4), 64, 128, 16),
    ],
)
def test_published_shapes(name, shape, chips, devices, hosts):
    one = parse_slice(name)
    assert (one.shape, one.chips, one.devices, one.hosts) == (shape, chips, devices, hosts)
    assert one.name == name


def test_aliases_and_lists():
    assert parse_slice("v5litepod-16").name == "v5e-16"
    assert [one.name for one in parse_slices("v5p-8, 2xv6e-4")] == ["v5p-8", "2xv6e-4"]


def test_shapes_multiply_up_and_are_sorted():
    for generation in GENERATIONS.values():
        assert list(generation.shapes) == sorted(generation.shapes)
        assert all(math.prod(shape) == chips for chips, shape in generation.shapes.items())


def test_topologies():
    assert parse_slice("v4-8").topology["chip_config_name"] == "megacore"
    assert parse_slice("v5e-8").topology["chips_per_host_bounds"] == (2, 4, 1)
    assert parse_slice("v5p-64").topology == {
        "topology_name": "v5p:2x4x4",
        "chips_per_host_bounds": (2, 2, 1),
        "num_slices": 1,
    }
    assert parse_slice("v6e-256").topology["wrap"] == (True, True, False)
    assert parse_slice("v6e-128").topology["wrap"] == (False, True, False)
    assert parse_slice("v5p-128").topology["wrap"] == (True, True, True)


def test_figures_of_half_a_chip():
    v7, v5p = parse_slice("tpu7x-8"), parse_slice("v5p-8")
    assert v7.peak_flops == 2307e12 / 2 and v7.hbm_bandwidth == 7380e9 / 2 and v7.ici_bandwidth == 300e9
    assert v5p.peak_flops == 459e12 and v5p.ici_bandwidth == 600e9


def test_larger_slices():
    assert parse_slice("2xv5p-8").larger().name == "2xv5p-16"
    assert parse_slice("v5e-256").larger() is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("v5p-60", "there is no v5p-60 (the number counts TensorCores, two a chip); did you mean 'v5p-64'?"),
        ("2xv6e-250", "there is no 2xv6e-250 (the number counts chips); did you mean '2xv6e-256'?"),
        ("v5p-0", "did you mean 'v5p-8'?"),
        ("v7p-8", "unknown TPU slice 'v7p-8'; did you mean 'v5p-8'?"),
        ("v5p", "unknown TPU slice 'v5p'; did you mean 'v5p-8'?"),
        ("h100-8", "unknown TPU slice 'h100-8'; write a generation (v4, v5e, v5p, v6e, tpu7x)"),
        ("0xv5e-4", "0xv5e-4 is no slice at all"),
        ("", "the slice is empty; write a generation"),
        ("v5p-8,v5p-8", "v5p-8 is given twice"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UserError) as error:
        parse_slices(text)
    assert str(error.value).startswith("--slice: ") and message in str(error.value)


def test_the_table_loads_without_jax():
    code = "import sys, anchortrain.plan.slices; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
