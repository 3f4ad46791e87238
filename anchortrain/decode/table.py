"""Samples as a table on a terminal."""

import textwrap
from collections.abc import Iterator
from typing import Any

_PLAN_WIDTH = 28


class Table:
    """Plans beside responses."""

    def __init__(self, columns: int, *, plans: bool, number_width: int) -> None:
        """
        Args:
          columns: of the terminal.
          plans: whether samples have one.
          number_width: of their indices.
        """
        self._columns, self._plans, self._number_width = columns, plans, number_width
        self._heading = ""

    def lines(self, row: dict[str, Any]) -> Iterator[str]:
        """Of a sample as `samples.to_row` makes it; with its prompt and temperature where they are not those before."""
        temperature = f"temperature {row['temperature']:g}: " if "temperature" in row else ""
        heading = f"{temperature}{_wrap(row['prompt'], self._columns - len(temperature) - 4)[0]}"
        if heading != self._heading:
            yield f"-- {heading}"
            yield ""
        self._heading = heading
        left_width = _PLAN_WIDTH if self._plans else 0
        left = _wrap(_plan(row), left_width) if self._plans else []
        right = _wrap(row["response"] or "(no response)", max(self._columns - self._number_width - left_width - 4, 20))
        for i in range(max(len(left), len(right))):
            number = str(row["index"]) if i == 0 else ""
            plan, text = (cells[i] if i < len(cells) else "" for cells in (left, right))
            yield f"{number:>{self._number_width}}  {plan:{left_width}}  {text}".rstrip()
        yield ""


def _plan(row: dict[str, Any]) -> str:
    if row["annotation"] is None:
        return f"(malformed) {row['annotation_text']}"
    return "\n".join(f"{key}: {value}" for key, value in row["annotation"]) or "(empty)"


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters. What a terminal might obey is replaced."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.strip())
    return [line for paragraph in shown.split("\n") for line in textwrap.wrap(paragraph, width) or [""]]
