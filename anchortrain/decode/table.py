"""Samples as a table on a terminal."""

import textwrap
from collections.abc import Iterator
from typing import Any

_PLAN_WIDTH = 28


def lines(row: dict[str, Any], columns: int, *, plans: bool, number_width: int) -> Iterator[str]:
    """The plan of a sample beside its response.

    Args:
      row: as `samples.to_row` makes it.
      columns: of the terminal.
      plans: whether it has one.
      number_width: of the sample's index.
    """
    left_width = _PLAN_WIDTH if plans else 0
    left = _wrap(_plan(row), left_width) if plans else []
    right = _wrap(row["response"] or "(no response)", max(columns - number_width - left_width - 4, 20))
    for i in range(max(len(left), len(right))):
        number = str(row["index"]) if i == 0 else ""
        plan, text = (cells[i] if i < len(cells) else "" for cells in (left, right))
        yield f"{number:>{number_width}}  {plan:{left_width}}  {text}".rstrip()
    yield ""


def _plan(row: dict[str, Any]) -> str:
    if row["annotation"] is None:
        return f"(malformed) {row['annotation_text']}"
    return "\n".join(f"{key}: {value}" for key, value in row["annotation"]) or "(empty)"


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters. What a terminal might obey is replaced."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.strip())
    return [line for paragraph in shown.split("\n") for line in textwrap.wrap(paragraph, width) or [""]]
