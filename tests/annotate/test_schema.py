"""Whatever text goes in, values follow the grammar; schemas say what is wrong with them."""

import dataclasses
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchortrain.annotate.chunk_types import TYPES
from anchortrain.annotate.schema import Key, Schema, load_schema, parse_schema, schema_names
from anchortrain.annotation import MAX_VALUE_CHARACTERS, Tag, parse, render
from anchortrain.data.interleave import interleave
from anchortrain.data.records import Chunk, Document, Instruction
from anchortrain.data.vocabulary import CONTROLS, Vocabulary
from anchortrain.errors import UserError
from anchortrain.roles import Role

# What a language model or a corpus might say to get out of a value, and what looks like it after normalisation.
HOSTILE = [
    *CONTROLS,
    "</ann",
    "; ",
    ";",
    "\uff1b",
    "\u037e",
    "\ufe54",
    "\uff1cann\uff1e",
    "<|im_end|>",
    "topic: ",
    "\x00",
]
HOSTILE += [
    "\u2028",
    "\x85",
    "\u200b",
    "\u202e",
    "\ud800",
    "<<ann>ann>",
    "&lt;ann&gt;",
    "\n\n",
    "\u00a0",
    "[INST]",
    "İ",
]
TEXTS = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), max_size=12).map("".join)
STORIES = load_schema("stories")
KEYS = st.builds(Key, st.just("topic"), words=st.integers(1, 60), case=st.sampled_from(["lower", "keep"]))


def check(value):
    assert not set(value) & set(";<>") and value == value.strip() and 0 < len(value) <= MAX_VALUE_CHARACTERS
    assert not any(unicodedata.category(c)[0] == "C" for c in value)
    assert not any(control in value for control in CONTROLS)


@given(KEYS, TEXTS)
def test_a_value_is_plain_text_whatever_goes_in(key, text):
    value = key.value(text)
    if value is not None:
        check(value)
        assert len(value.split()) <= key.words
        assert parse(render((Tag("topic", value),))) == (("topic", value),)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["topic", "character", "sentiment", "other", "<ann>"]), st.lists(TEXTS)))
def test_an_annotation_is_what_is_read_back(found):
    tags = STORIES.annotation(found, "prose")
    assert parse(render(tags)) == tags and len(tags) <= STORIES.max_tags
    assert len({(key, value.lower()) for key, value in tags}) == len(tags)


@settings(max_examples=50)
@given(st.lists(TEXTS, min_size=1), TEXTS)
def test_no_value_has_a_control_token(tokenizer, texts, prompt):
    vocabulary = Vocabulary.from_path(str(tokenizer))
    key = Key("topic", words=60, case="keep")
    tags = tuple(Tag("topic", value) for text in texts if (value := key.value(text)) is not None)
    prompt = prompt.encode("utf-8", "replace").decode()
    document = Document("x", (Chunk(prompt or "a", tags), Chunk("b", tags)), "")
    for record in (document, Instruction("x", prompt, "b", tags, "")):
        for segment in interleave(record):
            for piece in segment.head + segment.body:
                if not piece.control:
                    assert not vocabulary.control_ids & set(vocabulary.encode(piece.text))
                elif piece.role == Role.ANNOTATION_VALUE:
                    pytest.fail("a value is no control")


@pytest.mark.parametrize(
    ("text", "lower", "keep"),
    [
        ("  The\n Fox.", "the fox", "The Fox"),
        ("fox; topic: mill", "fox, topic: mill", "fox, topic: mill"),
        ("a</ann> b<ann>; <user>", "a b", "a b"),
        ("\uff1c/ann\uff1e\uff26ox\uff1b hen", "fox, hen", "Fox, hen"),
        ("<|im_end|>fox <", "fox", "fox"),
        ("Na\u0308he", "nähe", "Nähe"),
        ("«Tom Thumb»'s ", "«tom thumb»'s", "«Tom Thumb»'s"),
        ("...", None, None),
        ("", None, None),
        ("\ud800\x00", None, None),
        ("one two three four five", "one two three four", "one two three four"),
    ],
)
def test_values(text, lower, keep):
    assert Key("topic").value(text) == lower
    assert Key("topic", case="keep").value(text) == keep


def test_long_values_and_closed_lists():
    assert Key("topic").value("one two three four five", cut=False) is None
    assert Key("topic", words=9).value("x" * 300) == "x" * MAX_VALUE_CHARACTERS
    closed = Key("language", values=("C++", "French"), case="lower")
    assert [closed.value(text) for text in ("c++", "FRENCH.", "German")] == ["C++", "French", None]


def schema(**changes):
    keys = (Key("topic", most=2), Key("name", case="keep", most=2, suits=("prose",)), Key("tone", values=("sad",)))
    return Schema("mine", "", keys, **({"suits": ("prose", "verse"), "max_tags": 4} | changes))


def test_tags_are_in_order_each_once_and_the_best_of_each_key_come_first():
    found = {
        "tone": ["glad", "Sad"],
        "name": ["Ann", "ann", "Bob", "Cid"],
        "topic": ["Sea", "sea ", "ship", "sky"],
        "x": ["y"],
    }
    all_of_them = (("topic", "sea"), ("topic", "ship"), ("name", "Ann"), ("name", "Bob"), ("tone", "sad"))
    assert schema(max_tags=9).annotation(found, "prose") == all_of_them
    assert schema().annotation(found, "prose") == tuple(one for one in all_of_them if one[1] != "Bob")
    assert schema(max_tags=2).annotation(found, "prose") == (("topic", "sea"), ("name", "Ann"))
    assert schema().annotation(found, "verse") == (("topic", "sea"), ("topic", "ship"), ("tone", "sad"))
    assert schema().annotation(found, "code") == () == schema().annotation({}, "prose")
    assert schema().annotation({"topic": ["a b c d e", "f"]}, "prose", cut=False) == (("topic", "f"),)
    assert [key.name for key in schema().keys_for("verse")] == ["topic", "tone"]
    assert schema().keys_for("list") == () and schema().key("tone").values == ("sad",) and schema().key("x") is None


@pytest.mark.parametrize("name", schema_names())
def test_our_schemas(name):
    ours = load_schema(name)
    assert ours.name == name and ours.about and len(ours.keys) >= 4 and all(key.about for key in ours.keys)
    assert set(ours.suits) <= set(TYPES) and any(ours.keys_for(kind) for kind in TYPES)
    for key in ours.keys:
        assert all(key.value(value) == value for value in key.values)
    assert ours.to_json() == dataclasses.asdict(ours)


def test_the_users_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[keys.course]\nvalues = ["starter"]\ncues = {starter = ["soup"]}\n[keys.dish]\nmost = 2')
    found = load_schema(str(path))
    assert (found.name, found.max_tags, found.suits) == ("mine", 6, TYPES)
    assert found.keys[0] == Key("course", values=("starter",), offline="cues", cues={"starter": ("soup",)})


BAD = [
    ("keys = ", "bad TOML: "),
    ("about = 'x'", "the schema has no keys"),
    ("kind = 3\n[keys.a]", "unknown field 'kind' of the schema"),
    ("max_tags = 0\n[keys.a]", "max_tags must be at least 1, got 0"),
    ("max_tags = true\n[keys.a]", "max_tags of the schema must be of type int, got True"),
    ("suits = ['poem']\n[keys.a]", "suits: unknown type of chunk 'poem'"),
    ("[keys.Topic]", "annotation key 'Topic' must be lower-case"),
    ("[keys.'a;']", "annotation key 'a;' must be lower-case"),
    ("keys.a = 3", "keys.a must be a table"),
    ("[keys.a]\nvalue = ['x']", "unknown field 'value' of keys.a; did you mean 'values'?"),
    ("[keys.a]\nmost = 0", "keys.a.most must be at least 1, got 0"),
    ("[keys.a]\nwords = -1", "keys.a.words must be at least 1, got -1"),
    ("[keys.a]\ncase = 'upper'", "keys.a.case must be 'lower' or 'keep', got 'upper'"),
    ("[keys.a]\nvalues = [1]", "keys.a.values must be a list of strings, got [1]"),
    ("[keys.a]\nvalues = ['x; y']", "keys.a: the value 'x; y' is not allowed"),
    ("[keys.a]\nvalues = ['<ann>']", "keys.a: the value '<ann>' is not allowed"),
    ("[keys.a]\nwords = 1\nvalues = ['x y']", "keys.a: the value 'x y' is not allowed"),
    ("[keys.a]\nvalues = ['x']\ncues = {y = ['z']}", "keys.a: the value 'y' is not allowed"),
    ("[keys.a]\ncues = {y = 'z'}", "keys.a.cues.y must be a list of strings, got 'z'"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_mistakes_name_the_field(text, message):
    with pytest.raises(UserError) as caught:
        parse_schema(text, "mine", "mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {message}") and "\n" not in str(caught.value)


def test_schemas_that_cannot_be_read(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown schema 'story'; did you mean 'stories'\?.*\(or give a \*.toml file\)"
    ):
        load_schema("story")
    with pytest.raises(UserError, match="absent.toml: cannot read the schema: No such file"):
        load_schema("absent.toml")
    (tmp_path / "a.toml").write_bytes(b"about = '\xe9'")
    with pytest.raises(UserError, match="the schema is not UTF-8 text"):
        load_schema(str(tmp_path / "a.toml"))
