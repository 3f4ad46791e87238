"""The report of a comparison: one self-contained HTML page and one picture.

`summary` is what `summary.json` holds: `methods` maps a name to the fields of `semantic.summarise` and
`collapse.collapse`. Beside it these are shown where they exist: `prior_bits` (exact entropy of the world),
`sft_data_bits` (of the instruction data), `base_agreement`, `seed`, `seconds`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anchortrain.evaluate.samples import Sample
from anchortrain.files import write_bytes_atomic, write_text_atomic


def write_report(
    out_dir: str | Path, summary: Mapping[str, Any], samples: Mapping[str, Sequence[Sample]]
) -> tuple[Path, Path]:
    """Writes `report.html` and `report.png` into `out_dir`; returns their paths.

    Methods may be missing while the table grows, and any figure may be None (shown as n/a). Everything that comes
    from samples is escaped; the page loads nothing and runs no script.
    """
    # matplotlib is heavy.
    from anchortrain.evaluate.report_figure import draw
    from anchortrain.evaluate.report_html import page

    html_path, png_path = Path(out_dir) / "report.html", Path(out_dir) / "report.png"
    write_bytes_atomic(png_path, draw(summary))
    write_text_atomic(html_path, page(summary, samples))
    return html_path, png_path
