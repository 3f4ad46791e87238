"""Every device gets its part of the global batch, whichever rows its process has read."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from anchortrain.config import MeshConfig
from anchortrain.sharding import make_mesh
from anchortrain.training.feeding import Feed, share_of_rows


@pytest.mark.parametrize(
    "start, stop, rows, share",
    [
        (0, 8, 8, (0, 1)),
        (4, 8, 8, (1, 2)),
        (2, 3, 8, (2, 8)),
        (3, 5, 8, (0, 1)),  # across the middle
        (4, 6, 12, (2, 6)),
        (0, 9, 12, (0, 1)),
    ],
)
def test_the_smallest_equal_share(start, stop, rows, share):
    assert share_of_rows(start, stop, rows) == share


@pytest.mark.parametrize("spec", [(("data", "fsdp"),), (("data", "fsdp"), "sequence"), (None, "tensor")])
def test_rows_and_columns_arrive_where_they_belong(spec):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
    feed = Feed(NamedSharding(mesh, PartitionSpec(*spec)), 4, 6)
    assert feed.share == {"host_index": 0, "host_count": 1}
    values = np.arange(24, dtype=np.int32).reshape(4, 6)
    found = feed({"inputs": values})["inputs"]
    np.testing.assert_array_equal(found, values)
    assert found.sharding.spec == PartitionSpec(*spec)


class Process(NamedSharding):
    """A sharding as the process sees it that has only these devices."""

    def addressable_devices_indices_map(self, shape):
        whole = self.devices_indices_map(shape)
        return {device: whole[device] for device in self.mine}


@pytest.mark.parametrize(
    "mesh, devices, share",
    [
        (MeshConfig(data=8), [2, 3], (1, 4)),
        (MeshConfig(data=2, tensor=4), [2, 3], (0, 2)),  # its neighbour reads the same rows
        (MeshConfig(data=2, fsdp=2, sequence=2), [6, 7], (3, 4)),
        (MeshConfig(data=1, tensor=8), [6, 7], (0, 1)),
        (MeshConfig(data=8), [0, 7], (0, 1)),  # far apart: it reads what lies between, too
    ],
)
def test_a_process_reads_what_its_devices_hold(mesh, devices, share):
    sharding = Process(make_mesh(mesh), PartitionSpec(("data", "fsdp")))
    flat = list(sharding.mesh.devices.flat)
    sharding.mine = [flat[i] for i in devices]
    assert Feed(sharding, 16, 4).share == dict(zip(("host_index", "host_count"), share, strict=True))


def test_it_is_the_sharding_that_is_asked():
    """The stand-in above would hide it if jax renamed the method."""
    assert len(NamedSharding(make_mesh(MeshConfig()), PartitionSpec()).addressable_devices_indices_map((8, 4))) == len(
        jax.devices()
    )
