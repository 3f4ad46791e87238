"""Chunks are the document byte for byte, and within their limits."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchortrain.annotate.chunking import chunks, count_words, counter, split
from anchortrain.annotate.config import ChunkConfig
from anchortrain.data.records import cut_chunks, read_documents
from tests.conftest import shared_data

TEXTS = st.text(
    st.one_of(st.sampled_from("a b.\n\n\t\r,;:。、日本한 \u2028\u3000🦊é'"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=400,
)
SENTENCES = st.lists(
    st.sampled_from(["The fox ran.\n\n", "It, then,", " slept! ", "\n", "\n \n", "日本。"]), min_size=1
)
LIMITS = st.tuples(st.integers(0, 20), st.integers(2, 30)).map(lambda pair: (min(pair), max(pair[1], 2)))


def check(text, config, count):
    found = chunks(text, config, count)
    assert "".join(found) == text
    sizes = [count(chunk) for chunk in found]
    assert all(size <= config.max_tokens or len(chunk) == 1 for size, chunk in zip(sizes, found, strict=True))
    if count is count_words and max(map(count, cut_chunks(text))) <= config.max_tokens:  # nothing was cut
        for size, following in itertools.pairwise(sizes):
            assert size >= config.min_tokens or size + following > config.max_tokens
    return found


@given(st.one_of(TEXTS, SENTENCES.map("".join)), LIMITS)
def test_joined_they_are_the_document_and_none_is_too_long(text, limits):
    check(text, ChunkConfig(*limits), count_words)


@given(st.one_of(TEXTS, SENTENCES.map("".join)), LIMITS)
def test_in_tokens_of_a_tokenizer(tokenizer, text, limits):
    config = ChunkConfig(*limits, tokenizer=str(tokenizer))
    check(text, config, counter(config))


@given(st.text(alphabet="🦊。 \n", min_size=1, max_size=6))
def test_any_cost_of_a_character(text):
    check(text, ChunkConfig(0, 2), lambda text: 5 * len(text))


@given(st.text(alphabet="ab日 .\n한é", max_size=60), st.text(alphabet="ab日 .\n한é", max_size=60))
def test_two_texts_have_no_more_tokens_together_than_apart(a, b):
    assert count_words(a + b) <= count_words(a) + count_words(b)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("  \n", 0), ("The fox, it ran.", 6), ("x" * 25, 3), ("日本語です", 5), ("ab日本", 3), ("a_b c-d", 4)],
)
def test_tokens_without_a_tokenizer(text, tokens):
    assert count_words(text) == tokens


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ((0, 100), ["I\n\n", "One two three.\n\n", "II\n\n", "Four five six seven.\n\n", "The end.\n"]),
        ((2, 100), ["I\n\nOne two three.\n\n", "II\n\nFour five six seven.\n\n", "The end.\n"]),
        ((4, 100), ["I\n\nOne two three.\n\n", "II\n\nFour five six seven.\n\nThe end.\n"]),
        ((4, 6), ["I\n\nOne two three.\n\n", "II\n\nFour five six seven.\n\n", "The end.\n"]),
        ((4, 5), ["I\n\nOne two three.\n\n", "II\n\n", "Four five six seven.\n\n", "The end.\n"]),
        ((3, 3), ["I\n\nOne two ", "three.\n\nII\n\n", "Four five ", "six seven.\n\n", "The end.\n"]),
    ],
)
def test_short_ones_are_joined_and_long_ones_cut(limits, found):
    text = "I\n\nOne two three.\n\nII\n\nFour five six seven.\n\nThe end.\n"
    assert chunks(text, ChunkConfig(*limits)) == found


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One two, three. Four five six.", ["One two, three. ", "Four five six."]),
        ("one two three\nfour five six", ["one two three\n", "four five six"]),
        ("one two three, four five six", ["one two three, ", "four five six"]),
        ("one two three four five six", ["one two three ", "four five six"]),
        ("日本語です。日本語です。", ["日本語です。", "日本語です。"]),
    ],
)
def test_cuts_are_where_a_reader_would_pause(text, pieces):
    tokens = count_words(text)
    assert [piece for piece, _ in split(text, tokens, round(0.65 * tokens), count_words)] == pieces


def test_real_stories(tokenizer):
    config = ChunkConfig(24)
    stories = list(read_documents([shared_data() / "corpus" / "standardebooks_short_fiction.jsonl.gz"]))[:150]
    sizes = []
    for story in stories:
        text = "".join(chunk.text for chunk in story.chunks)
        sizes += map(count_words, check(text, config, count_words))
    assert 40 < sum(sizes) / len(sizes) < 300
    assert sum(size < config.min_tokens for size in sizes) < 0.01 * len(sizes)


@pytest.mark.parametrize("text", ["word " * 200_000, "x" * 1_000_000, "a\n\n" * 100_000, "\n \n" * 300_000 + "a"])
def test_time_is_in_proportion_to_the_length(text):
    def seconds(text):
        started = time.process_time()
        found = chunks(text, ChunkConfig(24))
        assert "".join(found) == text
        return time.process_time() - started

    seconds(text[: len(text) // 8])
    assert seconds(text) < 30 * max(seconds(text[: len(text) // 8]), 0.02)


def test_paragraphs_are_those_of_prepare():
    text = "One.\n\n\n Two.\r\n\r\nThree.\n"
    assert chunks(text, ChunkConfig(0, 100)) == cut_chunks(text)
