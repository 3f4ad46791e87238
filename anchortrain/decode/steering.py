"""What the caller decides of a plan; the model draws the rest.

A fixed tag stands where the model would have put it: tags are drawn one after another until a key comes up that does
not belong before the fixed one, or the annotation would close; the fixed tag is put there, and drawing goes on after
it. So what is drawn after a fixed tag is drawn given the tag. A required key is put in its place likewise, and its
value is drawn. A forbidden tag is avoided by drawing again.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from anchortrain.annotation import AnnotationError, Tag, from_json, parse, pieces
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.grammar import MOST_BEGUN, GrammarKey
from anchortrain.decode.samples import Pair
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.roles import Role

ATTEMPTS = 256  # to draw a plan without forbidden tags

# Tokens, about, of the shortest value, and of the closing delimiter.
_SHORTEST_VALUE, _CLOSE = 1, 1


def checked(value: Mapping[str, str | Sequence[str]] | Sequence[Sequence[str]], *, where: str) -> tuple[Tag, ...]:
    """Tags from JSON, as `annotation.from_json` has them. Raises UserError."""
    try:
        return from_json(value)
    except AnnotationError as error:
        raise UserError(str(error), where=where) from None


@dataclasses.dataclass(frozen=True)
class Steering:
    """Raises UserError where it contradicts itself, or a tag breaks the grammar.

    Tags may be given as `annotation.from_json` takes them, too; one that is given twice counts once.

    Attributes:
      fixed: tags that the plan has. No other values of these keys are drawn.
      forbidden: tags that it may not have.
      required: keys that it has, whatever the values.
      prefix: how the plan begins: `topic: fox; pla`. A value at its end may go on, within its last word or after it,
        unless `;` comes after it.
      plan: the whole plan, of which nothing is drawn; empty for an empty one.
    """

    fixed: tuple[Tag, ...] = ()
    forbidden: tuple[Tag, ...] = ()
    required: tuple[str, ...] = ()
    prefix: str = ""
    plan: tuple[Tag, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("fixed", "forbidden", "plan"):
            if (given := getattr(self, name)) is not None:
                tags = checked(given, where=f"Steering.{name}")
                object.__setattr__(self, name, tags if name == "plan" else tuple(dict.fromkeys(tags)))
        if isinstance(self.required, str) or not all(isinstance(key, str) for key in self.required):
            what = f"must be a list of keys, got {self.required!r}"
            raise UserError(what, where="Steering.required")
        if not isinstance(self.prefix, str):
            raise UserError(f"must be a text, got {self.prefix!r}", where="Steering.prefix")
        object.__setattr__(self, "required", tuple(dict.fromkeys(self.required)))
        if self.plan is not None and (self.fixed or self.forbidden or self.required or self.prefix):
            raise UserError("a whole plan leaves nothing to fix, forbid or require", mend="give the plan alone")
        if both := set(self.fixed) & set(self.forbidden):
            tag = min(both)
            raise UserError(f"'{tag.key}: {tag.value}' is fixed and forbidden", mend="choose one of them")

    @property
    def tags(self) -> tuple[Tag, ...]:
        """All that are named whole."""
        return (*self.fixed, *self.forbidden, *(self.plan or ()))

    def __bool__(self) -> bool:
        return bool(self.tags or self.required or self.prefix or self.plan is not None)


UNSTEERED = Steering()


def parse_tags(texts: Iterable[str], *, where: str) -> tuple[Tag, ...]:
    """Tags from `key=value`. Raises UserError, with `where` they were given."""
    tags = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"a tag must read key=value, got {text!r}", where=where)
        tags.append(checked({key.strip(): value.strip()}, where=where)[0])
    return tuple(tags)


def parse_plan(text: str, *, where: str) -> tuple[Tag, ...]:
    """A whole plan from `key: value; key: value`. Raises UserError, with `where` it was given."""
    try:
        return parse(text)
    except AnnotationError as error:
        raise UserError(str(error), where=where) from None


def unusual(steering: Steering, keys: Sequence[str]) -> str | None:
    """What the plans that are asked for have in common with few of the training data, in words; None for nothing.

    Args:
      keys: of the schema, in the order in which they usually stand in an annotation.
    """
    plan = steering.plan
    named = [tag.key for tag in plan or steering.fixed]
    if steering.prefix:
        named = [part.partition(":")[0] for part in steering.prefix.removesuffix(";").split("; ") if part]
        begun = [key for key in keys if named and key.startswith(named[-1])]
        if len(begun) == 1:
            named[-1] = begun[0]
    if twice := [key for i, key in enumerate(named) if key in named[:i]]:
        return f"{twice[0]} stands twice in the plan"
    if plan is None and not steering.prefix:
        return None
    places = [keys.index(key) for key in named if key in keys]
    if places != sorted(places):
        return (
            f"in the training data these keys stand in the order {', '.join(keys[place] for place in sorted(places))}"
        )
    end = len(keys) if plan is not None else max(places, default=0)
    left_out = [key for i, key in enumerate(keys[:end]) if i not in places]
    return f"plans of the training data may have {', '.join(left_out)} as well" if left_out else None


class Phase(NamedTuple):
    """What to draw next."""

    given: list[Pair]  # tokens and roles of the annotation so far, without the opening delimiter
    kept: int  # so many of these stood there before this phase; the others are of fixed tags
    value_ended: bool  # the last value that is given is complete
    grammar: GrammarKey  # for what follows
    pending: tuple[Tag | str, ...]  # fixed tags and required keys that are not among what is given
    reserved: int  # tokens of the annotation's limit that later phases need
    last: bool  # annotation and response are drawn to their ends


class Steered:
    """The phases in which a plan is drawn: `first`, then what comes `after` each that is not the last."""

    def __init__(self, vocabulary: Vocabulary, keys: Sequence[str], steering: Steering, config: SamplingConfig) -> None:
        """
        Args:
          keys: of the schema, in the order in which they usually stand in an annotation.

        Raises:
          UserError: for what cannot be done with this model or these settings.
        """
        self._vocabulary, self._keys, self._mode = vocabulary, list(keys), config.mode
        if config.mode != "two_stage":
            what = f"plans are steered in mode two_stage, not {config.mode}"
            raise UserError(what, mend="leave out the tags, or the mode")
        for key in (*(tag.key for tag in steering.tags), *steering.required):
            self._check_key(key)
        fixed = steering.fixed if steering.plan is None else steering.plan
        self._named = {tag.key for tag in fixed}
        self._free = [] if steering.plan is not None else [key for key in self._keys if key not in self._named]
        self._forbidden = frozenset(steering.forbidden)
        self._claimed: set[str] = set()  # keys of the prefix
        self._text: tuple[str, str] | None = None  # of the prefix's last value, see `GrammarKey.begun`
        self._begun, self._value_ended, self._candidates = self._read_prefix(steering.prefix)
        required = set(steering.required) - self._named - self._claimed
        # A whole plan keeps its order; sorting keeps that of several values of a key.
        items = fixed if steering.plan is not None else sorted((*fixed, *required), key=self._place)
        self._items: tuple[Tag | str, ...] = tuple(items)
        begun = len(vocabulary.encode(self._text[1])) if self._text else 0
        least = len(self._begun) + begun + self._length(self._items, first=not self._begun) + _CLOSE
        if least > config.max_annotation_tokens:
            what = f"what is given of the plan takes {least} tokens with its end, max_annotation_tokens is"
            raise UserError(f"{what} {config.max_annotation_tokens}", mend="raise it, or give less")

    def first(self) -> Phase:
        """Raises nothing: what can be wrong was seen before."""
        if not self._candidates:
            phase = self._next(self._begun, self._value_ended, self._items)
            return phase._replace(grammar=phase.grammar._replace(begun=self._text))
        # One of them, but not past the first that is pending, which then would stand behind what comes after it.
        due = [key for key in self._candidates if not self._items or self._place(key) <= self._place(self._items[0])]
        candidates = tuple(due or self._candidates)
        reserved = self._length(self._items) + _SHORTEST_VALUE + _CLOSE
        key = GrammarKey("annotation", candidates, candidates, closes=False)
        return Phase(self._begun, len(self._begun), self._value_ended, key, self._items, reserved, False)

    def after(self, phase: Phase, drawn: Sequence[Pair]) -> Phase:
        """The phase after one in which `drawn` was drawn: up to the key or delimiter upon which it stopped."""
        kept = [*phase.given, *drawn]
        if not phase.grammar.closes:
            key = self._vocabulary.decode([token for token, _ in drawn]).lstrip("; ").removesuffix(":")
            found = [item for item in phase.pending if _key_of(item) == key]
            others = tuple(item for item in phase.pending if item not in found)
            if found and isinstance(found[0], Tag):
                return self._next(phase.given, bool(phase.given), (*found, *others), due=True)
            return self._next(kept, False, others)
        # What it stopped upon gives way to the fixed tag, with the space that some tokenizers put before a separator.
        while kept and (kept[-1][1] != Role.ANNOTATION_VALUE or self._vocabulary.token_text(kept[-1][0]).isspace()):
            kept.pop()
        return self._next(kept, bool(kept), phase.pending, due=True)

    def _next(
        self, given: list[Pair], value_ended: bool, pending: tuple[Tag | str, ...], *, due: bool = False
    ) -> Phase:
        """Puts fixed tags and required keys where nothing comes before them, and says what to draw then.

        Args:
          due: it was drawn up to where the first of those pending belongs.
        """
        kept = len(given)
        while pending:
            item = pending[0]
            before = self._free[: sum(self._place(key) < self._place(item) for key in self._free)]
            if not due and (before or (given and not value_ended)):
                stops = tuple(dict.fromkeys((*self._free[len(before) :], *map(_key_of, pending))))
                key = GrammarKey("annotation", (*before, *stops), stops)
                return Phase(given, kept, value_ended, key, pending, self._length(pending), False)
            given, value_ended = given + self._tokens(item, later=bool(given)), isinstance(item, Tag)
            pending, due = pending[1:], False
        return Phase(given, kept, value_ended, GrammarKey(self._mode, tuple(self._free)), (), 0, True)

    def _place(self, item: Tag | str) -> int:
        return self._keys.index(_key_of(item))

    def _tokens(self, item: Tag | str, *, later: bool) -> list[Pair]:
        """Of a tag, or of a key alone, at the beginning of an annotation, or after another."""
        tag = item if isinstance(item, Tag) else Tag(item, "x")
        cut = pieces((tag, tag))[2:] if later else pieces((tag,))
        cut = cut if isinstance(item, Tag) else cut[:1]
        return [(token, int(role)) for text, role in cut for token in self._vocabulary.encode(text)]

    def _length(self, items: Sequence[Tag | str], *, first: bool = False) -> int:
        """Tokens at the beginning of an annotation, or after others; of values that will be drawn, the fewest."""
        drawn = sum(_SHORTEST_VALUE for item in items if not isinstance(item, Tag))
        return drawn + sum(len(self._tokens(item, later=i > 0 or not first)) for i, item in enumerate(items))

    def _check_key(self, key: str) -> None:
        if not self._keys:
            raise UserError(f"the model was trained without annotations: it plans no {key!r}", mend="steer nothing")
        if key not in self._keys:
            raise UserError(f"the model knows no key {key!r}", mend=f"use one of its keys: {', '.join(self._keys)}")

    def _read_prefix(self, prefix: str) -> tuple[list[Pair], bool, list[str]]:
        """Tokens of a prefix, whether its last value is complete, and the keys of which one comes next, if it stops
        before a key or within. Raises UserError."""
        if not prefix:
            return [], False, []
        where = f"prefix {prefix!r}"
        *whole, rest = f"{prefix} ".split("; ") if prefix.endswith(";") else prefix.split("; ")
        given: list[Pair] = []
        for text in whole:  # tags that are complete
            key, colon, value = text.partition(": ")
            if not colon:
                raise UserError(f"a tag must read 'key: value', got {text!r}", where=where)
            self._check_key(key)
            self._claim(key, where)
            tag = checked({key: value}, where=where)[0]
            if tag in self._forbidden:
                raise UserError(f"'{text}' is forbidden and in the prefix", where=where, mend="choose one of them")
            given += self._tokens(tag, later=bool(given))
        if not rest and prefix.endswith(";"):
            return given, True, []
        key, colon, value = rest.partition(":")
        if not colon:
            free = [one for one in self._keys if one.startswith(key)]
            if not free:
                raise UserError(f"no key of the model begins with {key!r}", where=where)
            return given, bool(given), free
        self._check_key(key)
        self._claim(key, where)
        if value and not value.startswith(" "):
            raise UserError(f"a tag must read 'key: value', got {rest!r}", where=where)
        value, given = value.lstrip(" "), given + self._tokens(key, later=bool(given))
        if not value:
            return given, False, []
        checked({key: value if value.rstrip() == value else f"{value}x"}, where=where)
        before, self._text = _cut(f" {value}")
        tokens = self._vocabulary.encode(before) if before else []
        return given + [(token, int(Role.ANNOTATION_VALUE)) for token in tokens], False, []

    def _claim(self, key: str, where: str) -> None:
        if key in self._named:
            raise UserError(f"{key!r} is fixed and in the prefix", where=where, mend="give it once")
        self._claimed.add(key)


def _cut(value: str) -> tuple[str, tuple[str, str]]:
    """A value that may go on: what can be given as tokens, and `GrammarKey.begun`. A word that has begun may be cut
    into other tokens than the whole word is, so that the last one is given as text."""
    start = value.rfind(" ")
    if len(value[start:].encode()) > MOST_BEGUN:  # no word, or in a script without spaces
        start = len(value) - MOST_BEGUN // 4
    return value[:start], (value[:start], value[start:])


def _key_of(item: Tag | str) -> str:
    return item.key if isinstance(item, Tag) else item
