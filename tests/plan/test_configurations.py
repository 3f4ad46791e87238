"""The configurations in gin_configs/olmo and a peer's, compiled for the slices they are made for."""

import math
from pathlib import Path

import pytest

from anchortrain import experiment as experiments
from anchortrain.config import padded_vocabulary
from anchortrain.flops import matrix_parameters
from anchortrain.plan import figures, planner
from anchortrain.plan.candidates import with_fields
from anchortrain.plan.jobs import Compiler, Job
from anchortrain.plan.slices import parse_slice
from anchortrain.progress import Progress

pytestmark = pytest.mark.usefixtures("libtpu")

GIN = Path(__file__).parents[2] / "gin_configs" / "olmo"
PEER = GIN.parents[1] / "benchmarks" / "peer.gin"
DATA = "DataConfig.train = {'no/such/directory': 1.0}"
GB = 1e9
SLICES = {"600m": "v5e-32", "1b": "v5p-32", "2p5b": "v5p-32"}
QUICK = {("kl", "1b")}
CASES = [
    pytest.param(kind, size, marks=() if (kind, size) in QUICK else pytest.mark.slow)
    for size in SLICES
    for kind in ("pretrain", "posttrain", "kl")
]


@pytest.fixture(scope="module")
def compiler():
    with Progress(0, unit="programs") as progress:
        yield Compiler(progress)


def load(name, *bindings):
    return experiments.load([str(GIN / f"{name}.gin")], [DATA, *bindings])


def local(experiment, result):
    """Of one device: tokens of a microbatch, columns of the vocabulary."""
    mesh, rows = result["mesh"], experiment.data.batch_rows
    if experiment.loss.anchor_weight:
        rows += experiment.loss.anchor_rows
    ways = mesh["data"] * mesh["fsdp"] * mesh["sequence"] * experiment.run.accumulation
    return rows * experiment.data.length // ways, padded_vocabulary(experiment.model.vocabulary_size) // mesh["tensor"]


def assert_no_logits(experiment, result):
    """No array is as large as tokens x vocabulary of one device, but those of all layers."""
    tokens, columns = local(experiment, result)
    for dims in result["arrays"]:
        layer = dims[1:] if dims[0] == experiment.model.n_layers and len(dims) > 3 else dims
        assert math.prod(layer) < tokens * columns, dims
        if columns in dims or padded_vocabulary(experiment.model.vocabulary_size) in dims:
            assert math.prod(dims) <= experiment.model.d_model * columns, dims  # embedding or head


def expected_flops(experiment, devices):
    """A closed form of a compiled step: what the model needs, logits made twice, and what is computed again."""
    m, tokens = experiment.model, figures.step_tokens(experiment)
    if experiment.loss.anchor_weight:
        tokens += experiment.loss.anchor_rows * experiment.data.length
    head = m.d_model * padded_vocabulary(m.vocabulary_size)
    layers = matrix_parameters(experiment.model, experiment.model.vocabulary_size) - head
    again = {
        "none": 0,
        "dots": 0,
        "attention": m.n_layers * (m.d_model**2 + 3 * m.d_model * m.d_ff),  # output projection and MLP
        "full": layers,
    }[m.remat]
    # Of the causal half: two products forward, three for queries and four for keys and values.
    attention = m.n_layers * experiment.data.length * m.d_model * (9 + 2 * (m.remat == "full"))
    return tokens * (6 * layers + 2 * again + 8 * head + attention) / devices


def check(experiment, where, compiler, share=0.9):
    """The record and the worker's result of a program that fits and is what it should be."""
    record = planner.plan(experiment, where, compiler, sampler=False)
    result = compiler(Job(planner.for_slice(experiment, where), where, "train"))
    assert record["error"] is None and record["fits"]
    assert record["hbm_bytes"] < share * record["hbm_limit_bytes"]
    assert record["flops_per_step"] == pytest.approx(expected_flops(experiment, where.devices), rel=0.01)
    assert_no_logits(experiment, result)
    return record


def assert_moves_little(experiment, record):
    """Weights gathered once forward and once backward in bfloat16; gradients reduced and cut once, layers' in
    bfloat16, the head's in float32 (on v5p the compiler sums chunks of it whole: twice the bytes)."""
    m, ways = experiment.model, record["devices"]
    head = m.d_model * padded_vocabulary(m.vocabulary_size)
    layers = matrix_parameters(experiment.model, experiment.model.vocabulary_size) - head
    terms, rounds = 1 + bool(experiment.loss.anchor_weight), experiment.run.accumulation
    share, sent = (ways - 1) / ways * rounds, record["collective_bytes"]
    assert sent["all-gather"] == pytest.approx(share * 2 * 2 * (layers + terms * head), rel=0.03)
    reduced = sent["all-reduce"] + sent["reduce-scatter"] + sent["collective-permute"]
    assert share * (2 * layers + 4 * terms * head) * 0.95 < reduced < share * (2.4 * layers + 8 * terms * head) * 1.05


@pytest.mark.parametrize("kind, size", CASES)
def test_it_fits_its_slice(compiler, kind, size):
    experiment, where = load(f"{kind}_{size}"), parse_slice(SLICES[size])
    assert experiment.model.remat == "dots"
    assert_moves_little(experiment, check(experiment, where, compiler))


@pytest.mark.parametrize("size", SLICES)
def test_the_anchor_leaves_the_tokens_of_a_step(size):
    plain, anchored = load(f"posttrain_{size}"), load(f"kl_{size}")
    assert anchored.data.batch_rows + anchored.loss.anchor_rows == plain.data.batch_rows
    assert anchored.loss.anchor_weight and anchored.loss.anchor_reference == "stored"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-64", "v6e-32"])
def test_pretraining_of_2p5b_elsewhere(compiler, name):
    check(load("pretrain_2p5b", "RunConfig.accumulation = 8"), parse_slice(name), compiler)


@pytest.mark.slow
def test_the_anchor_costs_next_to_nothing(compiler):
    where = parse_slice(SLICES["1b"])
    online = load("kl_1b", "LossConfig.anchor_reference = 'online'")
    plain, stored, online = (
        planner.plan(one, where, compiler, sampler=False)["flops_per_step"]
        for one in (load("posttrain_1b"), load("kl_1b"), online)
    )
    assert stored <= 1.05 * plain and online <= 1.25 * plain


@pytest.mark.slow
def test_memory_against_a_peer(compiler):
    where, plain = parse_slice("v5p-32"), experiments.load([str(PEER)], [DATA])
    anchored = with_fields(plain, "data", batch_rows=48)
    anchored = with_fields(
        anchored, "loss", anchor_weight=0.1, anchor_rows=16, anchor_reference="stored", anchor_data="none"
    )
    temporaries = [check(one, where, compiler)["temp_bytes"] for one in (plain, anchored)]
    assert temporaries[0] <= 4.0 * GB and temporaries[1] <= 1.1 * temporaries[0]
