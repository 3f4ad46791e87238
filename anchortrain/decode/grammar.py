"""Two-stage decoding as one automaton over tokens.

A state says which tokens may follow; the role of a token is that of the state it enters, so the sampler
writes roles by one look-up. The annotation stage follows `anchortrain.annotation`: keys and separators are
tokenised as `pieces` cuts them, values are any tokens whose text is a legal value. What breaks the grammar
goes to INVALID, which can still be closed: a free plan is judged by the same table that constrains one.

Shapes: S states, V columns of the model's head (at least the size of the vocabulary).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchortrain import annotation
from anchortrain.annotation import MAX_VALUE_CHARACTERS, Tag, pieces
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode import values
from anchortrain.decode.values import VALUE_START, ValueState
from anchortrain.errors import UserError
from anchortrain.roles import Role

# States that every grammar has. FORBIDDEN is never entered: no mode ever draws a token that leads to it.
FORBIDDEN, END, CLOSED, MALFORMED, TEXT, INVALID, OPEN = range(7)

# two_stage: an annotation, then the response. single_stage: the response alone, the ablation of the paper.
# document: annotation and text take turns until the end. annotation: stops when the annotation closes.
MODES = ("two_stage", "single_stage", "document", "annotation")

FAR = 255  # distance of what cannot be reached; also an upper limit for keys, in tokens
VALUE_BUDGET = MAX_VALUE_CHARACTERS + 1  # the space before a value included
MOST_BEGUN = 32  # bytes of a value that may be given as text and not as tokens


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The compiled automaton.

    Attributes:
      next_state: int16 [S, V].
      role: uint8 [S], the role of a token that enters the state.
      distance: uint8 [S], the fewest tokens to a well-formed close, the closing delimiter included; 0 outside
        of an annotation, FAR when it is too late.
      characters: int16 [V], what a token adds to the length of a value.
      reserve: uint8 [S], characters that a value still needs before it may end.
      start: the state of a sample before its first drawn token.
      value_end: the state after a value that is complete: nothing can be added to it.
    """

    next_state: np.ndarray
    role: np.ndarray
    distance: np.ndarray
    characters: np.ndarray
    reserve: np.ndarray
    start: int
    value_end: int

    @property
    def text_stage(self) -> np.ndarray:
        """bool [S]: the state belongs to document or response."""
        return np.isin(np.arange(len(self.role)), (END, CLOSED, MALFORMED, TEXT))

    @property
    def terminal(self) -> np.ndarray:
        """bool [S]: nothing can follow."""
        return (self.next_state == FORBIDDEN).all(axis=1)

    def cost(self, *, constrain: bool) -> np.ndarray:
        """uint8 [S, V]: a token may be drawn when this is at most the number of tokens left to its stage.

        Constrained, the token counts together with the fewest that must still follow to close the
        annotation, so that one comparison keeps to the grammar and to the limit.
        """
        if not constrain:
            return np.where(self.next_state == FORBIDDEN, FAR, 1).astype(np.uint8)
        cost_S = np.minimum(self.distance.astype(np.int16) + 1, FAR)
        cost_S[FORBIDDEN] = FAR
        return cost_S.astype(np.uint8)[self.next_state]

    def value_cost(self) -> np.ndarray:
        """uint8 [S, V]: characters that a token takes of its value, with those that must still follow."""
        is_value = self.role[self.next_state] == Role.ANNOTATION_VALUE
        needed = np.minimum(self.characters + self.reserve[self.next_state], FAR)
        return np.where(is_value, needed, 0).astype(np.uint8)

    def read(self, tokens: Sequence[int]) -> tuple[bool, list[int]]:
        """Whether the annotation `tokens`, from after the opening delimiter to the closing one, is well-formed,
        and the role of each token. The reference for what the sampler does in its loop."""
        state, left, roles = OPEN, VALUE_BUDGET, []
        for token in tokens:
            state = int(self.next_state[state, token])
            roles.append(int(self.role[state]))
            left = left - int(self.characters[token]) if roles[-1] == Role.ANNOTATION_VALUE else VALUE_BUDGET
            state = INVALID if left < 0 else state
        return state == CLOSED, roles


class GrammarKey(NamedTuple):
    """What a grammar follows from, for one vocabulary; see `GrammarCompiler.grammar`."""

    mode: str
    keys: tuple[str, ...]
    stops: tuple[str, ...] = ()
    closes: bool = True
    begun: tuple[str, str] | None = None


def compile_grammar(vocabulary: Vocabulary, keys: Sequence[str], *, mode: str, columns: int | None = None) -> Grammar:
    """The automaton for a vocabulary, the keys of a schema and one of `MODES`.

    Args:
      columns: width of the model's head; columns beyond the vocabulary are never drawn.
    """
    return GrammarCompiler(vocabulary, keys, columns or vocabulary.size).grammar(mode, keys)


class GrammarCompiler:
    """The automaton of a whole schema, of which the grammars of requests are parts: they have its states.

    What a value is takes long to find out for a large vocabulary. It is done once.
    """

    def __init__(self, vocabulary: Vocabulary, keys: Sequence[str], columns: int) -> None:
        """Rows of the table are made state by state as they are reached.

        Args:
          columns: width of the model's head.
        """
        self.vocabulary, self.columns = vocabulary, columns
        self.bytes = values.token_bytes(vocabulary)
        self.plain = np.array([t for t in range(vocabulary.size) if t not in vocabulary.control_ids])
        self.characters = np.zeros(columns, np.int16)
        for token in self.plain:
            self.characters[token] = values.count_characters(self.bytes[token] or b"")
        self.rows: list[np.ndarray] = []
        self.roles: list[Role] = []
        self.reserve: list[int] = []
        for role in (Role.PAD, Role.TEXT, Role.ANNOTATION_KEY, Role.ANNOTATION_KEY, Role.TEXT):
            self.add(role, np.full(columns, FORBIDDEN, np.int16))
        self.add(Role.ANNOTATION_VALUE, self.inside())  # INVALID
        self.add(Role.ANNOTATION_KEY, self.inside(close=CLOSED))  # OPEN; an empty plan is a plan
        self.values: dict[ValueState, int] = {}
        self.waiting: list[ValueState] = []
        value_start = self.value(VALUE_START)
        self.within = self.value(ValueState("solid"))
        # A state for each key that has been spelt, so that what follows can differ.
        keys = sorted(set(keys))
        self.key_end = {
            key: self.add(Role.ANNOTATION_KEY, self.inside(), reserve=values.reserve(VALUE_START)) for key in keys
        }
        self.first, self.later = key_tokens(vocabulary, keys)
        for tokens, end in zip(self.first, self.key_end.values(), strict=True):
            self.spell(OPEN, tokens, end)
        # Separators hang below one node of their own; the states that a value may end in copy its branches.
        separator = self.add(Role.ANNOTATION_KEY, self.inside())
        self.after_space = any(self.lead(tokens) for tokens in self.later)
        for tokens, end in zip(self.later, self.key_end.values(), strict=True):
            self.spell(separator, tokens[self.lead(tokens) :], end)
        self.branches = np.flatnonzero(self.rows[separator] > OPEN)
        self.separator = separator
        self.stop = self.add(Role.ANNOTATION_KEY, np.full(columns, FORBIDDEN, np.int16))
        self.value_end = self.add(Role.ANNOTATION_VALUE, self.inside(close=CLOSED))
        # For values that are given as text. Where there are none, nothing leads to them.
        self.begun = [self.add(Role.ANNOTATION_VALUE, np.full(columns, FORBIDDEN, np.int16)) for _ in range(MOST_BEGUN)]
        if self.after_space:
            spaced = self.add(Role.ANNOTATION_VALUE, self.inside())
            for tokens in self.later:
                self.spell(self.value_end, tokens[: self.lead(tokens)], spaced)
            self.rows[spaced][self.branches] = self.rows[separator][self.branches]
        self.rows[self.value_end][self.branches] = self.rows[separator][self.branches]
        while self.waiting:
            self.fill(self.waiting.pop(0))
        for end in self.key_end.values():
            self.rows[end][:] = self.rows[value_start]

    def add(self, role: Role, row: np.ndarray, reserve: int = 0) -> int:
        self.rows.append(row)
        self.roles.append(role)
        self.reserve.append(reserve)
        return len(self.rows) - 1

    def inside(self, close: int = MALFORMED) -> np.ndarray:
        """A row of the annotation stage in which every text token is wrong."""
        row = np.full(self.columns, FORBIDDEN, np.int16)
        row[self.plain] = INVALID
        row[self.vocabulary.ann_close] = close
        return row

    def lead(self, tokens: Sequence[int]) -> int:
        """How many tokens come before the one with the ';'. SentencePiece may put a lone space there, which
        cannot be told from one of the value and is left to it."""
        return next((i for i, token in enumerate(tokens) if b";" in (self.bytes[token] or b"")), 0)

    def spell(self, state: int, tokens: Sequence[int], last: int) -> None:
        """Adds the path `tokens` from `state` to `last`, sharing what is there."""
        for token in tokens[:-1]:
            if self.rows[state][token] == INVALID:
                self.rows[state][token] = self.add(Role.ANNOTATION_KEY, self.inside())
            state = int(self.rows[state][token])
        self.rows[state][tokens[-1]] = last

    def value(self, state: ValueState) -> int:
        if state not in self.values:
            role = Role.ANNOTATION_KEY if state == VALUE_START else Role.ANNOTATION_VALUE
            self.values[state] = self.add(role, self.inside(), reserve=values.reserve(state))
            self.waiting.append(state)
        return self.values[state]

    def fill(self, state: ValueState) -> None:
        """Where each token leads from within a value."""
        row = self.rows[self.values[state]]
        if state.delimiter:
            row[:] = self.rows[self.within]
        for token in self.plain:
            data = self.bytes[token]
            if data and values.concerned(state, data[0]):
                following = values.advance(state, data)
                row[token] = INVALID if following is None else self.value(following)
        if values.may_end(state):
            row[self.vocabulary.ann_close] = CLOSED
        if values.may_end(state) or (self.after_space and values.ends_in_space(state)):
            row[self.branches] = self.rows[self.separator][self.branches]

    def begin(self, table: np.ndarray, before: str, text: str) -> None:
        """Fills the rows of `self.begun`: in the i-th, i bytes of `text` have been spelt. Tokens may spell it in any
        way, and the last may go beyond it: a word that has begun comes out as the model cuts it into tokens."""
        begun, state = text.encode(), values.advance(VALUE_START, before.encode()) if before else VALUE_START
        for i in range(len(begun)):
            row, rest = table[self.begun[i]], begun[i:]
            row[:] = self.inside()
            for token in self.plain:
                data = self.bytes[token] or b""
                if data.startswith(rest):
                    following = values.advance(state, begun[:i] + data)
                    row[token] = INVALID if following is None else self.values.get(following, INVALID)
                elif data and rest.startswith(data):
                    row[token] = self.begun[i + len(data)]

    def grammar(
        self,
        mode: str,
        keys: Sequence[str],
        stops: Sequence[str] = (),
        closes: bool = True,
        begun: tuple[str, str] | None = None,
    ) -> Grammar:
        """The grammar of one of `MODES` for some of the keys.

        Args:
          keys: that may be drawn.
          stops: of these, those upon which nothing is drawn any more; the value is not begun.
          closes: whether the annotation may be closed.
          begun: it starts within a value: the text of it that has been drawn, and the text that must follow, of at most
            `MOST_BEGUN` bytes.

        Raises:
          UserError: when an annotation is asked for and there are no keys.
        """
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; one of {', '.join(MODES)}")
        if mode != "single_stage" and not self.key_end:
            what = "there are no annotation keys: nothing was annotated in training"
            raise UserError(what, mend="sample with --single_stage")
        vocabulary, table = self.vocabulary, np.stack(self.rows)
        for state in () if mode == "annotation" else (CLOSED, MALFORMED, TEXT):
            table[state, self.plain] = TEXT
            table[state, vocabulary.eos] = END
            if mode == "document":
                table[state, vocabulary.ann_open] = OPEN
        for key, end in self.key_end.items():
            if key not in keys:
                table[table == end] = INVALID
            elif key in stops:
                table[table == end] = self.stop
        if begun is not None:
            self.begin(table, *begun)
        if not closes:
            table[table == CLOSED] = INVALID
        start = OPEN if begun is None else self.begun[0]
        return Grammar(
            next_state=table,
            role=np.array(self.roles, np.uint8),
            distance=_distances(table),
            characters=self.characters,
            reserve=np.array(self.reserve, np.uint8),
            start=TEXT if mode == "single_stage" else start,
            value_end=self.value_end,
        )


def key_tokens(vocabulary: Vocabulary, keys: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of every key as the first of an annotation, and as a later one."""
    twice = [pieces((annotation.make_tag(key, "x"), Tag(key, "x"))) for key in keys]
    first = vocabulary.encode_batch([cut[0][0] for cut in twice])
    later = vocabulary.encode_batch([cut[2][0] for cut in twice])
    return first, later


def _distances(table: np.ndarray) -> np.ndarray:
    """Fewest tokens from each state to CLOSED or to one at which it stops, by relaxation; uint8 [S]."""
    successors = [np.flatnonzero(np.bincount(row, minlength=len(table))) for row in table]
    distance = np.full(len(table), FAR, np.int64)
    distance[[END, CLOSED, TEXT]] = 0
    distance[[state for state in range(OPEN, len(table)) if successors[state].max() == FORBIDDEN]] = 0
    changed = True
    while changed:
        changed = False
        for state in range(OPEN, len(table)):
            found = 1 + distance[successors[state]].min()
            if found < distance[state]:
                distance[state], changed = found, True
    return distance.astype(np.uint8)
