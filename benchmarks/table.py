"""Results as a table or as JSON."""

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Column(NamedTuple):
    """How one field of a row is shown."""

    field: str
    title: str
    format: str
    factor: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")


def show(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    json_path: Path | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Prints the table; writes {"benchmark", "machine", "rows", …} to `json_path` if there is one."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column.title, justify="left" if column.format == "{}" else "right")
    for row in rows:
        table.add_row(*(_text(column, row[column.field]) for column in columns))
    Console(width=140).print(table)
    if json_path is not None:
        machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
        report = {"benchmark": title, "machine": machine, "rows": list(rows)} | dict(more or {})
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _text(column: Column, value: Any) -> str:
    if value is None:
        return ""
    return column.format.format(value if column.factor is None else value * column.factor)
