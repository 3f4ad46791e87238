"""The grammar of annotations: parse undoes render, and no delimiter can be forged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchortrain.annotation import (
    CLOSE,
    MAX_VALUE_CHARACTERS,
    OPEN,
    AnnotationError,
    Tag,
    from_json,
    make_tag,
    parse,
    pieces,
    render,
)
from anchortrain.roles import Role


def is_legal(key: str, value: str) -> bool:
    try:
        make_tag(key, value)
    except AnnotationError:
        return False
    return True


# Characters of the grammar are frequent, so that near misses are.
texts = st.text(st.one_of(st.sampled_from(" :;,<>/an\n\t\x85\u2028\u00a0"), st.characters(exclude_categories=["Cs"])))
keys = st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True)
values = texts.map(str.strip).filter(lambda value: is_legal("key", value))
annotations = st.lists(st.builds(Tag, keys, values), max_size=5).map(tuple)


@given(annotations)
def test_parse_undoes_render(annotation):
    assert parse(render(annotation)) == annotation


@given(texts)
def test_whatever_parses_renders_to_the_same_text(text):
    try:
        annotation = parse(text)
    except AnnotationError:
        return
    assert render(annotation) == text


@given(annotations)
def test_both_json_forms_are_read(annotation):
    assert from_json([list(tag) for tag in annotation]) == annotation
    grouped: dict[str, list[str]] = {}
    for key, value in annotation:
        grouped.setdefault(key, []).append(value)
    assert sorted(from_json(grouped)) == sorted(annotation)
    single = {key: many[0] if len(many) == 1 else many for key, many in grouped.items()}
    assert from_json(single) == from_json(grouped)


@given(annotations)
def test_pieces_spell_the_text_and_carry_the_roles(annotation):
    cut = pieces(annotation)
    assert "".join(text for text, _ in cut) == render(annotation)
    assert [role for _, role in cut] == [Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE] * len(annotation)
    assert [text for text, role in cut if role == Role.ANNOTATION_VALUE] == [f" {value}" for _, value in annotation]


def test_a_rendered_annotation():
    assert render((Tag("hero", "fox"), Tag("place", "old mill: east"))) == "hero: fox; place: old mill: east"
    assert render(()) == "" and parse("") == ()


FORGED = (OPEN, CLOSE, ";", "; place: mill", *map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u2029")


@given(st.sampled_from(FORGED), st.text("ab", min_size=1), st.text("ab", min_size=1))
def test_every_forged_delimiter_is_refused(delimiter, before, after):
    with pytest.raises(AnnotationError, match="contains the delimiter"):
        make_tag("hero", before + delimiter + after)
    with pytest.raises(AnnotationError):
        from_json({"hero": ["fox", before + delimiter + after]})
    with pytest.raises(AnnotationError):
        make_tag(before + delimiter + after, "fox")


@given(st.sampled_from(FORGED), annotations)
def test_a_tag_slipped_into_a_value_never_parses_to_it(delimiter, annotation):
    text = render((*annotation, Tag("hero", f"fox{delimiter}")))
    try:
        found = parse(text)
    except AnnotationError:
        return
    assert all(delimiter not in value for _, value in found) and render(found) == text


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("Hero", "fox", "annotation key 'Hero'"),
        ("", "fox", "annotation key ''"),
        ("a:b", "fox", "annotation key 'a:b'"),
        (1, "fox", "annotation key 1"),
        ("hero", "", "value of 'hero' must be a non-empty string"),
        ("hero", None, "value of 'hero' must be a non-empty string, got None"),
        ("hero", " fox", "white space at its ends"),
        ("hero", "fox\u00a0", "white space at its ends"),
        ("hero", "x" * (MAX_VALUE_CHARACTERS + 1), "201 characters, at most 200"),
    ],
)
def test_refusals_name_key_and_reason(key, value, message):
    with pytest.raises(AnnotationError, match=message):
        make_tag(key, value)


@pytest.mark.parametrize("shape", [None, "hero: fox", 3, {"hero": 3}, {"hero": {"a": "b"}}, [["hero"]], ["hero"], [1]])
def test_other_shapes_are_refused(shape):
    with pytest.raises(AnnotationError):
        from_json(shape)


@pytest.mark.parametrize("text", ["hero", "hero:fox", "hero: fox;", "hero: fox; ", "; hero: fox", "hero: ", "H: fox"])
def test_text_that_render_cannot_have_made_is_refused(text):
    with pytest.raises(AnnotationError):
        parse(text)
