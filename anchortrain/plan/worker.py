"""The child process that compiles one program for one slice: `python -m anchortrain.plan.worker JOB RESULT`.

A process of its own because libtpu may end it. JOB and RESULT are JSON files; see `measure` for the result. A result
with "error" says why there is no other: {"kind": "user" | "hbm" | "compile", "message": one line, …}.
"""

import dataclasses
import json
import re
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from anchortrain.compiler import options
from anchortrain.config import Experiment
from anchortrain.errors import UserError
from anchortrain.plan.slices import Slice, parse_slice

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_LARGE = 1 << 24  # elements of an array worth naming
_AMOUNT = r"\(?([\d.]+)([KMGT]?)B?\)?"


def main(job_path: str, result_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    experiment = _experiment(job["experiment"])
    try:
        result = measure(experiment, parse_slice(job["slice"]), job["program"])
    except UserError as error:
        result = {"error": {"kind": "user", "message": str(error)}}
    Path(result_path).write_text(json.dumps(result))


def _experiment(sections: dict[str, Any]) -> Experiment:
    return Experiment(**{f.name: f.type(**sections[f.name]) for f in dataclasses.fields(Experiment)})


def measure(experiment: Experiment, where: Slice, program: str) -> dict[str, Any]:
    """Compiles `program` ("train" or "sampler") for a slice and counts.

    Returns:
      "memory" (bytes per device, as the compiler reports), "argument_bytes" by kind, "activation_bytes", "arrays"
      (dimensions of the large ones), "costs", "roofline" (`figures.roofline`), "sizes", "mesh", "compile_seconds",
      "versions"; or "error".

    Raises:
      UserError: for a mesh or a batch that does not fit the slice.
    """
    # JAX is imported here, after the parent has set what it reads from the environment.
    import jax
    from jax.experimental import topologies

    from anchortrain.plan import program as programs

    topology = topologies.get_topology_desc(platform="tpu", **where.topology)
    mesh = programs.mesh_of(experiment, topology.devices)
    built = {"train": programs.train_program, "sampler": programs.sampler_program}[program](experiment, mesh)
    common = {
        "mesh": dict(mesh.shape),
        "argument_bytes": built.argument_bytes,
        "sizes": built.sizes,
        "versions": {"jax": jax.__version__, "libtpu": metadata.version("libtpu")},
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="anchortrain-plan-") as dump:
        # The text is read from a dump: for some programs of libtpu 0.0.52 jaxlib cannot print it (tpu7x).
        dumping = {"xla_dump_to": dump, "xla_dump_hlo_as_text": True}
        try:
            compiled = built.lowered.compile(compiler_options=options(experiment.run.compiler_profile) | dumping)
        except jax.errors.JaxRuntimeError as error:
            return common | {"error": compile_error(str(error), sum(built.argument_bytes.values()))}
        seconds = time.monotonic() - started
        text = max(Path(dump).glob("*after_optimizations.txt"), key=lambda path: path.stat().st_size).read_text()
    return common | {"compile_seconds": seconds, "memory": _memory(compiled)} | _counted(text, where)


def _memory(compiled: Any) -> dict[str, int]:
    stats = compiled.memory_analysis()
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {name: getattr(stats, f"{name}_size_in_bytes") for name in names}


def _counted(text: str, where: Slice) -> dict[str, Any]:
    from anchortrain.plan import activations, costs, figures, hlo

    module = hlo.parse(text)
    counted = costs.costs(module, where.devices, where.count)
    return {
        "activation_bytes": activations.kept_bytes(module),
        "arrays": module.arrays(_LARGE),
        "costs": _summary(counted),
        "roofline": figures.roofline(counted, where),
        "unknown_loops": {
            name: _summary(inner) | {"roofline": figures.roofline(inner, where)}
            for name, inner in counted.unknown.items()
        },
    }


def _summary(counted: Any) -> dict[str, Any]:
    return {
        "flops": counted.flops,
        "bytes": counted.bytes,
        "collective_bytes": counted.collective_bytes(),
        "dcn_bytes": counted.dcn_bytes,
    }


def compile_error(message: str, argument_bytes: int) -> dict[str, Any]:
    """What XLA refused. Kind "hbm" with the bytes it needs and has, where memory is the reason."""
    sentence = _first_sentence(message)
    if "RESOURCE_EXHAUSTED" not in message and "CompileTimeHbmOom" not in message:
        return {"kind": "compile", "message": sentence}
    found = re.search(rf"HLO temporaries {_AMOUNT} exceeds available HBM {_AMOUNT}", message)
    beside = argument_bytes if found else 0
    found = found or re.search(rf"Used {_AMOUNT} of {_AMOUNT} hbm", message)
    if not found:
        # Another memory than HBM (VMEM, say) is not a matter of the model's size.
        return {"kind": "hbm" if "hbm" in message.lower() else "compile", "message": sentence}
    needed, limit = (int(float(found.group(i)) * _UNITS[found.group(i + 1)]) for i in (1, 3))
    return {"kind": "hbm", "message": sentence, "needed_bytes": needed + beside, "limit_bytes": limit}


def _first_sentence(message: str) -> str:
    line = next((line for line in message.splitlines() if line.strip()), "no message")
    return re.split(r"(?<=[a-z\)])\. ", line.strip())[0][:300]


if __name__ == "__main__":
    main(*sys.argv[1:])
