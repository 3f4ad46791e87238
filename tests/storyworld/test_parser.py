"""The parser recovers every attribute and judges form exactly."""

import re
import time

import numpy as np
import pytest

from anchortrain.annotation import from_json
from anchortrain.storyworld import render
from anchortrain.storyworld.values import ATTRIBUTES, PHRASES, WORD_VALUES
from anchortrain.storyworld.world import World


def _text(document):
    return "".join(chunk["text"] for chunk in document["chunks"])


def _documents(seed, n):
    world, rng = World.from_seed(seed), np.random.default_rng(seed)
    for latent in world.sample_latents(n, rng):
        yield World.attributes(latent), world.document(latent, rng)


def _responses(seed, n):
    world, rng = World.from_seed(seed), np.random.default_rng(seed)
    for latent in world.sample_latents(n, rng, rho=0.5):
        yield World.attributes(latent), world.instruction(latent, "Tell me a story.", rng)["response"]


def _parse(text):
    return World.from_seed(0).parse(text)


@pytest.fixture(scope="module")
def document():
    """A document of every style, in one and in two chunks."""
    found = {}
    for _, record in _documents(0, 400):
        text = _text(record)
        found.setdefault((text.split()[0], len(record["chunks"])), text)
    return list(found.values())


@pytest.fixture(scope="module")
def filler():
    """Every word that the grammar writes beside the word values."""
    templates = [
        render.ASSISTANT,
        render.OPENING,
        render.HEADING,
        *(t for style in render.STYLES for t in (style.first, style.second)),
    ]
    pieces = [p for t in templates for choice in t.choices for alternative in choice for p in alternative]
    texts = [piece for piece in pieces if not piece.startswith("{")]
    texts += [phrase for values in PHRASES.values() for pair in values.values() for phrase in pair]
    return set(re.findall(r"\w+", " ".join(texts + render.prompts())))


@pytest.mark.parametrize("seed", range(3))
def test_every_attribute_of_every_document(seed):
    world = World.from_seed(seed)
    for latent, record in _documents(seed, 3000):
        assert world.parse(_text(record)) == (latent, "document")


@pytest.mark.parametrize("seed", range(3))
def test_every_attribute_of_every_response(seed):
    world = World.from_seed(seed)
    for latent, response in _responses(seed, 1000):
        assert world.parse(response) == (latent, "assistant")


def test_chunks_express_their_annotation_and_nothing_else():
    """Each chunk by itself names exactly the attributes of its annotation, in canonical order; an opening has none."""
    shapes = set()
    for latent, record in _documents(5, 1000):
        merged = {}
        for chunk in record["chunks"]:
            expressed = {name: value for name, value in _parse(chunk["text"]).attributes.items() if value}
            annotation = chunk.get("annotation", {})
            assert list(annotation.items()) == list(expressed.items())
            assert [tag.key for tag in from_json(annotation)] == list(expressed)
            merged |= expressed
        assert merged == latent
        shapes.add(tuple("annotation" in chunk for chunk in record["chunks"]))
    assert shapes == {(True,), (False, True), (False, True, True)}


def test_only_the_first_chunk_ends_in_a_blank_line():
    for _, record in _documents(6, 300):
        *before, last = [chunk["text"] for chunk in record["chunks"]]
        assert all(re.fullmatch(r"(?:(?!\n\n).)+\n\n", text, re.DOTALL) for text in before)
        assert "\n\n" not in last and last == last.strip()


def test_every_style_of_every_chunking_is_written():
    starts = {
        (style.name, len(record["chunks"]))
        for _, record in _documents(7, 500)
        for style in render.STYLES
        if _matches(style, _text(record))
    }
    assert starts == {(style.name, n) for style in render.STYLES for n in (1, 2, 3)}


def _matches(style, text):
    """Whether a literal that is peculiar to the style occurs."""
    peculiar = {
        "diary": "my new friend",
        "news": "Many people|Two children",
        "letter": "(?m)^Dear",
        "gossip": "(?m)^- Have",
    }
    return re.search(peculiar.get(style.name, "year of the"), text) is not None


def test_values_stand_after_a_space():
    """So that a value has the same tokens in a tag and in the text."""
    values = "|".join(value for values in WORD_VALUES.values() for value in values)
    for _, record in _documents(8, 500):
        text = _text(record)
        assert len(re.findall(values, text)) == len(re.findall(rf" (?:{values})\b", text))


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9])
def test_one_foreign_word_breaks_the_form_and_nothing_else(document, at):
    for text in [*document, next(_responses(0, 1))[1]]:
        spots = [m for m in re.finditer(r"[A-Za-z]+", text) if not _is_meaningful(text, m)]
        spot = spots[int(at * len(spots))]
        corrupted = text[: spot.start()] + "zzz" + text[spot.end() :]
        assert _parse(corrupted).form is None
        assert _parse(corrupted).attributes == _parse(text).attributes


def _is_meaningful(text, match):
    """Whether the word at `match` is needed to spot an attribute."""
    without = text[: match.start()] + "zzz" + text[match.end() :]
    return _parse(without).attributes != _parse(text).attributes


def test_truncation_and_additions_break_the_form(document):
    for text in [*document, next(_responses(0, 1))[1]]:
        words = text.split(" ")
        for changed in (" ".join(words[:-1]), " ".join(words[1:]), text[:-1], text + " ", text + "\n", text + text):
            assert _parse(changed).form is None, changed


def test_another_value_makes_an_attribute_contradictory():
    for latent, response in _responses(1, 50):
        other = next(value for value in ATTRIBUTES["hero"] if value != latent["hero"])
        story = _parse(response[::-1].replace(latent["hero"][::-1], other[::-1], 1)[::-1])
        assert story.attributes == latent | {"hero": None}
        assert story.form is None


def test_missing_and_ambiguous_attributes():
    nothing = dict.fromkeys(ATTRIBUTES)
    assert _parse("") == (nothing, None)
    assert _parse("Once upon a time there was a fox").attributes == nothing | {"hero": "fox"}
    assert _parse("both sides shook hands. no one was poor again.").attributes == nothing
    assert _parse("both sides shook hands. old enemies sat down together.").attributes == nothing | {"ending": "truce"}
    assert _parse("foxes in lighthouses, underdrums").attributes == nothing


def test_values_are_disjoint_and_no_part_of_other_words(filler):
    values = [value for values in ATTRIBUTES.values() for value in values]
    for value in values:
        assert re.fullmatch("[a-z]+", value)
        hosts = [word for word in [*values, *filler] if value in word.lower()]
        assert hosts == [value]


def test_phrases_are_no_part_of_each_other_or_of_the_frame():
    phrases = [phrase for values in PHRASES.values() for pair in values.values() for phrase in pair]
    assert len(set(phrases)) == 2 * (8 + 8)
    for phrase in phrases:
        assert [other for other in phrases if phrase in other] == [phrase]


def test_vocabulary_is_small(filler):
    assert len(filler) + sum(map(len, WORD_VALUES.values())) <= 370


def test_parser_reads_2000_texts_a_second():
    texts = [_text(record) for _, record in _documents(9, 2000)]
    world = World.from_seed(0)
    start = time.process_time()
    for text in texts:
        world.parse(text)
    assert time.process_time() - start < 1.0
