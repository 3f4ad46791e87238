"""What our pages share: the frame, sections and tables. No script, no asset from elsewhere, light and dark."""

from collections.abc import Sequence
from html import escape
from importlib import resources

from anchortrain.evaluate import table

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>anchortrain: {title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def frame(title: str, body: str, style: str = "") -> str:
    """A whole page; `title` and `body` are HTML, `style` is CSS beside that of all pages."""
    common = (resources.files("anchortrain.evaluate") / "report.css").read_text(encoding="utf-8")
    return _PAGE.format(title=title, style=common + style, body=body)


def section(title: str, lead: str, content: str) -> str:
    """A section under a heading; nothing without content. All three are HTML."""
    if not content:
        return ""
    said = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{title}</h2>{said}{content}</section>"


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """A table of plain strings; the first line is its head, the first column names the rows."""
    head, *body = lines
    heads = "".join(f'<th scope="col">{escape(one)}</th>' for one in head)
    rows = []
    for first, *rest in body:
        values = "".join(f"<td>{_dim(escape(cell))}</td>" for cell in rest)
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{values}</tr>')
    return (
        f'<div class="scroll"><table class="methods"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def note(lines: Sequence[str]) -> str:
    """Plain lines in small print."""
    return f'<p class="note">{"<br>".join(map(escape, lines))}</p>'


def _dim(cell: str) -> str:
    """n/a and intervals step back behind the figures."""
    if cell == table.MISSING:
        return f'<span class="dim">{cell}</span>'
    figure, bracket, ends = cell.partition(" [")
    return f'{figure} <span class="dim">[{ends}</span>' if bracket else cell
