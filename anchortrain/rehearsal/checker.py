"""The protocol of a checker, and how several are combined.

A checker looks at samples and says of each whether it may be trained on. It is the one part of rehearsal that knows
what a good response is; everything else only counts. To write one, see docs/rehearsal.md.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from anchortrain.annotation import Annotation, Tag
from anchortrain.evaluate.samples import canonical

Row = Mapping[str, Any]  # a sample as `decode.samples.to_row` has it, its annotation well-formed and its end reached


class Verdict(NamedTuple):
    """What a checker says of a sample."""

    kept: bool
    reason: str = ""  # of a rejection, in one or two words: rejections are counted by it
    score: float | None = None  # higher is better; None: nothing to compare by, or not to be kept at any price
    plan: Annotation | None = None  # the plan that the response carries out, where it is not quite the one drawn


class Checker(Protocol):
    """Samples in, verdicts out."""

    def check(self, rows: Sequence[Row]) -> list[Verdict]:
        """One verdict for each sample, in order. Raises UserError when none can be had."""
        ...

    def close(self) -> None:
        """Ends whatever was begun: connections, files."""
        ...


class Joint(NamedTuple):
    """What all checkers together say of a sample."""

    kept: bool
    reason: str  # of the first that rejects: "checker: reason"
    scores: dict[str, float | None]  # by checker, of those that saw it
    plan: Annotation | None
    rank: float | None  # of a rejected sample: the score of the one that rejects it


def judge_all(checkers: Mapping[str, Checker], rows: Sequence[Row]) -> list[Joint]:
    """Asks the checkers in order. A later one sees only what earlier ones keep, so that cheap ones save dear ones."""
    joint = [Joint(True, "", {}, None, None)] * len(rows)
    left = list(range(len(rows)))
    for name, checker in checkers.items():
        verdicts = checker.check([rows[i] for i in left])
        for i, verdict in zip(left, verdicts, strict=True):
            joint[i] = Joint(
                kept=verdict.kept,
                reason="" if verdict.kept else f"{name}: {verdict.reason}",
                scores=joint[i].scores | {name: verdict.score},
                plan=verdict.plan or joint[i].plan,
                rank=None if verdict.kept else verdict.score,
            )
        left = [i for i in left if joint[i].kept]
    return joint


def compare(plan: Annotation, read: Mapping[str, Sequence[str]], agreement: float, *, nothing: str) -> Verdict:
    """The verdict on a plan and what was read back from its response: `read` has the values of each key to compare.

    A key agrees when the two name a value in common. With `agreement` below 1 a response may disagree in part; the
    verdict then carries the plan that it does carry out, with what was read in place of what was not written:
    training on the plan as it was drawn would teach to ignore plans.

    Args:
      plan: as drawn.
      read: key -> values; none for a key that should have been there and was not found.
      agreement: least share of the compared keys that must agree.
      nothing: the reason when there is no key to compare.
    """
    planned: dict[str, list[str]] = {}
    for tag in plan:
        if tag.key in read:
            planned.setdefault(tag.key, []).append(tag.value)
    if not planned:
        return Verdict(False, nothing)
    agrees = {key: bool(_classes(values) & _classes(read[key])) for key, values in planned.items()}
    share = sum(agrees.values()) / len(agrees)
    mended = None if share == 1 else _mended(plan, read, agrees)
    kept = share >= agreement and mended != ()
    return Verdict(kept, "" if kept else "disagrees with its plan", share, mended)


def _classes(values: Sequence[str]) -> set[str]:
    return {canonical(value) for value in values}


def _mended(plan: Annotation, read: Mapping[str, Sequence[str]], agrees: Mapping[str, bool]) -> Annotation:
    """The plan with the keys that disagree as they were read, or left out."""
    tags: dict[Tag, None] = {}
    for tag in plan:
        if agrees.get(tag.key, True):
            tags[tag] = None
        else:
            tags.update(dict.fromkeys(Tag(tag.key, value) for value in read[tag.key]))
    return tuple(tags)


@contextlib.contextmanager
def opened(names: Sequence[str], settings: Any, directory: Path, reference: str) -> Iterator[dict[str, Checker]]:
    """The named checkers, ready to work; closed at the end.

    Args:
      names: of `config.CHECKERS`.
      settings: a `config.Rehearsing`.
      directory: where a checker may keep answers that it paid for.
      reference: run that "likelihood" measures under.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            found[name] = _open(name, settings, directory / name, reference)
            stack.callback(found[name].close)
        yield found


def _open(name: str, settings: Any, directory: Path, reference: str) -> Checker:
    # Imported when wanted: each brings libraries of its own.
    if name == "story_parser":
        from anchortrain.rehearsal.story_parser import StoryParser

        return StoryParser(settings.rehearsal.world, settings.rehearsal.agreement)
    if name == "annotator":
        from anchortrain.rehearsal.reannotation import Reannotation

        return Reannotation(settings, directory)
    if name == "judge":
        from anchortrain.rehearsal.judge import Judge

        return Judge(settings.rehearsal, settings.llm, directory)
    from anchortrain.rehearsal.likelihood import Likelihood

    return Likelihood(reference, settings.rehearsal)
