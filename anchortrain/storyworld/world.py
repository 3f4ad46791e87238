"""A world: the correlated prior over latents, the favourites of its narrow instruction set, and what follows.

A latent is an integer row [6]: for each attribute, in canonical order, the index of its value. Shapes: n latents,
A attributes, C clusters, V values of one attribute. All entropies are marginal, per attribute, in bits.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchortrain.errors import UserError
from anchortrain.storyworld import parser, render
from anchortrain.storyworld.values import ATTRIBUTES

FORMAT = 1
CLUSTERS = 6
FAVOURITE_SHARES = (0.8, 0.2)

# How far the clusters differ (standard deviation of log weights), and how much of the unevenness that this leaves
# in the marginals is divided out again: correlated attributes, each of them broad (about 3.6 bits on average).
_CLUSTER_STRENGTH = 1.5
_EVENING = 0.6


def entropy_bits(probabilities: np.ndarray) -> float:
    """Entropy in bits of a distribution [V]."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What a seed decides. Values, phrases and grammar are the same in every world."""

    seed: int
    cluster_weights: np.ndarray  # [C], sums to 1
    value_probabilities: dict[str, np.ndarray]  # attribute -> [C, V], rows sum to 1
    favourites: dict[str, tuple[int, int]]  # attribute -> indices of two values

    values = ATTRIBUTES  # attribute -> its values; no field: the same in every world

    @classmethod
    def from_seed(cls, seed: int) -> "World":
        rng = np.random.default_rng(seed)
        weights = rng.dirichlet(np.full(CLUSTERS, 20.0))
        tables, favourites = {}, {}
        for name, values in ATTRIBUTES.items():
            table = _normalised(np.exp(_CLUSTER_STRENGTH * rng.normal(size=(CLUSTERS, len(values)))))
            tables[name] = _normalised(table / (weights @ table) ** _EVENING)
            first, second = rng.choice(len(values), size=2, replace=False).tolist()
            favourites[name] = (first, second)
        return cls(seed, weights, tables, favourites)

    # The latents and their entropies.

    def prior(self, name: str) -> np.ndarray:
        """The marginal distribution [V] of an attribute in documents."""
        return self.cluster_weights @ self.value_probabilities[name]

    def instruction_marginal(self, name: str, rho: float) -> np.ndarray:
        """The marginal distribution [V] of an attribute in instructions of narrowness `rho`."""
        marginal = (1 - rho) * self.prior(name)
        for index, share in zip(self.favourites[name], FAVOURITE_SHARES, strict=True):
            marginal[index] += rho * share
        return marginal

    @property
    def prior_bits(self) -> dict[str, float]:
        """Exact marginal entropy of each attribute in documents."""
        return self.instruction_bits(0.0)

    @property
    def mean_prior_bits(self) -> float:
        return math.fsum(self.prior_bits.values()) / len(ATTRIBUTES)

    def instruction_bits(self, rho: float) -> dict[str, float]:
        """Exact marginal entropy of each attribute in instructions of narrowness `rho`."""
        _check_narrowness(rho)
        return {name: entropy_bits(self.instruction_marginal(name, rho)) for name in ATTRIBUTES}

    def mean_instruction_bits(self, rho: float) -> float:
        return math.fsum(self.instruction_bits(rho).values()) / len(ATTRIBUTES)

    def sample_latents(self, n: int, rng: np.random.Generator, rho: float = 0.0) -> np.ndarray:
        """Draws latents, int64 [n, A]: each attribute a favourite with probability `rho`, else from the prior."""
        _check_narrowness(rho)
        cluster = rng.choice(CLUSTERS, size=n, p=self.cluster_weights)
        columns = []
        for name, table in self.value_probabilities.items():
            cumulative = table.cumsum(axis=1)[cluster]
            # The last sum may fall short of 1 by rounding.
            from_prior = (rng.random((n, 1)) > cumulative[:, :-1]).sum(axis=1)
            favourite = np.where(rng.random(n) < FAVOURITE_SHARES[0], *self.favourites[name])
            columns.append(np.where(rng.random(n) < rho, favourite, from_prior))
        return np.stack(columns, axis=1)

    # Text.

    @staticmethod
    def attributes(latent: Sequence[int]) -> dict[str, str]:
        """A latent [A] as attribute -> value, in canonical order."""
        return {name: values[index] for (name, values), index in zip(ATTRIBUTES.items(), latent, strict=True)}

    def document(self, latent: Sequence[int], rng: np.random.Generator) -> dict:
        """A document record in a random style and wording: `{"chunks": [{"text", "annotation"}]}`."""
        return {"chunks": render.document(self.attributes(latent), rng)}

    def instruction(self, latent: Sequence[int], prompt: str, rng: np.random.Generator) -> dict:
        """An instruction record: `{"prompt", "response", "annotation"}`."""
        values = self.attributes(latent)
        return {"prompt": prompt, "response": render.response(values, rng), "annotation": values}

    def parse(self, text: str) -> parser.Story:
        """Attributes and form of any text."""
        return parser.parse(text)

    # The file.

    def to_json(self) -> dict:
        return {
            "format": FORMAT,
            "seed": self.seed,
            "attributes": {
                name: {
                    "values": list(values),
                    "favourites": [values[index] for index in self.favourites[name]],
                    "prior_bits": self.prior_bits[name],
                    "cluster_probabilities": self.value_probabilities[name].tolist(),
                }
                for name, values in ATTRIBUTES.items()
            },
            "cluster_weights": self.cluster_weights.tolist(),
            "mean_prior_bits": self.mean_prior_bits,
        }

    def save(self, path: str | Path, **notes: object) -> None:
        """Writes the world as JSON; `notes` are kept under "corpus" for people and reports."""
        Path(path).write_text(json.dumps(self.to_json() | {"corpus": notes}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "World":
        """Reads what `save` wrote. Raises UserError when the file is missing, broken or of another grammar."""
        mend = "make it again with `anchortrain storyworld`"
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls._from_json(record)
        except OSError as error:
            raise UserError(
                f"cannot read the story world ({error.strerror or error})", where=str(path), mend=mend
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"not a story world ({error})", where=str(path), mend=mend) from error
        except (KeyError, TypeError, AttributeError) as error:
            detail = f"missing or mistyped field: {error}"
            raise UserError(f"not a story world ({detail})", where=str(path), mend=mend) from error

    @classmethod
    def _from_json(cls, record: dict) -> "World":
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, this version reads {FORMAT}")
        if not isinstance(record["seed"], int):
            raise ValueError(f"seed must be an integer, got {record['seed']!r}")
        weights = _distribution(record["cluster_weights"], (CLUSTERS,), "cluster_weights")
        if list(record["attributes"]) != list(ATTRIBUTES):
            raise ValueError(f"attributes must be {', '.join(ATTRIBUTES)}")
        tables, favourites = {}, {}
        for name, values in ATTRIBUTES.items():
            entry = record["attributes"][name]
            if entry["values"] != list(values):
                raise ValueError(f"the values of {name!r} are not those of this version")
            shape = (CLUSTERS, len(values))
            tables[name] = _distribution(entry["cluster_probabilities"], shape, f"cluster_probabilities of {name!r}")
            first, second = (values.index(value) for value in entry["favourites"])
            favourites[name] = (first, second)
        return cls(record["seed"], weights, tables, favourites)


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def _distribution(value: object, shape: tuple[int, ...], field: str) -> np.ndarray:
    """`value` as float64 of this shape whose last axis sums to 1; ValueError otherwise."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{field} must have shape {shape}, got {array.shape}")
    if not ((array >= 0).all() and np.allclose(array.sum(axis=-1), 1.0)):
        raise ValueError(f"{field} must be probabilities that sum to 1")
    return array


def _check_narrowness(rho: float) -> None:
    if not 0.0 <= rho <= 1.0:
        raise UserError(f"narrowness must lie between 0 and 1, got {rho}")
