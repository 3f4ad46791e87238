"""Trying other ways: what makes a run fit, and which mesh is fastest."""

from typing import Any

from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.plan import planner
from anchortrain.plan.candidates import REMAT, Change, bindings, meshes, savings, with_fields
from anchortrain.plan.jobs import Compiler
from anchortrain.plan.slices import Slice

_KEPT = ("parameters", "optimizer", "reference")
_SHOWN = ("fits", "hbm_bytes", "hbm_limit_bytes", "step_seconds_roofline", "mfu_roofline", "mesh", "error")


def remedy(
    experiment: Experiment, where: Slice, record: dict[str, Any], compiler: Compiler, most: int
) -> dict[str, Any]:
    """The first change with which a run fits that does not, tried by compiling at most `most` of them.

    Returns:
      "bindings" to paste (None when nothing helped), "change" (its kind), "slice", figures of the run with it; "tried";
      "skipped", kinds of changes with the reason why they were not tried.
    """
    placed = planner.for_slice(experiment, where)
    found = {"bindings": None, "change": None, "slice": where.name, "tried": [], "skipped": {}}
    for change in savings(placed, where, record["mesh"]):
        why = _hopeless(change, record, where)
        if why is None and len(found["tried"]) >= most:
            why = f"only {most} changes are tried"
        if why:
            found["skipped"].setdefault(change.what, why)
            continue
        compiler.expect(1)
        tried = _try(experiment, change, compiler)
        found["tried"].append(tried)
        if tried["fits"]:
            return found | tried
    return found


def _try(before: Experiment, change: Change, compiler: Compiler) -> dict[str, Any]:
    wanted = {
        "change": change.what,
        "slice": change.where.name,
        "bindings": bindings(before, change.experiment),
        "remat": change.experiment.model.remat,
    }
    try:
        record = planner.plan(change.experiment, change.where, compiler, sampler=False)
    except UserError as error:
        return wanted | dict.fromkeys(_SHOWN) | {"error": str(error)}
    return wanted | {name: record[name] for name in _SHOWN}


def apply(experiment: Experiment, tried: dict[str, Any]) -> Experiment:
    """The experiment with the mesh and the remat of something tried."""
    experiment = with_fields(experiment, "mesh", **tried["mesh"])
    return with_fields(experiment, "model", remat=tried["remat"])


def _hopeless(change: Change, record: dict[str, Any], where: Slice) -> str | None:
    """Why a change cannot help, as far as arithmetic can tell: what lies in memory from step to step is too large."""
    kept = sum(record["hbm_by_kind"].get(kind, 0) for kind in _KEPT)
    if change.what in ("mesh", "slice"):
        mesh = change.experiment.mesh
        kept = kept * record["mesh"]["fsdp"] * record["mesh"]["tensor"] / (mesh.fsdp * mesh.tensor)
    if kept > where.hbm_bytes:
        return f"parameters and optimizer alone need {kept / 2**30:.1f} GiB"
    return None


def search(experiment: Experiment, where: Slice, compiler: Compiler, most: int) -> dict[str, Any]:
    """Every sensible mesh on a slice, compiled as configured, and where that does not fit with the strongest remat.

    Returns:
      "ranked": those that fit, fastest first, with "bindings"; "others": those that do not; "skipped": reason -> how
      many meshes were not compiled.
    """
    found, skipped = meshes(experiment, where)
    if not found:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.items())
        raise UserError(f"no mesh suits {where.name}: {reasons}", where="--search", mend="change batch_rows")
    if len(found) > most:
        skipped[f"only {most} meshes are compiled (--max_compiles)"] = len(found) - most
    compiler.expect(min(len(found), most))
    tried = []
    for mesh in found[:most]:
        change = Change("mesh", with_fields(experiment, "mesh", **vars(mesh)), where)
        tried.append(_try(experiment, change, compiler))
        if tried[-1]["fits"] is False and experiment.model.remat != REMAT[-1]:
            compiler.expect(1)
            change = change._replace(experiment=with_fields(change.experiment, "model", remat=REMAT[-1]))
            tried.append(_try(experiment, change, compiler))
    fitting = [one for one in tried if one["fits"]]
    return {
        "ranked": sorted(fitting, key=lambda one: one["step_seconds_roofline"]),
        "others": [one for one in tried if not one["fits"]],
        "skipped": skipped,
    }
