"""Records in, records out: nothing is lost, fields have the names that the user gives, and mistakes have a place."""

import json

import pytest

from anchortrain.annotate.passages import Answer, Passage
from anchortrain.annotate.records import Names, as_json, parser
from anchortrain.annotation import Tag
from anchortrain.data.records import cut_chunks, parse_document, parse_instruction
from anchortrain.data.sources import Line
from anchortrain.errors import UserError

NAMES = Names("text", "id", "prompt", "response", "messages")
FOX, HEN = Tag("topic", "fox"), Tag("topic", "hen")


def line(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Line(content, "a.jsonl:3", "a.jsonl:3")


def parsed(kind, value, **names):
    return parser(kind, NAMES._replace(**names), cut_chunks)(line(value))


def test_a_document_and_what_becomes_of_it():
    record = parsed("documents", {"id": 7, "text": "A fox.\n\nI\n\nA hen.", "title": "T", "meta": {"year": 1}})
    assert (record.id, record.texts, record.prompt) == ("7", ("A fox.\n\n", "I\n\n", "A hen."), None)
    fields = {"title": "T", "meta": {"year": 1}}
    assert record.passage(0) == Passage("A fox.\n\n", "", "prose", "7", 0, fields)
    assert record.passage(1) == Passage("I\n\n", "A fox.\n\n", "heading", "7", 1, fields)
    product = record.product([Answer((FOX, HEN)), Answer(None), Answer(None, "it broke")])
    assert product == {
        "id": "7",
        "chunks": [
            {"text": "A fox.\n\n", "annotation": {"topic": ["fox", "hen"]}},
            {"text": "I\n\n", "annotation": None},
            {"text": "A hen.", "annotation": None, "failed": "it broke"},
        ],
        **fields,
    }
    document = parse_document(line(product))
    assert document.id == "7" and [chunk.annotation for chunk in document.chunks] == [(FOX, HEN), None, None]


def test_an_instruction_and_what_becomes_of_it():
    record = parsed("instructions", {"prompt": "Tell.", "response": "A fox.\n\nA hen.", "source": "x"})
    assert (record.id, record.prompt, record.texts) == ("a.jsonl:3", "Tell.", ("A fox.\n\nA hen.",))
    assert record.passage(0).before == "Tell."
    product = record.product([Answer(())])
    assert list(product) == ["id", "prompt", "response", "annotation", "source"] and product["annotation"] == {}
    assert parse_instruction(line(product)).annotation == ()
    assert record.product([Answer(None, "no")])["failed"] == "no"


@pytest.mark.parametrize(
    ("value", "names", "texts", "id", "fields"),
    [
        ({"body": "a", "key": "k", "text": 3}, {"text": "body", "id": "key"}, ("a",), "k", {"source_text": 3}),
        ({"id": "k", "text": "a"}, {"id": ""}, ("a",), "a.jsonl:3", {"source_id": "k"}),
        ({"id": None, "text": "a"}, {}, ("a",), "a.jsonl:3", {}),
        ({"sections": ["a", "b\n\n", "c"]}, {"text": "sections"}, ("a\n\n", "b\n\n", "c"), "a.jsonl:3", {}),
        ({"chunks": [{"text": "a"}, {"text": "b"}]}, {}, ("a", "b"), "a.jsonl:3", {}),
        ({"text": "a", "chunks": ["b"]}, {}, ("a",), "a.jsonl:3", {"source_chunks": ["b"]}),
        (
            {"text": "a", "annotation": 1, "failed": 2, "source_failed": 3},
            {},
            ("a",),
            "a.jsonl:3",
            {"source_annotation": 1, "source_failed": 2, "source_source_failed": 3},
        ),
    ],
)
def test_fields_of_documents(value, names, texts, id, fields):
    record = parsed("documents", value, **names)
    assert (record.texts, record.id, record.fields) == (texts, id, fields)
    product = record.product([Answer(None)] * len(texts))
    assert "".join(chunk.text for chunk in parse_document(line(product)).chunks) == "".join(texts)


CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
LAST = {"role": "assistant", "content": "Gone."}


@pytest.mark.parametrize(
    ("value", "names", "prompt"),
    [
        ({"q": "a", "a": "Gone."}, {"prompt": "q", "response": "a"}, "a"),
        ({"i": "a", "n": "b", "o": "Gone."}, {"prompt": "i+n", "response": "o"}, "a\n\nb"),
        ({"i": "a", "n": "", "o": "Gone."}, {"prompt": "i+n", "response": "o"}, "a"),
        ({"i": "a", "n": None, "o": "Gone."}, {"prompt": "i+n", "response": "o"}, "a"),
        ({"i": "a", "o": "Gone."}, {"prompt": "i+n", "response": "o"}, "a"),
        ({"messages": [CHAT[0], LAST]}, {}, "Hi."),
        ({"messages": [LAST]}, {}, ""),
        ({"messages": [*CHAT, LAST]}, {}, "User: Hi.\n\nAssistant: Yes?\n\nUser: Go"),
        ({"turns": [{"role": "system", "content": "Be."}, CHAT[0], LAST]}, {"messages": "turns"}, "Be.\n\nUser: Hi."),
        ({"messages": [{"role": "system", "content": None}, CHAT[0], LAST]}, {}, "Hi."),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}, LAST]}, {}, "Hi."),
        ({"messages": "ignored", "prompt": "a", "response": "Gone."}, {}, "a"),
    ],
)
def test_prompts_and_chats(value, names, prompt):
    record = parsed("instructions", value, **names)
    assert (record.prompt, record.texts) == (prompt, ("Gone.",))
    assert parse_instruction(line(record.product([Answer(None)]))).prompt == prompt


def message(**changes):
    return {"messages": [{"role": "user", "content": "Hi.", **changes}, LAST]}


BAD = [
    ("documents", [1], "a record must be a JSON object, got a list"),
    ("documents", b'{"text": "caf\xe9"}', "invalid UTF-8 at byte 14 of the line"),
    ("documents", b'{"text": "a\0"}', "broken JSON at column 12"),
    ("documents", b"1" * 5000, "broken JSON: a number with too many digits"),
    ("documents", b"[" * 100_000, "broken JSON: nested too deeply"),
    ("documents", {"body": "a"}, "no field 'text' (there is 'body'); name it: --text_field NAME"),
    (
        "documents",
        {"response": "a"},
        "no field 'text' (there is 'response'); name it: --text_field NAME (or --kind ins",
    ),
    ("documents", {}, "no field 'text' (there is nothing)"),
    ("documents", {"text": ""}, "field 'text' is empty"),
    ("documents", {"text": None}, "field 'text' must be a string, got null"),
    ("documents", {"text": []}, "field 'text' is empty"),
    ("documents", {"text": ["a", ""]}, "field 'text[1]' is empty"),
    ("documents", {"text": ["a", 3]}, "field 'text[1]' must be a string, got a number"),
    ("documents", {"text": [{"body": "a"}]}, "no field 'text' in text[0]"),
    ("documents", {"text": "\ud800"}, "field 'text' has a lone surrogate at character 1"),
    ("documents", {"text": "a", "id": ["x"]}, "field 'id' must be a string, got a list"),
    ("documents", {"text": "a", "id": "\ud800"}, "field 'id' has a lone surrogate"),
    ("instructions", {"text": "a"}, "no field 'prompt' and no 'messages' (there is 'text'); name it: --prompt_field"),
    (
        "instructions",
        {"prompt": "a"},
        "no field 'response' and no 'messages' (there is 'prompt'); name it: --response_f",
    ),
    ("instructions", {"prompt": "a", "response": ""}, "field 'response' is empty"),
    ("instructions", {"prompt": 1, "response": "a"}, "field 'prompt' must be a string, got a number"),
    ("instructions", {"messages": []}, "field 'messages' must be a list of messages, got an empty one"),
    ("instructions", {"messages": "Hi."}, "field 'messages' must be a list of messages, got a string"),
    ("instructions", {"messages": ["Hi."]}, "messages[0] is no message; a message has a 'role' (user, assistant,"),
    ("instructions", message(role="User"), "messages[0] is no message"),
    ("instructions", message(role=["user"]), "messages[0] is no message"),
    ("instructions", message(content=3), "field 'messages[0].content' must be a string, got a number"),
    (
        "instructions",
        message(content=[{"type": "image_url"}]),
        "field 'messages[0].content' must be a string, got a li",
    ),
    ("instructions", message(content="\udfff"), "field 'messages[0].content' has a lone surrogate"),
    ("instructions", {"messages": [*CHAT]}, "the last message of 'messages' is not an answer of the assistant"),
    ("instructions", {"messages": [LAST | {"content": ""}]}, "the last message of 'messages' is not an answer"),
]


@pytest.mark.parametrize(("kind", "value", "text"), BAD)
def test_mistakes_name_place_and_field(kind, value, text):
    with pytest.raises(UserError) as caught:
        parsed(kind, value)
    assert str(caught.value).startswith(f"a.jsonl:3: {text}")


def test_an_annotation_as_json():
    assert as_json((FOX, HEN, Tag("tone", "sad"))) == {"topic": ["fox", "hen"], "tone": "sad"}
    assert as_json(()) == {}
