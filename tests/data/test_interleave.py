"""Roles on hand-written rows, piece by piece and token by token."""

from anchortrain.annotation import Tag
from anchortrain.data.interleave import Piece, interleave, interleave_document, interleave_instruction
from anchortrain.data.records import Chunk, Document, Instruction
from anchortrain.roles import Role

PROMPT, KEY, VALUE, TEXT = Role.PROMPT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT
PLAN = (Tag("hero", "fox"), Tag("place", "old mill"))
OPENED = [
    Piece("<ann>", KEY, True),
    Piece("hero:", KEY),
    Piece(" fox", VALUE),
    Piece("; place:", KEY),
    Piece(" old mill", VALUE),
    Piece("</ann>", KEY, True),
]


def flat(segments):
    return [piece for segment in segments for piece in segment.head + segment.body]


def test_a_document():
    document = Document("d", (Chunk("A fox.\n\n", PLAN), Chunk("It ran.", None), Chunk(" End", ())), "f:1")
    segments = interleave_document(document)
    assert flat(segments) == [
        *OPENED,
        Piece("A fox.\n\n", TEXT),
        Piece("It ran.", TEXT),
        Piece("<ann>", KEY, True),
        Piece("</ann>", KEY, True),
        Piece(" End", TEXT),
        Piece("<eos>", TEXT, True),
    ]
    assert [segment.keys for segment in segments] == [("hero", "place"), (), ()]
    assert [len(segment.head) for segment in segments] == [6, 0, 2]


def test_an_instruction():
    instruction = Instruction("i", "Tell me.", "A fox.", PLAN, "f:1")
    (segment,) = interleave_instruction(instruction)
    assert segment.head == ()
    assert list(segment.body) == [
        Piece("<user>", PROMPT, True),
        Piece("Tell me.", PROMPT),
        Piece("<assistant>", PROMPT, True),
        Piece("\n\n", PROMPT),
        *OPENED,
        Piece("A fox.", TEXT),
        Piece("<eos>", TEXT, True),
    ]
    assert segment.keys == ("hero", "place")


def test_the_plain_variant_is_the_same_without_annotations():
    document = Document("d", (Chunk("A fox.\n\n", PLAN), Chunk("It ran.", ())), "f:1")
    instruction = Instruction("i", "Tell me.", "A fox.", PLAN, "f:1")
    for record in (document, instruction):
        annotated, plain = (flat(interleave(record, annotated=one)) for one in (True, False))
        assert plain == [piece for piece in annotated if piece.role in (PROMPT, TEXT)]
        assert all(not segment.keys for segment in interleave(record, annotated=False))


def test_text_that_spells_a_control_stays_text():
    (segment,) = interleave_instruction(Instruction("i", "<eos>", "</ann>", None, "f:1"))
    texts = [piece for piece in segment.body if not piece.control]
    assert texts == [Piece("<eos>", PROMPT), Piece("\n\n", PROMPT), Piece("</ann>", TEXT)]
