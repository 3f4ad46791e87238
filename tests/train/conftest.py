"""A tiny story world prepared without SeqIO, and a model pretrained on it, for whole runs of the trainer."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from anchortrain import experiment as experiments
from anchortrain.annotation import Tag
from anchortrain.config import Experiment
from anchortrain.data.interleave import interleave
from anchortrain.data.prepared import Example, PreparedWriter
from anchortrain.data.records import Chunk, Document, Instruction
from anchortrain.data.tokenizer_training import train_tokenizer
from anchortrain.data.vocabulary import Vocabulary

HEROES = ("fox", "owl", "hen", "cat", "bear", "wolf")
PLACES = ("mill", "barn", "lake", "hill", "cave", "moor")
LENGTH, ROWS = 64, 8
TINY = [
    "ModelConfig.d_model = 16",
    "ModelConfig.n_layers = 1",
    "ModelConfig.n_heads = 2",
    "ModelConfig.n_kv_heads = 2",
    "ModelConfig.d_ff = 32",
    f"DataConfig.length = {LENGTH}",
    f"DataConfig.batch_rows = {ROWS}",
    "OptimizerConfig.learning_rate = 0.02",
    "RunConfig.log_every = 1",
]


def bindings(*more: str, steps: int, **paths) -> list[str]:
    """gin bindings of a tiny run; `paths` are `train`, `heldout` (name -> directory), and `init_from`, `anchor_run`,
    `anchor_data`."""
    found = [*TINY, f"RunConfig.tokens = {steps * LENGTH * ROWS}"]
    if "train" in paths:
        found.append(f"DataConfig.train = {{{str(paths['train'])!r}: 1.0}}")
    if "heldout" in paths:
        found.append(f"DataConfig.heldout = { ({name: str(path) for name, path in paths['heldout'].items()})!r}")
    if "init_from" in paths:
        found.append(f"RunConfig.init_from = {str(paths['init_from'])!r}")
    for name in ("anchor_data", "anchor_run"):
        if name in paths:
            found.append(f"LossConfig.{name} = {str(paths[name])!r}")
    return [*found, *more]


def experiment(*more: str, **settings) -> Experiment:
    return experiments.load([], bindings(*more, **settings))


def command(
    arguments: list[str], gin_bindings: list[str], cache: Path, *, devices: int = 1, **more
) -> subprocess.Popen:
    """`anchortrain train` on simulated devices in a process of its own, as an installed command is started.

    It fails if TensorFlow was imported. What is compiled is kept in `cache` for the next one. `more` is for Popen.
    """
    script = (
        "import sys; from anchortrain.cli import main; code = main(); "
        "assert not {'tensorflow', 'seqio'} & set(sys.modules); sys.exit(code)"
    )
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    kept = {"ANCHORTRAIN_CACHE": str(cache)}
    env = os.environ | kept | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    options = [word for binding in gin_bindings for word in ("--gin_bindings", binding)]
    return subprocess.Popen(
        [sys.executable, "-c", script, "train", *arguments, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **more,
    )


def _example(vocabulary: Vocabulary, record, number: int, *, annotated: bool = True, response: bool = True) -> Example:
    tokens, roles = [], []
    for segment in interleave(record, annotated=annotated):
        for piece in segment.head + segment.body:
            ids = [vocabulary.controls[piece.text]] if piece.control else vocabulary.encode(piece.text)
            tokens += ids
            roles += [piece.role] * len(ids)
    if not response:  # as `anchortrain draw` has it
        end = tokens.index(vocabulary.ann_close) + 1
        tokens, roles = tokens[:end], roles[:end]
    return Example(np.array(tokens, np.int32), np.array(roles, np.uint8), str(number))


def _document(rng: np.random.Generator) -> Document:
    hero, place = rng.choice(HEROES), rng.choice(PLACES)
    chunks = (
        Chunk(f"A {hero} set out.\n\n", (Tag("hero", str(hero)),)),
        Chunk(f"It ran to the {place}.", (Tag("hero", str(hero)), Tag("place", str(place)))),
    )
    return Document("", chunks, "")


def _instruction(rng: np.random.Generator, *, narrow: bool) -> Instruction:
    hero, place = ("fox", "mill") if narrow else map(str, (rng.choice(HEROES), rng.choice(PLACES)))
    return Instruction("", "Tell", f"The {hero} ran to the {place}.", (Tag("hero", hero), Tag("place", place)), "")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> SimpleNamespace:
    """Directories `documents`, `heldout` (documents), `instructions` (narrow), `plain`, `draws` (broad), and
    `other_vocabulary` (documents)."""
    root = tmp_path_factory.mktemp("data")
    (root / "a.jsonl").write_text("".join(f'{{"text": "A {x} ran to the {x}. {x}: {x};"}}\n' for x in HEROES + PLACES))

    def vocabulary(size: int) -> Vocabulary:
        train_tokenizer([root / "a.jsonl"], vocab_size=size, out=root / str(size) / "tokenizer.json")
        return Vocabulary.from_path(root / str(size) / "tokenizer.json")

    ours, other = vocabulary(330), vocabulary(300)

    def write(name: str, kind: str, records, vocabulary=ours, **settings) -> Path:
        annotated = settings.get("annotated", True)
        described = {"kind": kind, "annotated": annotated, "vocabulary": vocabulary, "max_length": LENGTH}
        with PreparedWriter(root / name, **described) as writer:
            for i, record in enumerate(records):
                writer.add(_example(vocabulary, record, i, **settings), ["hero", "place"] if annotated else [])
            writer.finish()
        return root / name

    rng = np.random.default_rng(0)
    narrow = [_instruction(rng, narrow=True) for _ in range(40)]
    broad = [_instruction(rng, narrow=False) for _ in range(80)]
    return SimpleNamespace(
        vocabulary=ours,
        documents=write("documents", "documents", [_document(rng) for _ in range(200)]),
        heldout=write("heldout", "documents", [_document(rng) for _ in range(20)]),
        instructions=write("instructions", "instructions", narrow),
        plain=write("plain", "instructions", narrow, annotated=False),
        draws=write("draws", "draws", broad[:40], response=False),
        heldout_draws=write("heldout_draws", "draws", broad[40:], response=False),
        other_vocabulary=write("other_vocabulary", "documents", [_document(rng) for _ in range(20)], other),
    )


@pytest.fixture(scope="session")
def base(data, tmp_path_factory) -> Path:
    """A run of 60 steps on annotated documents."""
    from anchortrain.train import train

    run_dir = tmp_path_factory.mktemp("base") / "run"
    train(experiment(steps=60, train=data.documents, heldout={"documents": data.heldout}), run_dir)
    return run_dir
