"""Writes a world's corpus in the file formats that a user's own corpus has."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from anchortrain.errors import UserError
from anchortrain.storyworld import render
from anchortrain.storyworld.world import World

# The files of a corpus. Each draws from a stream of its own, so that no count changes another file.
PRETRAIN = "pretrain.jsonl"
PRETRAIN_HELDOUT = "pretrain_heldout.jsonl"
SFT = "sft.jsonl"
SFT_HELDOUT = "sft_heldout.jsonl"
PROMPTS = "prompts.jsonl"
WORLD = "world.json"
_STREAMS = {name: i for i, name in enumerate((PROMPTS, PRETRAIN, PRETRAIN_HELDOUT, SFT, SFT_HELDOUT), start=1)}

HELDOUT = 500


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sizes of a corpus, and the narrowness of its instructions (0 as broad as the documents, 1 narrowest)."""

    documents: int = 24_000
    instructions: int = 8_000
    prompts: int = 64
    narrowness: float = 0.8

    def check(self) -> None:
        available = len(render.prompts())
        for field, most in (("documents", None), ("instructions", None), ("prompts", available - 1)):
            number = getattr(self, field)
            if number < 1 or (most is not None and number > most):
                limit = "at least 1" if most is None else f"between 1 and {most}"
                raise UserError(f"--{field} must be {limit}, got {number}")
        if not 0.0 <= self.narrowness <= 1.0:
            raise UserError(f"--narrowness must lie between 0 and 1, got {self.narrowness}")


def write(directory: str | Path, seed: int, counts: Counts) -> World:
    """Writes all files of a corpus; they are a pure function of (seed, counts).

    The directory appears when everything is written. Raises UserError when it exists and is not empty.
    """
    counts.check()
    if seed < 0:
        raise UserError(f"--seed must not be negative, got {seed}")
    directory = Path(directory).absolute()
    partial = directory.with_name(directory.name + ".partial")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError("exists and is not empty", where=str(directory), mend="remove it or choose another --out")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        world = _write_files(partial, seed, counts)
        partial.replace(directory)
    except OSError as error:
        mend = "free some space or choose another --out"
        raise UserError(
            f"cannot write the corpus ({error.strerror or error})", where=str(directory), mend=mend
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return world


def _write_files(directory: Path, seed: int, counts: Counts) -> World:
    world = World.from_seed(seed)
    heldout_prompts, train_prompts = split_prompts(seed, counts.prompts)
    for name, n in ((PRETRAIN, counts.documents), (PRETRAIN_HELDOUT, HELDOUT)):
        _write_records(directory / name, documents(world, name, n))
    for name, n, texts in ((SFT, counts.instructions, train_prompts), (SFT_HELDOUT, HELDOUT, heldout_prompts)):
        _write_records(directory / name, instructions(world, name, n, texts, counts.narrowness))
    _write_records(directory / PROMPTS, ({"prompt": text} for text in heldout_prompts))
    bits = world.instruction_bits(counts.narrowness)
    mean = world.mean_instruction_bits(counts.narrowness)
    world.save(directory / WORLD, **dataclasses.asdict(counts), instruction_bits=bits, mean_instruction_bits=mean)
    return world


def split_prompts(seed: int, heldout: int) -> tuple[list[str], list[str]]:
    """All wordings of a prompt as (held out, for training), in random order."""
    wordings = render.prompts()
    order = _stream(seed, PROMPTS).permutation(len(wordings)).tolist()
    shuffled = [wordings[i] for i in order]
    return shuffled[:heldout], shuffled[heldout:]


def documents(world: World, name: str, n: int) -> Iterator[dict]:
    """The `n` document records of the file `name`."""
    rng = _stream(world.seed, name)
    for i, latent in enumerate(world.sample_latents(n, rng).tolist()):
        yield {"id": f"{Path(name).stem}-{i:06d}", **world.document(latent, rng)}


def instructions(world: World, name: str, n: int, prompts: list[str], rho: float) -> Iterator[dict]:
    """The `n` instruction records of the file `name`; prompts are drawn with replacement."""
    rng = _stream(world.seed, name)
    latents = world.sample_latents(n, rng, rho).tolist()
    chosen = rng.integers(len(prompts), size=n).tolist()
    for i, (latent, prompt) in enumerate(zip(latents, chosen, strict=True)):
        yield {"id": f"{Path(name).stem}-{i:06d}", **world.instruction(latent, prompts[prompt], rng)}


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[name]])


def _write_records(path: Path, records: Iterable[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
