"""Plans of the configurations in gin_configs/olmo, as the tables of docs/configurations.md.

    python -m benchmarks.configurations --cache DIR --write

compiles what is not in DIR yet, most of a minute each, and rewrites the tables. Needs libtpu, no TPU.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from anchortrain import experiment as experiments
from anchortrain.config import Experiment
from anchortrain.plan import planner
from anchortrain.plan.jobs import Compiler, check_libtpu
from anchortrain.plan.slices import parse_slice
from anchortrain.progress import Progress

_TOP = Path(__file__).parents[1]
PAGE = _TOP / "docs" / "configurations.md"
_DATA = "DataConfig.train = {'prepared/train': 1.0}"
_STORED = (
    *("DataConfig.batch_rows = 48", "LossConfig.anchor_rows = 16", "LossConfig.anchor_weight = 0.1"),
    *("LossConfig.anchor_reference = 'stored'", "LossConfig.anchor_data = 'prepared/draws'"),
)
Record = dict[str, Any]


class Run(NamedTuple):
    """A gin file, changes to it, and the slice to plan it for."""

    gin: str
    slice: str
    bindings: tuple[str, ...] = ()

    @property
    def experiment(self) -> Experiment:
        return experiments.load([str(_TOP / f"{self.gin}.gin")], [_DATA, *self.bindings])

    @property
    def key(self) -> str:
        """Of the cache: what is compiled, but not by which version of it."""
        changes = [binding.partition(" = ")[2].strip("'") for binding in self.bindings]
        return "-".join([Path(self.gin).name, self.slice, *changes]).replace("/", "_")


def _olmo(name: str, where: str, *bindings: str) -> Run:
    return Run(f"gin_configs/olmo/{name}", where, bindings)


_SLICES = {"600m": "v5e-32", "1b": "v5p-32", "2p5b": "v5p-32"}
CONFIGURATIONS = [
    *(_olmo(f"{kind}_{size}", where) for size, where in _SLICES.items() for kind in ("pretrain", "posttrain", "kl")),
    *(_olmo("pretrain_2p5b", name, "RunConfig.accumulation = 8") for name in ("v5e-64", "v6e-32")),
]
ANCHORS = {
    "masked SFT": _olmo("posttrain_1b", "v5p-32"),
    "anchor, stored": _olmo("kl_1b", "v5p-32"),
    "anchor, online": _olmo("kl_1b", "v5p-32", "LossConfig.anchor_reference = 'online'"),
}
PEERS = {
    "pretraining or masked SFT": Run("benchmarks/peer", "v5p-32"),
    "stored anchor, 48 + 16 rows": Run("benchmarks/peer", "v5p-32", _STORED),
}


def _tokens(experiment: Experiment) -> int:
    """Tokens of a step, those of the anchor's rows too."""
    rows = experiment.data.batch_rows + experiment.loss.anchor_rows * bool(experiment.loss.anchor_weight)
    return rows * experiment.data.length


def _configurations(records: dict[Run, Record]) -> str:
    rows = []
    for run in CONFIGURATIONS:
        e, r = run.experiment, records[run]
        name = f"`{Path(run.gin).name}`" + " \\*" * bool(run.bindings)
        mesh = " ".join(f"{axis}={size}" for axis, size in r["mesh"].items() if size > 1)
        memory = f"{r['hbm_bytes'] / 1e9:.1f} / {r['hbm_limit_bytes'] / 1e9:.1f} GB"
        share = f"{r['hbm_bytes'] / r['hbm_limit_bytes']:.0%}"
        batch = f"{_tokens(e) / 1e6:.2f} M" + f" in {e.run.accumulation}" * (e.run.accumulation > 1)
        flops, step = f"{r['flops_per_step'] * r['devices'] / 1e15:.1f} P", f"{r['step_seconds_roofline']:.2f} s"
        speed = step, f"{r['mfu_roofline']:.0%}", f"{r['tokens_per_day'] / 1e9:.0f} B", f"{r['days']:.2g}"
        rows.append((name, run.slice, str(r["chips"]), mesh, batch, e.model.remat, memory, share, flops, *speed))
    titles = "configuration|slice|chips|mesh|tokens a step|remat|HBM|of it|FLOPs|step|MFU|tokens a day|days"
    return _table(titles, rows)


def _anchors(records: dict[Run, Record]) -> str:
    plain = records[ANCHORS["masked SFT"]]
    rows = []
    for name, run in ANCHORS.items():
        r = records[run]
        flops = f"{r['flops_per_step'] / 1e12:.1f} T", f"{r['flops_per_step'] / plain['flops_per_step']:.3f}"
        step = (
            f"{r['step_seconds_roofline']:.3f} s",
            f"{r['step_seconds_roofline'] / plain['step_seconds_roofline']:.3f}",
        )
        rows.append((name, *flops, *step, f"{r['hbm_bytes'] / 1e9:.1f} GB"))
    return _table("1B on v5p-32|FLOPs|ratio|step|ratio|HBM", rows)


def _peers(records: dict[Run, Record]) -> str:
    rows = [
        (name, f"{records[run]['temp_bytes'] / 1e9:.2f} GB", f"{records[run]['argument_bytes'] / 1e9:.2f} GB")
        for name, run in PEERS.items()
    ]
    return _table("program|temporaries|arguments", rows)


TABLES: dict[str, Callable[[dict[Run, Record]], str]] = {
    "configurations": _configurations,
    "anchors": _anchors,
    "peers": _peers,
}


def _table(titles: str, rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; titles are separated by "|"."""
    head = titles.split("|")
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(text: str, records: dict[Run, Record]) -> str:
    """The page with its tables made anew: each stands between `<!-- NAME -->` and `<!-- end -->`."""
    for name, table in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        text = before + start + table(records) + "\n" + end + after
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="where records are kept")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    args = parser.parse_args(arguments)
    records = plans(args.cache)
    for table in TABLES.values():
        print(table(records), end="\n\n")
    if args.write:
        PAGE.write_text(page(PAGE.read_text(), records))


def plans(cache: Path) -> dict[Run, Record]:
    """The record of every run, from the cache where it is there."""
    cache.mkdir(parents=True, exist_ok=True)
    runs = [*CONFIGURATIONS, *(run for run in (*ANCHORS.values(), *PEERS.values()) if run not in CONFIGURATIONS)]
    files = {run: cache / f"{run.key}.json" for run in runs}
    missing = [run for run, file in files.items() if not file.exists()]
    if missing:
        check_libtpu()
        with Progress(len(missing), unit="programs", label="plan") as progress:
            compiler = Compiler(progress)
            for run in missing:
                record = planner.plan(run.experiment, parse_slice(run.slice), compiler, sampler=False)
                files[run].write_text(json.dumps(record, indent=1) + "\n")
    return {run: json.loads(file.read_text()) for run, file in files.items()}


if __name__ == "__main__":
    sys.exit(main())
