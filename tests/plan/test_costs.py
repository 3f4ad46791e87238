"""What is counted in optimized programs: against closed forms, and XLA's own count where there is no loop."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from anchortrain.plan import hlo
from anchortrain.plan.collectives import replica_groups
from anchortrain.plan.costs import costs
from anchortrain.plan.flops import splash_flops

N = 7


def counted(function, *arguments, devices=1, slices=1):
    compiled = jax.jit(function).lower(*arguments).compile()
    return costs(hlo.parse(compiled.as_text()), devices, slices), compiled


def array(*shape, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def layers_unrolled(x, weights):
    for i in range(N):
        x = jnp.tanh(x @ weights[i])
    return x


def test_a_scan_counts_as_often_as_it_runs():
    arguments = array(64, 128), array(N, 128, 128)
    looped, compiled = counted(layers, *arguments)
    unrolled, _ = counted(layers_unrolled, *arguments)
    assert looped.flops == unrolled.flops == N * 2 * 64 * 128 * 128
    assert compiled.cost_analysis()["flops"] < looped.flops / 2  # the reason why we count ourselves
    assert not looped.unknown


def test_gradients_of_a_scan():
    arguments = array(64, 128), array(N, 128, 128)
    gradient, _ = counted(jax.grad(lambda x, w: layers(x, w).sum(), argnums=(0, 1)), *arguments)
    assert gradient.flops == 3 * N * 2 * 64 * 128 * 128


def test_nested_scans():
    def nested(x, weights):
        return jax.lax.scan(lambda x, _: (layers(x, weights), None), x, length=5)[0]

    looped, _ = counted(nested, array(64, 128), array(N, 128, 128))
    assert looped.flops == 5 * N * 2 * 64 * 128 * 128


@pytest.mark.parametrize(
    "function, shapes",
    [
        (lambda a, b: a @ b, [(32, 48), (48, 16)]),
        (lambda a, b: jnp.einsum("bik,bjk->bij", a, b), [(3, 32, 48), (3, 16, 48)]),
        (lambda a, b: jax.lax.conv_general_dilated(a, b, (2, 2), "SAME"), [(4, 3, 17, 17), (8, 3, 5, 5)]),
        (
            lambda a, b: jax.lax.conv_general_dilated(
                a, b, (1,), [(3, 2)], lhs_dilation=(2,), rhs_dilation=(3,), feature_group_count=2
            ),
            [(4, 6, 19), (8, 3, 4)],
        ),
    ],
)
def test_as_xla_counts_where_there_is_no_loop(function, shapes):
    found, compiled = counted(function, *(array(*shape) for shape in shapes))
    # XLA also counts elementwise work; here there is next to none.
    assert found.flops == pytest.approx(compiled.cost_analysis()["flops"], rel=0.01)
    assert found.bytes == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.35)


def test_a_loop_of_unknown_length_is_counted_once_and_reported():
    def search(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1000.0, lambda x: jnp.tanh(x @ w), x)

    found, _ = counted(search, array(64, 128), array(128, 128))
    assert found.flops == 2 * 64 * 128 * 128
    assert [inner.flops for inner in found.unknown.values()] == [found.flops]


def test_the_dearest_branch_counts():
    def branch(which, x, w):
        return jax.lax.cond(which, lambda: jnp.tanh(x @ w @ w), lambda: x)

    found, _ = counted(branch, array(dtype=jnp.bool_), array(64, 128), array(128, 128))
    assert found.flops == 2 * 2 * 64 * 128 * 128


def test_slices_and_updates_in_place_count_at_their_size():
    rows = array(1000, 256)
    read, _ = counted(lambda x, i: jnp.tanh(jax.lax.dynamic_index_in_dim(x, i)), rows, array(dtype=jnp.int32))
    assert read.bytes < 20 * 256 * 4

    def fill(x):
        def body(i, x):
            return jax.lax.dynamic_update_index_in_dim(x, jnp.full(256, i, jnp.float32), i, 0)

        return jax.lax.fori_loop(0, 1000, body, x)

    written = costs(hlo.parse(jax.jit(fill, donate_argnums=0).lower(rows).compile().as_text()))
    assert written.bytes < 20 * 1000 * 256 * 4


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def sharded(mesh, *partition):
    return NamedSharding(mesh, PartitionSpec(*partition))


def test_collectives_by_kind(mesh):
    def moves(kind):
        def inner(x):
            return {
                "all-gather": lambda: jax.lax.all_gather(x, "model", tiled=True),
                "all-reduce": lambda: jax.lax.psum(x, "model"),
                "reduce-scatter": lambda: jax.lax.psum_scatter(x, "model", tiled=True),
                "all-to-all": lambda: jax.lax.all_to_all(x, "model", 0, 0, tiled=True),
                "collective-permute": lambda: jax.lax.ppermute(x, "model", [(0, 1), (1, 0)]),
            }[kind]()

        spec = PartitionSpec("model")
        return jax.shard_map(inner, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    operand = 256 * 128 * 4  # bytes on one device
    factor = {"all-gather": 3, "all-reduce": 2 * 3 / 4, "reduce-scatter": 3 / 4, "all-to-all": 3 / 4}
    for kind in ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"):
        x = array(4 * 256, 128, sharding=sharded(mesh, "model"))
        found, _ = counted(moves(kind), x, devices=8)
        by_kind = found.collective_bytes()
        assert by_kind[kind] == by_kind["total"] == operand * factor.get(kind, 1), kind
        assert found.dcn_bytes == 0


def test_collectives_in_a_scan_and_between_slices(mesh):
    def step(x, weights):
        def body(x, w):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), sharded(mesh, "data")), None

        return jax.lax.scan(body, x, weights)[0]

    x = array(64, 128, sharding=sharded(mesh, "data"))
    w = array(N, 128, 128, sharding=sharded(mesh, None, "model"))
    found, _ = counted(step, x, w, devices=8)
    assert found.collective_bytes()["total"] > 0 and found.flops >= N * 2 * 32 * 128 * 128 / 4

    def reduced(x):
        return jax.shard_map(
            lambda x: jax.lax.psum(x, ("data", "model")), mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
        )(x)

    size = 128 * 128 * 4
    across, _ = counted(reduced, array(128, 128), devices=8, slices=2)
    # Within the slice of four first; then each sends its quarter to the other slice.
    assert across.ici_bytes == 2 * 3 / 4 * size
    assert across.dcn_bytes == 2 * 1 / 2 * size / 4


def test_a_collective_that_goes_on_in_an_inner_loop_counts_once():
    before = "  %begun = bf16[8,128]{1,0} fusion(%piece), kind=kCustom, calls=%step.1\n"
    within = "  %more = bf16[8,128]{1,0} fusion(%piece), kind=kCustom, calls=%step.2\n"
    found = costs(hlo.parse(_SPREAD.format(before=before, within=within)), devices=4)
    assert found.collective_bytes()["all-gather"] == 3 * 512
    # One that is begun in the loop runs as often as the loop.
    found = costs(hlo.parse(_SPREAD.format(before="", within=within)), devices=4)
    assert found.collective_bytes()["all-gather"] == 5 * 3 * 512


_SPREAD = """HloModule spread

%step.1 (a: bf16[2,128]) -> bf16[8,128] {{
  %a = bf16[2,128]{{1,0}} parameter(0)
  ROOT %all-gather.1 = bf16[8,128]{{1,0}} all-gather(%a), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}

%step.2 (b: bf16[2,128]) -> bf16[8,128] {{
  %b = bf16[2,128]{{1,0}} parameter(0)
  ROOT %all-gather.2 = bf16[8,128]{{1,0}} all-gather(%b), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}

%condition (c: (s32[], bf16[2,128])) -> pred[] {{
  %c = (s32[], bf16[2,128]{{1,0}}) parameter(0)
  %limit = s32[] constant(5)
  %at = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%at, %limit), direction=LT
}}

%body (d: (s32[], bf16[2,128])) -> (s32[], bf16[2,128]) {{
  %d = (s32[], bf16[2,128]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%d), index=0
  %piece = bf16[2,128]{{1,0}} get-tuple-element(%d), index=1
{within}  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %state = (s32[], bf16[2,128]{{1,0}}) tuple(%next, %piece)
}}

ENTRY %main (x: bf16[2,128]) -> (s32[], bf16[2,128]) {{
  %piece = bf16[2,128]{{1,0}} parameter(0)
{before}  %zero = s32[] constant(0)
  %initial = (s32[], bf16[2,128]{{1,0}}) tuple(%zero, %piece)
  ROOT %loop = (s32[], bf16[2,128]{{1,0}}) while(%initial), condition=%condition, body=%body
}}
"""


def instruction(attributes):
    return hlo.Instruction("x", "all-reduce", (), (), attributes, "")


@pytest.mark.parametrize(
    "attributes, groups",
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x=1", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_replica_groups(attributes, groups):
    assert replica_groups(instruction(attributes), 4) == groups


# As TPU programs have them: no note of the trip count, %p#0 for element 0 of p, an asynchronous collective in several
# fusions with one channel, a reduce-scatter written as a sum and a slice, values in VMEM (S(1)), kernels with line
# breaks in their metadata, a message to another slice.
TPU_TEXT = (Path(__file__).parent / "tpu_step.hlo").read_text()


def test_what_tpu_programs_look_like():
    found = costs(hlo.parse(TPU_TEXT), devices=8, slices=2)
    splash = 2 * 2 * (4 * 1024 * 64) * 1024 / 2
    assert found.flops == 6 * 2 * 8 * 128 * 128 + splash + 123
    assert found.collective_bytes() == {
        "all-gather": 6 * 3 * (2 * 128 * 2),  # once an iteration, although it is in two fusions
        "all-reduce": 4 * 128 * 4,  # the message to the other slice: 2 * (2 - 1) / 2 of it
        "reduce-scatter": 3 / 4 * 16 * 128 * 4,
        "all-to-all": 0,
        "collective-permute": 0,
        "total": 6 * 3 * 512 + 2048 + 6144,
    }
    assert found.dcn_bytes == 2048
    products = [one for one in found.work if one.name == "fused"]
    # x is read and y written in HBM; the weights and the gathered piece stay in VMEM.
    assert [(one.bytes, one.times) for one in products] == [(2 * 8 * 128 * 2, 6)]
    assert found.unknown == {}


def test_kernels_of_splash_attention():
    q, k = hlo.Shape("bf16", (2, 8, 512, 128)), hlo.Shape("bf16", (2, 2, 1024, 128))
    one = 2 * q.elements * 1024 / 2
    names = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4, "splash_mha_fused_dkv": 5}
    for name, products in names.items():
        assert splash_flops(name, [hlo.Shape("s8", (1, 4, 4)), q, k, k]) == products * one


def test_shapes():
    types = list(hlo.shapes("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, pred[], f8e4m3fn[4], s4[3], /*index=5*/token[])"))
    assert [one.bytes for one in types] == [12, 1, 4, 2, 0]
    assert [one.hbm_bytes for one in types] == [0, 1, 4, 2, 0]
    assert np.prod(types[0].dims) == types[0].elements == 6


def test_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule x\n")
