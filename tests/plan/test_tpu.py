"""What the TPU compiler makes of small runs, against closed forms. Nothing runs on a TPU."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from anchortrain.compiler import PROFILES
from anchortrain.plan import planner, trials
from anchortrain.plan.jobs import Compiler
from anchortrain.plan.slices import parse_slice
from anchortrain.progress import Progress
from tests.plan.conftest import BINDINGS

pytestmark = pytest.mark.usefixtures("libtpu")

PARAMETERS = 2 * (4 * 128 * 128 + 3 * 128 * 256) + 2 * 512 * 128
ROWS, LENGTH = 8, 256
COMMAND = [sys.executable, "-m", "anchortrain", "plan"]


@pytest.fixture(scope="module")
def compiler():
    with Progress(0, unit="programs") as progress:
        yield Compiler(progress)


def expected_flops(devices: int) -> float:
    """Of the small experiment's step: parameters; nine products of splash attention over half of each row."""
    matrices = PARAMETERS - 512 * 128
    return ROWS * LENGTH * (6 * matrices + 9 * 2 * LENGTH * 128) / devices


def bind(*extra: str) -> list[str]:
    return [word for binding in (*BINDINGS, *extra) for word in ("--gin_bindings", binding)]


def test_the_command_from_end_to_end(tmp_path):
    gin = tmp_path / "run.gin"
    gin.write_text("\n".join([*BINDINGS, "RunConfig.tokens = 1_000_000"]))
    command = [*COMMAND, "--gin_file", str(gin), "--slice", "v5e-4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["slice"] == "v5e-4" and record["chips"] == 4 and record["fits"] is True and record["error"] is None
    assert record["mesh"] == {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1}
    assert record["flops_per_step"] == pytest.approx(expected_flops(4), rel=0.02)
    # Parameters and two moments; norms are replicated.
    assert record["hbm_by_kind"]["parameters"] == pytest.approx(4 * PARAMETERS / 4, rel=0.03)
    assert record["hbm_by_kind"]["optimizer"] == pytest.approx(8 * PARAMETERS / 4, rel=0.03)
    kept = sum(record["hbm_by_kind"][kind] for kind in ("parameters", "optimizer"))
    assert kept <= record["argument_bytes"] <= 1.1 * kept
    assert record["hbm_limit_bytes"] == int(15.75 * 2**30)
    assert record["argument_bytes"] + record["temp_bytes"] <= record["hbm_bytes"] <= record["hbm_limit_bytes"]
    # At least: parameters gathered forward and backward in bfloat16, gradients reduced.
    assert record["collective_bytes"]["total"] >= 3 / 4 * 3 * 2 * (PARAMETERS - 512 * 128)
    assert 0 < record["mfu_roofline"] < 1 and record["step_seconds_roofline"] > 0
    assert record["unknown_loops"] == []
    assert record["versions"].keys() == {"jax", "libtpu"} and record["compile_seconds"] > 0
    sampler = record["sampler"]
    assert sampler["fits"] and sampler["sizes"] == {"rows": 8, "prompt_tokens": 64, "new_tokens": 192}
    assert sampler["seconds_per_token_roofline"] > 0
    assert "plan: 100% 2/2 programs" in done.stderr


def test_two_slices(make, compiler):
    record = planner.plan(make("MeshConfig.data = 2"), parse_slice("2xv5e-4"), compiler, sampler=False)
    assert record["fits"] and record["mesh"]["data"] == 2 and record["chips"] == 8
    assert record["flops_per_step"] == pytest.approx(expected_flops(8), rel=0.02)
    # Between two slices a sum costs its operand once: the device's share of the gradients, in bfloat16 or float32.
    assert 2 * PARAMETERS / 4 <= record["dcn_bytes"] <= 1.1 * 4 * PARAMETERS / 4
    assert record["dcn_seconds"] == pytest.approx(record["dcn_bytes"] / 3.125e9)


@pytest.fixture
def too_large(make):
    """Keeps 64 GiB of attention weights a device, of which recomputation leaves one layer's 4 GiB."""
    return make(
        "ModelConfig.remat = 'none'",
        "ModelConfig.attention = 'reference'",
        "ModelConfig.n_layers = 16",
        "DataConfig.batch_rows = 8192",
    )


def test_what_does_not_fit(too_large, compiler):
    record = planner.plan(too_large, parse_slice("v5e-4"), compiler, sampler=False)
    assert record["fits"] is False and "Ran out of memory" in record["error"]
    assert record["hbm_bytes"] > record["hbm_limit_bytes"] == int(15.75 * 2**30)
    assert record["step_seconds_roofline"] is None


@pytest.mark.slow
def test_what_makes_it_fit(too_large, compiler):
    where = parse_slice("v5e-4")
    record = planner.plan(too_large, where, compiler, sampler=False)
    remedy = trials.remedy(too_large, where, record, compiler, 4)
    assert remedy["change"] == "remat" and len(remedy["bindings"]) == 1
    assert remedy["fits"] and remedy["hbm_bytes"] <= remedy["hbm_limit_bytes"]
    assert [tried["fits"] for tried in remedy["tried"]] == [False] * (len(remedy["tried"]) - 1) + [True]


def test_a_mesh_that_does_not_suit_the_slice():
    command = [*COMMAND, *bind("MeshConfig.fsdp = 3"), "--slice", "v5e-4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and not done.stdout
    assert "v5e-4: MeshConfig: mesh data=1 fsdp=3 sequence=1 tensor=1 does not fit 4 devices" in done.stderr


def test_an_interrupt_ends_the_child():
    command = [*COMMAND, *bind(), "--slice", "v5e-4", "--no_sampler"]
    plan = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        child = _wait_for_child(plan.pid)
        plan.send_signal(signal.SIGINT)
        assert plan.wait(30) == 130
        assert not os.path.exists(f"/proc/{child}")
    finally:
        plan.kill()
        plan.stderr.close()


def _wait_for_child(pid: int) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        for child in children:
            with open(f"/proc/{child}/cmdline") as file:
                if "anchortrain.plan.worker" in file.read():
                    return child
        time.sleep(0.1)
    raise AssertionError("no child was started")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4-8", "v5p-8", "v6e-4", "tpu7x-8", "v5e-1"])
def test_every_generation(make, compiler, name):
    where = parse_slice(name)
    record = planner.plan(make(), where, compiler)
    assert record["fits"] and record["sampler"]["fits"] and record["unknown_loops"] == []
    assert record["flops_per_step"] == pytest.approx(expected_flops(where.devices), rel=0.02)
    assert record["sampler"]["seconds_per_token_roofline"] > 0
    if where.devices > 1:
        assert record["collective_bytes"]["total"] >= 3 / 4 * 3 * 2 * (PARAMETERS - 512 * 128) / 2


@pytest.mark.slow
@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_compiles(make, compiler, profile):
    where = parse_slice(f"{profile}-8")
    experiment = make(f"RunConfig.compiler_profile = '{profile}'")
    record = planner.plan(experiment, where, compiler, sampler=False)
    assert record["error"] is None and record["fits"]


@pytest.mark.slow
def test_the_anchor_and_microbatches(make, compiler):
    anchored = make(
        "LossConfig.anchor_weight = 0.1",
        "LossConfig.anchor_data = 'none'",
        "LossConfig.anchor_rows = 8",
        "RunConfig.accumulation = 2",
    )
    record = planner.plan(anchored, parse_slice("v5e-4"), compiler, sampler=False)
    assert record["hbm_by_kind"]["reference"] == record["hbm_by_kind"]["parameters"]
    plain = expected_flops(4)
    # As many rows again, and the reference's forward pass over them: 1 + 1 + 1/3, if logits are not computed twice.
    assert record["flops_per_step"] == pytest.approx(plain * 7 / 3, rel=0.08)


@pytest.mark.slow
def test_a_search(make, compiler):
    found = trials.search(make(), parse_slice("v5e-4"), compiler, 3)
    assert len(found["ranked"]) == 3
    assert {one["mesh"]["fsdp"] for one in found["ranked"]} == {1, 2, 4}
