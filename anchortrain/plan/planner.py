"""The plan of a run on a slice: what it needs, how long it would take, as one flat record.

All figures are per device and step unless their name says otherwise. See docs/plan.md for every field.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.plan import figures
from anchortrain.plan.jobs import Compiler, Job
from anchortrain.plan.slices import Slice

ASSUMPTIONS = (
    "per device, which is a chip (tpu7x: half a chip); devices with equal work, none of them slow",
    "fits: what the compiler allocates for one step against the HBM that it says a program may use; a real run needs "
    "a little more (the next batch, checkpoints on their way)",
    "roofline: every instruction at peak bf16 FLOP/s or at full HBM bandwidth, whichever takes longer; vector "
    "work, waiting and the start of kernels are free, so a real step is slower",
    "collectives use all links of a chip at once, overlap perfectly with computing, and cross slices in the "
    "hierarchical way",
    "MFU counts 6 FLOPs a parameter and token and causal attention over whole rows, nothing computed twice",
    "tokens and days count rows as full, and neither input nor evaluation nor checkpoints nor interruptions",
)

# None in the record of a program that does not compile.
_SPEED = (
    *("flops_per_step", "bytes_per_step", "collective_bytes", "dcn_bytes", "compute_seconds", "ici_seconds"),
    *("dcn_seconds", "step_seconds_roofline", "step_seconds_no_overlap", "mfu_roofline", "tokens_per_day", "days"),
    *("unknown_loops", "compile_seconds"),
)


def for_slice(experiment: Experiment, where: Slice) -> Experiment:
    """The experiment with the slice's number of slices in its mesh."""
    mesh = dataclasses.replace(experiment.mesh, slices=where.count)
    return dataclasses.replace(experiment, mesh=mesh)


def check(experiment: Experiment, slices: Sequence[Slice]) -> None:
    """Raises UserError for what no slice could mend, and for a number of slices that is not that of the names."""
    asked = experiment.mesh.slices
    for one in slices:
        if asked not in (1, one.count):
            what = f"is {asked}, but {one.name} has {one.count}"
            raise UserError(what, where="MeshConfig.slices", mend="leave it to the name: --slice 2xv5e-256 has two")
    if not experiment.model.vocabulary_size:
        mend = "bind it to the size of the tokenizer (a plan reads no data)"
        raise UserError("is 0", where="ModelConfig.vocabulary_size", mend=mend)


def plan(experiment: Experiment, where: Slice, compiler: Compiler, *, sampler: bool = True) -> dict[str, Any]:
    """The record of one slice. Raises UserError when mesh or batch do not divide over it."""
    experiment = for_slice(experiment, where)
    result = compiler(Job(experiment, where, "train"))
    record = {
        "slice": where.name,
        "chips": where.chips,
        "devices": where.devices,
        "mesh": result.get("mesh"),
        "versions": result.get("versions"),
        **_memory(result, where),
        **_speed(experiment, result, where),
        "assumptions": list(ASSUMPTIONS),
        "sampler": None,
    }
    if sampler:
        record["sampler"] = _sampler(compiler(Job(experiment, where, "sampler")), where)
    return record


def _memory(result: dict[str, Any], where: Slice) -> dict[str, Any]:
    """Whether a program fits, and bytes by their kind; None where the compiler did not say."""
    error = result.get("error", {})
    record = dict.fromkeys(("fits", "argument_bytes", "temp_bytes", "output_bytes", "code_bytes", "hbm_bytes"))
    record |= {"hbm_limit_bytes": where.hbm_bytes, "hbm_by_kind": None, "error": error.get("message")}
    if error:
        if error["kind"] == "hbm":
            record |= {"fits": False, "hbm_bytes": error.get("needed_bytes")}
            record["hbm_limit_bytes"] = error.get("limit_bytes", where.hbm_bytes)
            record["hbm_by_kind"] = result["argument_bytes"]
        return record
    memory, kept = result["memory"], result["activation_bytes"]
    output = memory["output"] - memory["alias"]
    total = memory["argument"] + memory["temp"] + output + memory["generated_code"]
    kinds = result["argument_bytes"] | {"activations": min(kept, memory["temp"]), "code": memory["generated_code"]}
    kinds["other"] = max(0, total - sum(kinds.values()))
    return record | {
        "fits": total <= where.hbm_bytes,
        "argument_bytes": memory["argument"],
        "temp_bytes": memory["temp"],
        "output_bytes": output,
        "code_bytes": memory["generated_code"],
        "hbm_bytes": total,
        "hbm_by_kind": kinds,
    }


def _speed(experiment: Experiment, result: dict[str, Any], where: Slice) -> dict[str, Any]:
    """The roofline of a step and what it means for the run."""
    known = {"tokens_per_step": figures.step_tokens(experiment), "steps": figures.run_steps(experiment)}
    known["model_flops_per_step"] = figures.model_flops(experiment) / where.devices
    if "error" in result:
        return dict.fromkeys(_SPEED) | known
    roofline, costs = result["roofline"], result["costs"]
    seconds = roofline["overlapped_seconds"]
    return known | {
        "flops_per_step": costs["flops"],
        "bytes_per_step": costs["bytes"],
        "collective_bytes": costs["collective_bytes"],
        "dcn_bytes": costs["dcn_bytes"],
        "step_seconds_roofline": seconds,
        "step_seconds_no_overlap": roofline["serial_seconds"],
        **{name: roofline[name] for name in ("compute_seconds", "ici_seconds", "dcn_seconds")},
        **figures.run_figures(experiment, where, seconds),
        "unknown_loops": sorted(result["unknown_loops"]),
        "compile_seconds": result["compile_seconds"],
    }


def _sampler(result: dict[str, Any], where: Slice) -> dict[str, Any]:
    """The sampler's record. Its loop over tokens ends when the samples do: one round of it is a token a sample."""
    record = _memory(result, where) | {"sizes": result.get("sizes"), "compile_seconds": result.get("compile_seconds")}
    if "error" in result:
        return record | {"seconds_per_token_roofline": None, "tokens_per_second": None}
    rounds = [one["roofline"]["overlapped_seconds"] for one in result["unknown_loops"].values()]
    seconds = max(rounds, default=None)
    rows = result["sizes"]["rows"]
    return record | {
        "seconds_per_token_roofline": seconds,  # of all rows at once
        "tokens_per_second": rows / seconds if seconds else None,  # of the whole slice
    }
