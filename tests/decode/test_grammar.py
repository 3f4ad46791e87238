"""The automaton agrees with `annotation.parse`, and knows its distances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchortrain.annotation import MAX_VALUE_CHARACTERS, AnnotationError, Tag, from_json, parse, pieces, render
from anchortrain.decode import grammar as grammars
from anchortrain.decode.grammar import compile_grammar
from anchortrain.errors import UserError
from anchortrain.roles import Role

KEYS = ["hero", "here", "place", "time-of-day"]
_character = st.characters(codec="utf-8", exclude_characters=";\x7f\x85\u2028\u2029", exclude_categories=["Cc"])
_value = st.text(_character, max_size=MAX_VALUE_CHARACTERS)
_tag = st.tuples(st.sampled_from(KEYS), _value.map(str.strip).filter(bool))


@pytest.fixture(scope="module")
def grammar(vocabulary):
    return compile_grammar(vocabulary, KEYS, mode="two_stage", columns=384)


def encode(vocabulary, annotation) -> tuple[list[int], list[int]]:
    cut = [(vocabulary.encode(text), role) for text, role in pieces(annotation)]
    tokens = [token for ids, _ in cut for token in ids] + [vocabulary.ann_close]
    roles = [int(role) for ids, role in cut for _ in ids] + [int(Role.ANNOTATION_KEY)]
    return tokens, roles


@given(st.lists(_tag, max_size=4))
def test_every_annotation_of_the_schema_is_read_with_its_roles(vocabulary, grammar, pairs):
    tokens, roles = encode(vocabulary, from_json(pairs))
    assert grammar.read(tokens) == (True, roles)


@pytest.mark.parametrize("value", ["x" * 200, "’" * 200, "a <3 b: c", "<ann", "/ann>", "São Paulo’s café 漢字 🦊"])
def test_legal_values(vocabulary, grammar, value):
    assert grammar.read(encode(vocabulary, from_json({"hero": value, "place": "mill"}))[0])[0]


@pytest.mark.parametrize(
    "value", ["x" * 201, "’" * 201, "a <ann> b", "</ann>", "a ", " a", "", "a;b", "a\nb", "a\u2028b"]
)
def test_illegal_values(vocabulary, grammar, value):
    tokens = encode(vocabulary, (Tag("hero", "fox"), Tag("place", value)))[0]
    assert not grammar.read(tokens)[0]


def test_unknown_keys_and_unclosed_annotations_are_malformed(vocabulary, grammar):
    assert not grammar.read(encode(vocabulary, from_json({"villain": "wolf"}))[0])[0]
    assert not grammar.read(encode(vocabulary, from_json({"hero": "fox"}))[0][:-1])[0]


def walk(grammar, vocabulary, rng) -> list[int]:
    """A random annotation, mostly within the grammar, closed after at most 40 tokens."""
    state, tokens = grammars.OPEN, []
    while len(tokens) < 40 and state not in (grammars.CLOSED, grammars.MALFORMED):
        row = grammar.next_state[state]
        right = np.flatnonzero((row != grammars.FORBIDDEN) & (row != grammars.INVALID) & (row != grammars.MALFORMED))
        choices = right if rng.random() < 0.97 and right.size else np.flatnonzero(row != grammars.FORBIDDEN)
        token = vocabulary.ann_close if rng.random() < 0.1 else int(rng.choice(choices))
        tokens.append(token)
        state = int(grammar.next_state[state, token])
    return tokens if tokens[-1] == vocabulary.ann_close else [*tokens, vocabulary.ann_close]


def canonical(tokens, tags, vocabulary) -> bool:
    """Whether the keys of the parsed `tags` are cut into tokens as `pieces` has them."""
    rest = list(tokens)
    for text, role in pieces(tags):
        ids = vocabulary.encode(text)
        if role == Role.ANNOTATION_KEY and rest[: len(ids)] != ids:
            return False
        taken = 1 if role == Role.ANNOTATION_VALUE else len(ids)
        while role == Role.ANNOTATION_VALUE and vocabulary.decode(rest[:taken]) != text:
            taken += 1
            if taken > len(rest):
                return False
        rest = rest[taken:]
    return rest == [vocabulary.ann_close]


def test_random_tokens_are_wellformed_if_and_only_if_their_text_parses(vocabulary, grammar):
    rng, count = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(3000):
        tokens = walk(grammar, vocabulary, rng)
        wellformed, roles = grammar.read(tokens)
        text = vocabulary.decode(tokens)
        count[wellformed] += 1
        try:
            tags = parse(text)
        except AnnotationError:
            tags = None
        if wellformed:
            assert tags is not None and render(tags) == text and "\ufffd" not in text
            assert {tag.key for tag in tags} <= set(KEYS)
            values = [t for t, role in zip(tokens, roles, strict=True) if role == Role.ANNOTATION_VALUE]
            assert vocabulary.decode(values) == "".join(f" {tag.value}" for tag in tags)
        elif tags is not None and "\ufffd" not in text and {tag.key for tag in tags} <= set(KEYS):
            assert not canonical(tokens, tags, vocabulary), text
    assert min(count.values()) > 300


def test_distance_is_the_length_of_the_shortest_way_out(vocabulary, grammar):
    table, reached, steps = grammar.next_state, {grammars.CLOSED}, 0
    found = {grammars.CLOSED: 0}
    while reached:
        steps += 1
        reached = {
            s for s in range(grammars.OPEN, len(table)) if s not in found and np.isin(table[s], list(reached)).any()
        }
        found |= dict.fromkeys(reached, steps)
    inside = [s for s in range(grammars.OPEN, len(table)) if not grammar.terminal[s]]
    assert {s: int(grammar.distance[s]) for s in inside} == {s: found[s] for s in inside}
    assert grammar.distance[grammars.OPEN] == 1


def test_controls_and_columns_beyond_the_vocabulary_are_never_drawn(vocabulary, grammar):
    allowed = {vocabulary.eos, vocabulary.ann_close}
    for constrain in (True, False):
        drawable = grammar.cost(constrain=constrain) < grammars.FAR
        assert not drawable[:, vocabulary.size :].any()
        assert not drawable[:, sorted(vocabulary.control_ids - allowed)].any()
        assert not drawable[grammar.text_stage][:, vocabulary.ann_close].any()
        assert not drawable[~grammar.text_stage][:, vocabulary.eos].any()


def test_modes(vocabulary):
    single = compile_grammar(vocabulary, [], mode="single_stage")
    assert single.start == grammars.TEXT
    document = compile_grammar(vocabulary, KEYS, mode="document")
    assert document.next_state[grammars.TEXT, vocabulary.ann_open] == grammars.OPEN
    draws = compile_grammar(vocabulary, KEYS, mode="annotation")
    assert draws.terminal[[grammars.CLOSED, grammars.MALFORMED]].all() and not draws.terminal[grammars.OPEN]
    with pytest.raises(UserError, match="no annotation keys.*single_stage"):
        compile_grammar(vocabulary, [], mode="two_stage")
