"""Information between annotations and texts: known amounts are found, none is found where there is none."""

import json
import math
import random

import numpy as np
import pytest

from anchortrain.annotate.report.information import measure
from anchortrain.annotate.report.language_model import LanguageModel
from anchortrain.annotate.report.likelihood import encode, fit, gains, vocabulary_of
from anchortrain.annotate.report.recovery import recover, shift, vectorise
from anchortrain.annotate.report.sample import SampledChunk, SampledDocument, split
from anchortrain.annotate.report.statistics import make_report
from anchortrain.annotate.report.words import words
from anchortrain.annotation import make_tag
from anchortrain.data.fairytale import write_fairytale
from tests.conftest import shared_data

COLOURS = ("red", "green", "blue", "gold")


def chunk(text, tags):
    annotation = None if tags is None else tuple(make_tag(*tag) for tag in tags)
    return SampledChunk(text, annotation, None, 1, 1, False)


def corpus(documents=150, chunks=4, length=12):
    """Words of a colour's own 20, drawn evenly; `noise` is a coin; `copy` spells one word of the text out.

    I(colour; text) is 2 bits a chunk. Told the colour, a word costs log2 20 bits.
    """
    draw = random.Random(0)
    found = []
    for d in range(documents):
        rows = []
        for _ in range(chunks):
            colour = draw.choice(COLOURS)
            text = [f"{colour}{draw.randrange(20)}" for _ in range(length)]
            tags = [("colour", colour), ("noise", draw.choice("ab")), ("copy", draw.choice(text)), ("same", "x")]
            rows.append(chunk(" ".join(text), tags))
        found.append(SampledDocument(f"d{d}", tuple(rows)))
    return found


@pytest.fixture(scope="module")
def documents():
    return corpus()


@pytest.fixture(scope="module")
def figures(documents):
    steps = []
    found = measure(documents, steps.append)
    assert {"language model", "identification", "colour"} <= set(steps)
    return found


def test_a_tag_that_the_text_tells_is_recovered_in_full(figures):
    colour, noise = figures["recovery"]["colour"], figures["recovery"]["noise"]
    assert colour["entropy"] == pytest.approx(2, abs=0.1)
    assert 0.97 < colour["share"] <= 1 and colour["accuracy"] > 0.98 and colour["majority"] < 0.5
    assert abs(colour["control_bits"]) < 0.05 + 3 * colour["control_error"] < 0.3
    assert abs(noise["bits"]) < 0.05 + 3 * noise["error"] < 0.2
    assert "same" not in figures["recovery"]  # one class: nothing to tell


def test_a_binary_tag_with_half_of_its_information_in_the_text():
    """The text tells the tag in half of the chunks and nothing in the others: I = 0.5 bits."""
    draw = random.Random(1)
    rows = []
    for d in range(1500):
        side, told = draw.choice("lr"), draw.random() < 0.5
        rows.append(SampledDocument(f"d{d}", (chunk(f"unit{d} {side * 3 if told else 'quiet'}", [("side", side)]),)))
    found = recover("side", vectorise(split(rows)))
    assert found.bits == pytest.approx(0.5, abs=0.07)
    assert found.accuracy == pytest.approx(0.75, abs=0.06)
    assert 0 < found.error < 0.05


def test_saving_is_in_proportion_and_the_control_is_zero(figures):
    saving = figures["saving"]["all"]
    keys = saving["keys"]
    # The word before tells much of the colour.
    assert math.log2(20) + 0.3 < saving["bits_per_word_without"] < math.log2(80)
    assert saving["bits_per_word_with"] == pytest.approx(math.log2(20), abs=0.1)
    assert keys["colour"]["bits_per_word"] > 0.5
    for key, one in keys.items():
        assert abs(one["control_bits_per_word"]) < 0.02, key
    for key in ("noise", "same"):
        assert abs(keys[key]["bits_per_word"]) < 0.02, key
    assert saving["bits_per_chunk"] == pytest.approx(12 * saving["bits_per_word"])


def test_copied_words_are_discounted(figures):
    """`copy` tells the colour of all words, and one word itself, which must not count."""
    spelled, rest = (figures["saving"][name]["keys"]["copy"] for name in ("all", "not_spelled"))
    assert spelled["bits_per_chunk"] > 1.5 + rest["bits_per_chunk"] > 2.5
    assert rest["words"] < spelled["words"]


def test_an_annotation_that_only_copies_saves_nothing_else():
    draw = random.Random(2)
    rows = []
    for d in range(150):
        chunks = []
        for _ in range(4):
            text = [f"w{draw.randrange(60)}" for _ in range(15)]
            chunks.append(chunk(" ".join(text), [("copy", draw.choice(text))]))
        rows.append(SampledDocument(f"d{d}", tuple(chunks)))
    own, _ = fit(split(rows), ["copy"])
    assert gains(own).all.per_chunk > 1
    rest = gains(own, without_spelled=True).all
    assert abs(rest.per_chunk) < 0.15 + 3 * rest.error * 15


def test_identification_is_bounded_and_chance_for_the_control(figures):
    """Two bits for the colour, and what the copied word adds."""
    found = figures["identification"]
    assert found["most_bits"] == math.log2(found["candidates"])
    assert 1.9 < found["bits"] <= found["most_bits"]
    assert found["first"] > 5 / found["candidates"]
    assert found["control_first"] < 3 / found["candidates"] and abs(found["control_bits"]) < 0.1


@pytest.mark.parametrize("without", [False, True])
def test_the_model_is_a_distribution(documents, without):
    """Over the whole vocabulary, less what is spelled out, probabilities sum to 1."""
    parts = split(documents)
    vocabulary = vocabulary_of(parts.train)
    keys = ["colour", "copy"]
    texts = encode([one for document in parts.train for one in document.chunks], vocabulary, keys)
    model = LanguageModel(texts, texts, len(vocabulary) + 1, keys)
    weights = model.mixture(texts, without_spelled=without).fit()
    some = encode([parts.test[0].chunks[0]], vocabulary, keys)
    (known,) = some.values
    spelled = {word for one in known.values() for word in one} if without else set()
    left = np.array([word for word in range(len(vocabulary) + 1) if word not in spelled])
    for previous in some.previous[:3]:
        every = some._replace(
            word=left,
            previous=np.full(len(left), previous),
            chunk=np.zeros(len(left), dtype=int),
            spelled=np.zeros(len(left), dtype=bool),
        )
        total = np.exp2(model.mixture(every, without_spelled=without).log2(weights)).sum()
        assert total == pytest.approx(1, abs=1e-4)


def test_shifting_keeps_chunks_together():
    assert shift([1, 2, 3, 4, 5, 6]) == [4, 5, 6, 1, 2, 3]
    assert shift([]) == []


def test_words():
    assert words("It's a FOX — 狐 and 42 foxes.") == ["it's", "a", "fox", "狐", "and", "42", "foxes"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "there are 0 and 0"),
        ([SampledDocument("one", tuple(chunk("a b", [("k", "v")]) for _ in range(500)))], "there are 1 and 500"),
        ([SampledDocument(f"d{i}", (chunk("same text", [("k", "v")]),)) for i in range(100)], "too few different"),
    ],
)
def test_too_little_is_said(rows, said):
    found = measure(rows)
    assert not found["measured"] and said in found["reason"]


@pytest.mark.parametrize("text", ["!!! {}", "{}", "wort {}", "\u202e{} \x00"])
@pytest.mark.parametrize("tag", ["v", "v{}"])
def test_odd_texts_and_tags_give_finite_figures(text, tag):
    """No words, one word, only new words; one value or always another: never NaN."""
    rows = [
        SampledDocument(f"d{i}", (chunk(text.format("." * (i + 1)), [("k", tag.format(i))]), chunk(f"t{i}", None)))
        for i in range(120)
    ]
    assert json.dumps(measure(rows), allow_nan=False)  # which raises on NaN


def test_human_labels_of_real_tales(tmp_path):
    """Short answers of people: they copy words of the section and tell little else, and the control tells nothing."""
    write_fairytale(shared_data(), tmp_path)
    files = [tmp_path / f"documents_{part}.jsonl" for part in ("heldout", "train")]
    figures = make_report(files, sample=2000).figures
    assert figures["corpus"]["documents"] == 278 and figures["corpus"]["chunks"] == 4095
    saving, identification = figures["information"]["saving"], figures["information"]["identification"]
    assert saving["all"]["bits_per_chunk"] > 5 > 1 > abs(saving["not_spelled"]["bits_per_chunk"])
    assert abs(saving["all"]["control_bits_per_chunk"]) < 0.3
    assert identification["first"] > 0.3 and identification["control_first"] < 0.05
    assert 0 < figures["pays"]["ratio"] < 1
    json.dumps(figures, allow_nan=False)
