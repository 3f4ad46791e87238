"""What is kept of the samples of a harvest: checked, written again, filled up and weighed."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchortrain.annotation import Annotation, from_json
from anchortrain.checkpoint import LoadedRun
from anchortrain.rehearsal import checker as checkers
from anchortrain.rehearsal import correction, records
from anchortrain.rehearsal.config import RehearsalConfig
from anchortrain.rehearsal.drawing import RETRY, Drawing, Row
from anchortrain.roles import Role


class Sampled(NamedTuple):
    """A plan that was drawn, its last response, and what was said of it."""

    row: Row
    verdict: checkers.Joint

    @property
    def plan(self) -> Annotation:
        """What the response carries out; the plan as drawn unless a checker corrected it."""
        return self.verdict.plan or from_json(self.row["annotation"])


class Keeping:
    """What is kept of the samples, step by step."""

    def __init__(
        self, config: RehearsalConfig, asked: dict[str, checkers.Checker], drawing: Drawing, run: LoadedRun
    ) -> None:
        self._config, self._asked, self._drawing, self._run = config, asked, drawing, run
        self.generated = 0  # tokens
        self.rejected: dict[str, int] = {}  # first responses, by reason
        self.at_once = self.retried = self.best = 0
        self.samples: list[Sampled] = []
        self.kept: list[Sampled] = []
        self.copies = np.zeros(0, np.int64)

    def keep(self, rows: Sequence[Row]) -> "Keeping":
        """Checks the samples, writes rejected ones again if so asked, and weighs what is kept."""
        self.generated = sum(len(row["tokens"]) for row in rows)
        self.samples = self._judged(rows)
        self.rejected = _reasons(self.samples)
        self.at_once = len(rows) - sum(self.rejected.values())
        if self._config.correction == "stratify":
            for attempt in range(1, self._config.retries + 1):
                self._retry(attempt)
        self.kept = [one for one in self.samples if one.verdict.kept]
        self._take_best()
        self.copies = np.ones(len(self.kept), np.int64)
        if self._config.correction == "reweight" and self.kept:
            self._reweight()
        return self

    def _judged(self, rows: Sequence[Row]) -> list[Sampled]:
        """What all checkers say; they are only asked about samples that could be trained on at all."""
        reasons = self._unusable(rows)
        usable = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
        verdicts = iter(checkers.judge_all(self._asked, usable))
        return [
            Sampled(row, checkers.Joint(False, reason, {}, None, None) if reason else next(verdicts))
            for row, reason in zip(rows, reasons, strict=True)
        ]

    def _unusable(self, rows: Sequence[Row]) -> list[str]:
        """Why a sample cannot be an example; "" where it can."""
        reasons = []
        for row in rows:
            whole = row["annotation"] is not None
            reason = "" if whole else "plan not closed in time"
            reason = reason or ("" if row["finished"] else "response not finished")
            reasons.append(reason or ("" if row["response"] else "response empty"))
        fit = [i for i, reason in enumerate(reasons) if not reason]
        made = [record_of(rows[i], from_json(rows[i]["annotation"]), {}) for i in fit]
        for i, length in zip(fit, records.lengths(made, self._run.vocabulary), strict=True):
            if length > self._run.info.length:
                reasons[i] = "longer than a row"
        return reasons

    def _retry(self, attempt: int) -> None:
        """Another response for each plan that was not confirmed."""
        places = [i for i, one in enumerate(self.samples) if not one.verdict.kept and one.row["annotation"] is not None]
        if not places:
            return
        rows = self._drawing.again([self.samples[i].row for i in places], attempt)
        self.retried += len(rows)
        self.generated += sum(row["roles"].count(Role.TEXT) for row in rows)
        for i, again in zip(places, self._judged(rows), strict=True):
            # Of two rejected ones the better is remembered, for `best`.
            if again.verdict.kept or _rank(again) > _rank(self.samples[i]):
                self.samples[i] = again

    def _take_best(self) -> None:
        """Fills up to `best` with those that a checker rejected by score alone."""
        short = self._config.best - len(self.kept)
        if short > 0:
            # A plan of which nothing was carried out teaches nothing.
            scored = [one for one in self.samples if not one.verdict.kept and one.verdict.rank is not None and one.plan]
            chosen = sorted(scored, key=_rank, reverse=True)[:short]
            self.best = len(chosen)
            self.kept += chosen

    def _reweight(self) -> None:
        drawn = [correction.labels(plan) for plan in self.drawn_plans()]
        kept = [correction.labels(one.plan) for one in self.kept]
        weights_K = correction.rake(drawn, kept, max_weight=self._config.max_weight)
        self.copies = correction.copies(weights_K, self._config.seed)

    def drawn_plans(self) -> list[Annotation]:
        """The well-formed plans, as drawn."""
        return [from_json(one.row["annotation"]) for one in self.samples if one.row["annotation"] is not None]

    @property
    def records(self) -> int:
        """How many records are written."""
        return int(self.copies.sum())

    def figures(self) -> dict[str, Any]:
        """What harvest.json says of all this."""
        drawn, kept = self.drawn_plans(), [one.plan for one in self.kept]
        # Those of the first responses: what the filter alone would have left.
        at_once = [
            from_json(one.row["annotation"]) for one in self.kept if one.verdict.kept and one.row["index"] < RETRY
        ]
        written = [one.plan for one, n in zip(self.kept, self.copies.tolist(), strict=True) for _ in range(n)]
        classes = [correction.labels(plan) for plan in drawn]
        return {
            "drawn": len(self.samples),
            "confirmed_at_once": self.at_once,
            "confirmed": len(kept) - self.best,
            "best": self.best,
            "records": self.records,
            "acceptance": self.at_once / max(len(self.samples), 1),
            "rejected": self.rejected,
            "left": _reasons(self.samples),
            "retries": self.retried,
            "corrected_plans": sum(one.verdict.plan is not None for one in self.kept),
            "entropy": {
                "drawn": correction.entropy(drawn),
                "confirmed_at_once": correction.entropy(at_once),
                "written": correction.entropy(written),
            },
            "shift": {
                "confirmed_at_once": correction.shift(classes, [correction.labels(plan) for plan in at_once]),
                "written": correction.shift(classes, [correction.labels(plan) for plan in written]),
            },
            "copies": {str(n): int((self.copies == n).sum()) for n in np.unique(self.copies)},
            "tokens": {"generated": self.generated},
        }


def _reasons(samples: Sequence[Sampled]) -> dict[str, int]:
    """How many were rejected for each reason, the commonest first."""
    return dict(Counter(one.verdict.reason for one in samples if not one.verdict.kept).most_common())


def _rank(one: Sampled) -> float:
    return -np.inf if one.verdict.rank is None else one.verdict.rank


def record_of(row: Row, plan: Annotation, provenance: dict[str, Any], id: str = "sample") -> dict[str, Any]:
    return records.record(id, row["prompt"], row["response"], plan, provenance)
