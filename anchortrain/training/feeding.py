"""From the rows that a process reads to arrays over the mesh.

Which rows a process needs follows from the sharding: all that its devices hold some part of. Devices along the
tensor and sequence axes hold the same rows, so two processes may read the same ones, and one process only some.
"""

import jax
import numpy as np
from jax.sharding import NamedSharding


class Feed:
    """Batches of one size, `rows` by `length`, for this process's devices."""

    def __init__(self, sharding: NamedSharding, rows: int, length: int) -> None:
        held = sharding.addressable_devices_indices_map((rows, length)).values()
        bounds = [at[0].indices(rows) for at in held]
        self._sharding, self._rows = sharding, rows
        index, count = share_of_rows(min(b[0] for b in bounds), max(b[1] for b in bounds), rows)
        # What the loader is to read, as its arguments.
        self.share = {"host_index": index, "host_count": count}
        self._first = index * (rows // count)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Arrays [rows of the share, ...] of the host to global arrays [rows, ...] on the devices."""
        return {name: self._array(values) for name, values in batch.items()}

    def _array(self, values: np.ndarray) -> jax.Array:
        def part(at: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = at[0].indices(self._rows)
            return values[(slice(start - self._first, stop - self._first), *at[1:])]

        return jax.make_array_from_callback((self._rows, *values.shape[1:]), self._sharding, part)


def share_of_rows(start: int, stop: int, rows: int) -> tuple[int, int]:
    """The smallest equal share of `rows` that holds rows start..stop-1, as (index, number of shares)."""
    for count in range(rows, 0, -1):
        size = rows // count
        if rows % count == 0 and start // size == (stop - 1) // size:
            return start // size, count
    raise ValueError(f"no rows {start}..{stop - 1} among {rows}")
