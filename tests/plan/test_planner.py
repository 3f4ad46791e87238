"""Plans, changes and searches around a compiler that answers by rule; mistakes of the user."""

import dataclasses
import importlib.util
import io
import json
import math

import pytest

from anchortrain.cli import main
from anchortrain.errors import UserError
from anchortrain.flops import matrix_parameters
from anchortrain.plan import figures, planner, trials
from anchortrain.plan.candidates import bindings, meshes, savings, with_fields
from anchortrain.plan.jobs import Compiler, Job, _last_words
from anchortrain.plan.report import show
from anchortrain.plan.slices import parse_slice
from anchortrain.plan.worker import compile_error

GIB = 2**30
V5E_4 = parse_slice("v5e-4")


class FakeCompiler:
    """Fits where `fits(experiment, slice)`; a step takes longer with tensor parallelism and recomputation."""

    def __init__(self, fits, kept=GIB):
        self.fits, self.kept, self.jobs = fits, kept, []

    def expect(self, count):
        pass

    def __call__(self, job: Job):
        self.jobs.append(job)
        sizes = {axis: getattr(job.experiment.mesh, axis) for axis in ("data", "fsdp", "sequence", "tensor")}
        free = next((axis for axis, size in sizes.items() if size == -1), None)
        if free:
            sizes[free] = job.where.devices // math.prod(size for size in sizes.values() if size > 0)
        result = {
            "mesh": sizes,
            "versions": {},
            "sizes": {"rows": 8},
            "argument_bytes": {"parameters": self.kept, "optimizer": 0, "reference": 0, "batch": 1},
        }
        if not self.fits(job.experiment, job.where):
            return result | {"error": {"kind": "hbm", "message": "out", "needed_bytes": 99 * GIB, "limit_bytes": GIB}}
        seconds = 0.1 * sizes["tensor"] + 0.01 * (job.experiment.model.remat == "full")
        costs = {"flops": 1e12, "bytes": 1e9, "collective_bytes": {"total": 5.0}, "dcn_bytes": 0.0}
        roofline = dict.fromkeys(("compute_seconds", "ici_seconds", "dcn_seconds", "serial_seconds"), seconds)
        roofline["overlapped_seconds"] = seconds
        return result | {
            "memory": {"argument": GIB, "output": GIB, "alias": GIB, "temp": GIB, "generated_code": 1000},
            "activation_bytes": GIB // 2,
            "costs": costs,
            "roofline": roofline,
            "unknown_loops": {"loop": {"roofline": roofline}} if job.program == "sampler" else {},
            "compile_seconds": 1.0,
        }


def test_a_record(make):
    experiment = make("RunConfig.tokens = 1_000_000")
    record = planner.plan(experiment, V5E_4, FakeCompiler(lambda *_: True))
    assert json.loads(json.dumps(record)) == record
    assert record["fits"] and record["hbm_bytes"] == 2 * GIB + 1000
    assert record["hbm_by_kind"]["activations"] == record["hbm_by_kind"]["other"] + 1 == GIB // 2
    assert sum(record["hbm_by_kind"].values()) == record["hbm_bytes"]
    assert record["steps"] == math.ceil(1_000_000 / 2048) and record["tokens_per_step"] == 2048
    assert record["days"] == pytest.approx(record["steps"] * 0.1 / 86400)
    assert record["tokens_per_day"] == pytest.approx(2048 / 0.1 * 86400)
    assert record["mfu_roofline"] == pytest.approx(figures.model_flops(experiment) / (0.1 * 197e12 * 4))
    assert record["sampler"]["tokens_per_second"] == pytest.approx(8 / 0.1)


def test_records_have_the_same_fields_whether_it_fits_or_not(make):
    fits, does_not = (planner.plan(make(), V5E_4, FakeCompiler(lambda *_, a=answer: a)) for answer in (True, False))
    assert fits.keys() == does_not.keys() and fits["sampler"].keys() == does_not["sampler"].keys()
    assert does_not["step_seconds_roofline"] is None and does_not["steps"] == fits["steps"]


def test_flops_of_the_model(make):
    experiment = make("ModelConfig.n_kv_heads = 1")
    layer = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256
    assert matrix_parameters(experiment.model, experiment.model.vocabulary_size) == 2 * layer + 128 * 512
    tokens = 8 * 256
    plain = tokens * (6 * matrix_parameters(experiment.model, experiment.model.vocabulary_size) + 6 * 2 * 256 * 128)
    assert figures.model_flops(experiment) == plain
    anchored = make(
        "ModelConfig.n_kv_heads = 1",
        "LossConfig.anchor_weight = 0.1",
        "LossConfig.anchor_data = 'x'",
        "LossConfig.anchor_rows = 4",
    )
    assert figures.model_flops(anchored) == pytest.approx(plain * (1 + 4 / 8 * (1 + 1 / 3)))


def test_savings_come_cheapest_first(make):
    experiment = make("ModelConfig.remat = 'dots'")
    changes = list(savings(experiment, V5E_4, {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1}))
    kinds = list(dict.fromkeys(change.what for change in changes))
    assert kinds == ["remat", "accumulation", "batch", "slice"]  # nothing cuts parameters further
    assert bindings(experiment, changes[0].experiment) == ["ModelConfig.remat = 'attention'"]
    data_parallel = make("MeshConfig.fsdp = 1", "MeshConfig.data = 4")
    changes = list(savings(data_parallel, V5E_4, {"data": 4, "fsdp": 1, "sequence": 1, "tensor": 1}))
    kinds = list(dict.fromkeys(change.what for change in changes))
    assert kinds == ["remat", "accumulation", "mesh", "batch", "slice"]
    first = next(change for change in changes if change.what == "mesh")
    assert bindings(data_parallel, first.experiment) == ["MeshConfig.data = 1", "MeshConfig.fsdp = 4"]


@pytest.mark.parametrize(
    "fits, change, expected",
    [
        (lambda e, w: e.model.remat == "full", "remat", ["ModelConfig.remat = 'full'"]),
        (
            lambda e, w: e.run.accumulation >= 2,
            "accumulation",
            ["ModelConfig.remat = 'full'", "RunConfig.accumulation = 2"],
        ),
        (lambda e, w: e.data.batch_rows <= 4, "batch", ["ModelConfig.remat = 'full'", "DataConfig.batch_rows = 4"]),
        (lambda e, w: w.chips > 4, "slice", ["ModelConfig.remat = 'full'", "MeshConfig.fsdp = 8"]),
        (lambda e, w: False, None, None),
    ],
)
def test_the_first_change_that_fits(make, fits, change, expected):
    experiment, compiler = make(), FakeCompiler(fits)
    record = planner.plan(experiment, V5E_4, compiler, sampler=False)
    assert record["fits"] is False and record["hbm_bytes"] == 99 * GIB
    remedy = trials.remedy(experiment, V5E_4, record, compiler, 20)
    assert (remedy["change"], remedy["bindings"]) == (change, expected)
    assert remedy["slice"] == ("v5e-8" if change == "slice" else "v5e-4")


def test_changes_name_the_slices_too(make):
    experiment, compiler = make("MeshConfig.data = 2"), FakeCompiler(lambda e, w: e.model.remat == "full")
    where = parse_slice("2xv5e-4")
    remedy = trials.remedy(experiment, where, planner.plan(experiment, where, compiler), compiler, 20)
    assert remedy["bindings"] == ["ModelConfig.remat = 'full'", "MeshConfig.slices = 2"]


def test_what_arithmetic_rules_out_is_not_compiled(make):
    experiment, compiler = (
        make("MeshConfig.fsdp = 1", "MeshConfig.data = -1"),
        FakeCompiler(lambda e, w: e.mesh.fsdp == 4, kept=40 * GIB),
    )
    record = planner.plan(experiment, V5E_4, compiler, sampler=False)
    remedy = trials.remedy(experiment, V5E_4, record, compiler, 20)
    assert remedy["bindings"] == ["MeshConfig.data = 1", "MeshConfig.fsdp = 4"] and len(remedy["tried"]) == 1
    assert "parameters and optimizer alone need 40.0 GiB" in remedy["skipped"]["remat"]


def test_only_so_many_changes_are_tried(make):
    compiler = FakeCompiler(lambda *_: False)
    record = planner.plan(make(), V5E_4, compiler, sampler=False)
    remedy = trials.remedy(make(), V5E_4, record, compiler, 2)
    assert len(remedy["tried"]) == 2 and remedy["skipped"]["slice"] == "only 2 changes are tried"


def test_meshes_divide_everything(make):
    where = parse_slice("2xv5e-8")
    found, left_out = meshes(planner.for_slice(make("DataConfig.batch_rows = 16"), where), where)
    assert found and sum(left_out.values()) > 0
    for mesh in found:
        assert mesh.data * mesh.fsdp * mesh.sequence * mesh.tensor == 16 and mesh.data % 2 == 0
        assert mesh.tensor == 1 and mesh.sequence == 1  # of 128 columns and 256 tokens there is nothing to cut
    assert found[0].fsdp == 8


def test_a_search_ranks_what_fits(make):
    compiler = FakeCompiler(lambda e, w: e.mesh.fsdp > 1 or e.model.remat == "full")
    wide = make("ModelConfig.d_model = 512", "ModelConfig.n_heads = 4", "ModelConfig.n_kv_heads = 4")
    wide = with_fields(wide, "model", d_ff=1024)
    found = trials.search(wide, V5E_4, compiler, 4)
    seconds = [one["step_seconds_roofline"] for one in found["ranked"]]
    assert seconds == sorted(seconds) and len(seconds) == 4
    assert found["ranked"][0]["bindings"] == ["MeshConfig.fsdp = 4"]
    assert [one["mesh"]["fsdp"] for one in found["others"]] == [1]  # and with remat it fits
    assert found["skipped"]["only 4 meshes are compiled (--max_compiles)"] > 0
    best = trials.apply(wide, found["ranked"][0])
    assert best.mesh.fsdp == 4 and dataclasses.replace(best, mesh=wide.mesh) == wide


def test_a_search_without_a_mesh(make):
    with pytest.raises(UserError, match="no mesh suits v5e-4: the rows do not divide over data x fsdp"):
        trials.search(make("DataConfig.batch_rows = 1"), V5E_4, FakeCompiler(lambda *_: True), 4)


def test_tables(make):
    from rich.console import Console

    experiment, compiler = make(), FakeCompiler(lambda e, w: e.model.remat == "full" or w.chips > 4)
    records = [planner.plan(experiment, parse_slice(name), compiler) for name in ("v5e-4", "v5e-8", "2xv5e-4")]
    records[0]["remedy"] = trials.remedy(experiment, V5E_4, records[0], compiler, 20)
    records[1]["search"] = trials.search(experiment, parse_slice("v5e-8"), compiler, 20)
    console = Console(file=io.StringIO(), width=100)
    show(records, console)
    text = console.file.getvalue()
    assert "v5e-4 would fit with --gin_bindings \"ModelConfig.remat = 'full'\"" in text
    assert "Meshes of v5e-8 that fit, fastest first" in text and "NO" in text and "Assumptions" in text


@pytest.mark.parametrize(
    "message, expected",
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (230.31G) exceeds available HBM (15.75G). HLO module: jit_step.\nSee x",
            {"kind": "hbm", "needed_bytes": int(230.31 * GIB) + 1000, "limit_bytes": int(15.75 * GIB)},
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 24.50G "
            "of 15.75G hbm. Exceeded hbm capacity by 8.75G.",
            {"kind": "hbm", "needed_bytes": int(24.5 * GIB), "limit_bytes": int(15.75 * GIB)},
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 130M of 128M", {"kind": "compile"}),
        ("INVALID_ARGUMENT: No such compile option: 'xla_x'", {"kind": "compile"}),
    ],
)
def test_what_the_compiler_says(message, expected):
    found = compile_error(message, 1000)
    assert {key: found.get(key) for key in expected} == expected
    assert "\n" not in found["message"] and found["message"][:20] == message[:20]


def test_last_words_of_a_child():
    log = "I0101 00:00:00.0 1 a.cc:1] fine\nF1122 10:00:00.123 99 b.cc:2] Check failed: x\nlater\n"
    assert _last_words(log, -6) == "the compiler ended with code -6: Check failed: x"
    assert _last_words("", 1) == "the compiler ended with code 1: no message"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gin_bindings", "ModelConfig.d_model = 64"], "ModelConfig.vocabulary_size: is 0; bind it"),
        ([], "--gin_file: there is nothing to plan"),
        (["--gin_bindings", "ModelConfig.d_modle = 64"], "did you mean 'd_model'?"),
        (["--gin_bindings", "ModelConfig.vocabulary_size = 500", "--slice", "v5p-9"], "did you mean 'v5p-8'?"),
        (
            ["--gin_bindings", "ModelConfig.vocabulary_size = 500", "--gin_bindings", "MeshConfig.slices = 3"],
            "MeshConfig.slices: is 3, but v5e-4 has 1; leave it to the name",
        ),
        (["--gin_file", "none.gin"], "none.gin: no such gin file"),
        (["--gin_file", "x", "--max_compiles", "-1"], "--max_compiles: must be 0 or more, got -1"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert main(["plan", "--slice", "v5e-4", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_without_libtpu(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a))
    assert main(["plan", "--slice", "v5e-4", "--gin_bindings", "ModelConfig.vocabulary_size = 500"]) == 2
    assert "libtpu, which is not installed; pip install 'anchortrain[plan]'" in capsys.readouterr().err


def test_nothing_is_compiled_twice(make, monkeypatch):
    from anchortrain.progress import Progress

    runs = []
    monkeypatch.setattr(Compiler, "_run", lambda self, job, text: runs.append(text) or {"mesh": {}})
    with Progress(0, stream=io.StringIO()) as progress:
        compiler = Compiler(progress)
        for _ in range(2):
            compiler(Job(make(), V5E_4, "train"))
        compiler(Job(make(), V5E_4, "sampler"))
    assert len(runs) == 2 and json.loads(runs[0])["slice"] == "v5e-4"
