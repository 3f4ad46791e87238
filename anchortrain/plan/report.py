"""Plans as tables for people."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from anchortrain.plan.slices import parse_slice

_ABREAST = 4  # slices beside each other
_GIB = 2**30

Record = dict[str, Any]


def show(records: list[Record], console: Console) -> None:
    """Prints plans beside each other, then what they assume."""
    for first in range(0, len(records), _ABREAST):
        console.print(_table(records[first : first + _ABREAST]))
    for record in records:
        _show_trials(record, console)
    console.print("Assumptions:", style="bold")
    for line in records[0]["assumptions"]:
        console.print(f"  - {line}")


def _table(records: list[Record]) -> Table:
    table = Table(title="Per device and step")
    table.add_column("")
    for record in records:
        table.add_column(record["slice"], justify="right")
    for name, cell in _ROWS:
        cells = [cell(record) for record in records]
        if any(cells):
            table.add_row(name, *cells, style="bold" if name in ("fits", "step, roofline") else None)
    return table


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value / _GIB:.2f} GiB"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _mesh(record: Record) -> str:
    text = " ".join(f"{axis}={size}" for axis, size in (record["mesh"] or {}).items() if size > 1) or "one device"
    count = parse_slice(record["slice"]).count
    return f"{text} (MeshConfig.slices = {count})" if count > 1 else text


def _fits(record: Record) -> str:
    return {True: "yes", False: "NO", None: "did not compile"}[record["fits"]]


def _kind(kind: str) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        value = (record["hbm_by_kind"] or {}).get(kind)
        return _gib(value) if value else ""

    return cell


def _field(name: str, shown: Callable[[float | None], str], part: str | None = None) -> Callable[[Record], str]:
    def cell(record: Record) -> str:
        value = record.get(name)
        return shown(value if part is None or value is None else value.get(part))

    return cell


_ROWS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("chips", lambda r: str(r["chips"])),
    ("mesh", _mesh),
    ("fits", _fits),
    ("HBM needed", _field("hbm_bytes", _gib)),
    ("HBM there is", _field("hbm_limit_bytes", _gib)),
    ("  parameters", _kind("parameters")),
    ("  optimizer", _kind("optimizer")),
    ("  reference", _kind("reference")),
    ("  batch", _kind("batch")),
    ("  activations kept", _kind("activations")),
    ("  other temporaries", _kind("other")),
    ("  code", _kind("code")),
    ("FLOPs", _field("flops_per_step", _count)),
    ("bytes of HBM traffic", _field("bytes_per_step", _count)),
    ("bytes sent", _field("collective_bytes", _count, "total")),
    ("  of these between slices", lambda r: _count(r.get("dcn_bytes") or None)),
    ("computing", _field("compute_seconds", _seconds)),
    ("sending", _field("ici_seconds", _seconds)),
    ("sending between slices", lambda r: _seconds(r.get("dcn_seconds") or None)),
    ("step, roofline", _field("step_seconds_roofline", _seconds)),
    ("step, no overlap", _field("step_seconds_no_overlap", _seconds)),
    ("MFU, roofline", lambda r: f"{r['mfu_roofline']:.1%}" if r["mfu_roofline"] else ""),
    ("tokens a day, all devices", _field("tokens_per_day", _count)),
    ("days", _field("days", _count)),
    ("sampler fits", lambda r: _fits(r["sampler"]) if r["sampler"] else ""),
    ("  HBM needed", lambda r: _gib(r["sampler"]["hbm_bytes"]) if r["sampler"] else ""),
    ("  a token of all rows", lambda r: _seconds(r["sampler"]["seconds_per_token_roofline"]) if r["sampler"] else ""),
    ("compiled in", _field("compile_seconds", _seconds)),
)


def _show_trials(record: Record, console: Console) -> None:
    name = record["slice"]
    for program, error in (("train step", record["error"]), ("sampler", (record["sampler"] or {}).get("error"))):
        if error:
            console.print(f"{name}, {program}: {error}", highlight=False)
    if record.get("unknown_loops"):
        loops = ", ".join(record["unknown_loops"])
        console.print(f"{name}: loops counted once, since their count is not known: {loops}")
    if record.get("remedy"):
        _show_remedy(record["remedy"], name, console)
    if record.get("search"):
        _show_search(record["search"], name, console)


def _show_remedy(remedy: Record, name: str, console: Console) -> None:
    if remedy["bindings"] is None:
        console.print(f"{name}: none of {len(remedy['tried'])} changes that were tried makes it fit", style="bold")
    else:
        slice_ = f"--slice {remedy['slice']} " if remedy["slice"] != name else ""
        flags = " ".join(f'--gin_bindings "{binding}"' for binding in remedy["bindings"])
        console.print(f"{name} would fit with {slice_}{flags}", style="bold", highlight=False, soft_wrap=True)
        needed, step = _gib(remedy["hbm_bytes"]), _seconds(remedy["step_seconds_roofline"])
        console.print(f"  then it needs {needed}, and a step takes {step} (roofline)")
    for kind, why in remedy["skipped"].items():
        console.print(f"  not tried: {kind}: {why}")


def _show_search(search: Record, name: str, console: Console) -> None:
    table = Table(title=f"Meshes of {name} that fit, fastest first")
    for column in ("step, roofline", "MFU", "HBM needed", "bindings"):
        table.add_column(column, overflow="fold")
    for one in search["ranked"]:
        step, share = _seconds(one["step_seconds_roofline"]), f"{one['mfu_roofline']:.1%}"
        table.add_row(step, share, _gib(one["hbm_bytes"]), "\n".join(one["bindings"]) or "as configured")
    console.print(table)
    for one in search["others"]:
        why = "does not fit" if one["fits"] is False and one["error"] is None else one["error"]
        console.print(f"  {', '.join(one['bindings']) or 'as configured'}: {why}", highlight=False)
    for reason, count in search["skipped"].items():
        console.print(f"  not compiled: {count} meshes: {reason}")
