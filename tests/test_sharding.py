"""The mesh and the one table from logical to mesh axes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from anchortrain.config import MeshConfig
from anchortrain.errors import UserError
from anchortrain.model.transformer import LOGICAL_AXES
from anchortrain.sharding import AXES, RULES, constrain, make_mesh, named, spec


@pytest.mark.parametrize(
    "config, shape",
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 8, 1, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 2)),
        (MeshConfig(data=-1, fsdp=2, tensor=4), (1, 2, 1, 4)),
        (MeshConfig(data=1, fsdp=2, sequence=-1), (1, 2, 4, 1)),
        (MeshConfig(data=4, tensor=2, slices=2), (4, 1, 1, 2)),
    ],
)
def test_the_mesh_uses_all_devices(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES and tuple(mesh.shape.values()) == shape
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=3),
        MeshConfig(data=4),
        MeshConfig(fsdp=3),
        MeshConfig(data=8, fsdp=2),
        MeshConfig(-1, -1, 8),
        MeshConfig(data=1, fsdp=-1, slices=2),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(UserError, match=f"data={config.data} .* does not fit 8 devices"):
        make_mesh(config)


def test_slices_are_the_outermost_parts_of_data():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, slices=2))
    first, second = (set(part.flat) for part in (mesh.devices[:2], mesh.devices[2:]))
    assert first == set(jax.devices()[:4]) and second == set(jax.devices()[4:])


def test_every_parameter_has_a_spec():
    found = {name: spec(logical) for name, logical in LOGICAL_AXES.items()}
    assert found["embedding"] == PartitionSpec("tensor", "fsdp")
    assert found["query"] == PartitionSpec(None, "fsdp", "tensor")
    assert found["final_norm"] == PartitionSpec(None)
    assert spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    assert {axis for logical in LOGICAL_AXES.values() for axis in logical} <= RULES.keys()


@pytest.mark.parametrize("logical", [("batch", "embed"), ("heads", "mlp"), ("vocab", "vocab")])
def test_a_mesh_axis_cannot_be_used_twice(logical):
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        spec(logical)


def test_unknown_logical_axes_are_an_error():
    with pytest.raises(KeyError):
        spec(("embedd",))


def test_a_size_that_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    assert named(mesh, ("embed", "heads"), (8, 3)).shard_shape((8, 3)) == (2, 3)
    with pytest.raises(UserError, match="dimension 'embed' of size 6 does not divide over 4 devices of mesh axis fsdp"):
        named(mesh, ("embed", None), (6, 3))
    with pytest.raises(UserError, match="dimension 'batch' of size 12 does not divide over 8 devices .* dataxfsdp"):
        named(mesh, ("batch",), (12,))
    with pytest.raises(ValueError):
        named(mesh, ("embed",), (8, 3))


def test_constraints_apply_under_a_mesh_and_nowhere_else():
    x = jnp.ones((8, 4))
    assert constrain(x, ("batch", None)) is x
    with jax.set_mesh(make_mesh(MeshConfig())):
        sharded = jax.jit(lambda x: constrain(x, ("batch", None)))(x)
    assert sharded.sharding.spec[0] == ("data", "fsdp") or sharded.sharding.shard_shape((8, 4)) == (1, 4)
