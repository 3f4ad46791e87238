"""The real train step and sampler, compiled for CPU devices from shapes alone, and counted."""

import jax
import jax.numpy as jnp
import pytest

from anchortrain.errors import UserError
from anchortrain.flops import matrix_parameters
from anchortrain.plan import hlo
from anchortrain.plan.activations import kept_bytes
from anchortrain.plan.costs import costs
from anchortrain.plan.program import mesh_of, sampler_program, train_program

TOKENS = 8 * 256
TENSOR = ["MeshConfig.tensor = 2"]


def compiled(build, experiment, devices):
    program = build(experiment, mesh_of(experiment, jax.devices()[:devices]))
    return program, hlo.parse(program.lowered.compile().as_text())


def closed_form(experiment):
    """6 a parameter and token; attention in two blocks of queries, of which the first sees half the keys."""
    m, length = experiment.model, experiment.data.length
    attention = 12 * m.n_layers * length * m.d_model * 3 / 4
    return TOKENS * (6 * matrix_parameters(m, m.vocabulary_size) + attention)


@pytest.mark.parametrize("devices", [1, 4])
def test_flops_of_a_train_step(make, devices):
    experiment = make("ModelConfig.attention = 'reference'", "ModelConfig.n_layers = 5")
    program, module = compiled(train_program, experiment, devices)
    found = costs(module, devices)
    assert found.flops == pytest.approx(closed_form(experiment) / devices, rel=0.03)
    assert not found.unknown
    parameters = matrix_parameters(experiment.model, experiment.model.vocabulary_size) + 512 * 128
    assert program.argument_bytes["parameters"] == pytest.approx(4 * parameters / devices, rel=0.05)
    assert program.argument_bytes["optimizer"] == pytest.approx(8 * parameters / devices, rel=0.05)
    assert program.argument_bytes["batch"] == TOKENS / devices * (6 * 4 + 2 * 1)
    assert program.argument_bytes["reference"] == 0
    assert (found.collective_bytes()["total"] > 0) == (devices > 1)


def test_microbatches_and_recomputation(make):
    plain = closed_form(make())
    parts = costs(compiled(train_program, make("RunConfig.accumulation = 4"), 1)[1])
    again = costs(compiled(train_program, make("ModelConfig.remat = 'full'"), 1)[1])
    assert parts.flops == pytest.approx(plain, rel=0.03)
    assert 1.1 < again.flops / plain < 1.34  # another forward pass of the layers


def test_the_reference_and_its_rows(make):
    bindings = ["LossConfig.anchor_weight = 0.1", "LossConfig.anchor_data = 'none'", "LossConfig.anchor_rows = 4"]
    program, _ = compiled(train_program, make(*bindings), 1)
    assert program.argument_bytes["reference"] == program.argument_bytes["parameters"]
    assert program.argument_bytes["batch"] == 1.5 * TOKENS * 26
    stored, _ = compiled(train_program, make(*bindings, "LossConfig.anchor_reference = 'stored'"), 1)
    assert stored.argument_bytes["reference"] == 0
    assert stored.argument_bytes["batch"] == 1.5 * TOKENS * 26 + 0.5 * TOKENS * 32 * (4 + 4)


def test_tied_embeddings(make):
    tied = make("ModelConfig.tie_embeddings = True", "ModelConfig.attention = 'reference'")
    program, module = compiled(train_program, tied, 4)
    assert program.argument_bytes["parameters"] == pytest.approx(
        4 * matrix_parameters(tied.model, tied.model.vocabulary_size) / 4, rel=0.05
    )
    assert costs(module, 4).flops == pytest.approx(closed_form(tied) / 4, rel=0.06)
    assert compiled(sampler_program, tied, 4)[0].sizes["rows"] == 8


def test_a_token_of_the_sampler(make):
    experiment = make()
    program, module = compiled(sampler_program, experiment, 4)
    assert program.sizes == {"rows": 8, "prompt_tokens": 64, "new_tokens": 192}
    (token,) = costs(module, 4).unknown.values()
    # Each row: 2 a parameter, and attention over the whole cache.
    expected = 8 * (2 * matrix_parameters(experiment.model, experiment.model.vocabulary_size) + 4 * 2 * 256 * 128) / 4
    assert token.flops == pytest.approx(expected, rel=0.1)


def test_what_a_scan_keeps_for_its_gradient():
    def loss(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.sin(x) @ w, None), x, weights)[0].sum()

    weights, x = jax.ShapeDtypeStruct((5, 128, 128), jnp.float32), jax.ShapeDtypeStruct((64, 128), jnp.float32)
    module = hlo.parse(jax.jit(jax.grad(loss)).lower(weights, x).compile().as_text())
    assert kept_bytes(module) == 2 * 5 * 64 * 128 * 4  # sine and cosine
    forward = hlo.parse(jax.jit(loss).lower(weights, x).compile().as_text())
    assert kept_bytes(forward) == 0


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["MeshConfig.fsdp = 3"], "does not fit 4 devices"),
        (["DataConfig.batch_rows = 6"], "DataConfig.batch_rows: 6 rows cannot be shared out over 4 devices"),
        (["RunConfig.accumulation = 4"], "8 rows cannot be shared out over 4 devices x 4 microbatches"),
        (
            ["LossConfig.anchor_weight = 1.0", "LossConfig.anchor_data = 'x'", "LossConfig.anchor_rows = 2"],
            "anchor_rows: 2",
        ),
        (
            ["ModelConfig.n_kv_heads = 1", *TENSOR],
            "ModelConfig.n_kv_heads: 1 key heads do not divide over 2 devices of "
            "mesh axis tensor; use MeshConfig.tensor = 1",
        ),
        (["ModelConfig.d_ff = 255", *TENSOR], "ModelConfig.d_ff: 255 columns of the MLP do not divide over 2 devices"),
        (
            ["ModelConfig.d_model = 126", "ModelConfig.n_heads = 1", "ModelConfig.n_kv_heads = 1"],
            "ModelConfig.d_model: 126 columns do not divide over 4 devices of mesh axis fsdp",
        ),
        (
            ["MeshConfig.sequence = -1", "MeshConfig.fsdp = 1", "DataConfig.length = 130"],
            "MeshConfig.sequence: rows of 130 tokens do not divide over 4 devices of mesh axis sequence; use 2",
        ),
        (
            ["MeshConfig.sequence = -1", "MeshConfig.fsdp = 1", "ModelConfig.attention = 'splash'"],
            "attention 'splash' needs a multiple of 128 tokens of a row on each device, got 256 / 4; use 512",
        ),
    ],
)
def test_what_does_not_divide(make, bindings, message):
    with pytest.raises(UserError) as error:
        mesh_of(make(*bindings), jax.devices()[:4])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mesh_may_cut_everything(make):
    cut = make("MeshConfig.sequence = 2", "MeshConfig.fsdp = 1", "MeshConfig.tensor = 2")
    assert dict(mesh_of(cut, jax.devices()[:4]).shape) == {"data": 1, "fsdp": 1, "sequence": 2, "tensor": 2}
