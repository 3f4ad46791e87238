"""Types of chunk, on written examples and on the real corpora."""

import gzip
import json
import time
from collections import Counter

import pytest

from anchortrain.annotate.chunk_types import TYPES, chunk_type
from tests.conftest import shared_data

EXAMPLES = {
    "mathematics": [
        "2+3=5 and 4*5=20. So 20/5=4",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nAltogether 48+24 = <<48+24=72>>72 clips.\n#### 72",
        "We have $x^2 = 9$, hence $x = \\pm 3$.",
        "10X = 5\nX = 0.5",
    ],
    "code": [
        "```python\nprint(1)\n```",
        "Here is how:\n\n```\nls -l\n```\nThat is all.",
        "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
        "for (int i = 0; i < 3; i++) {\n  total += i;\n}",
        '#include <stdio.h>\nint main() {\n  printf("1");\n}',
        "SELECT name FROM users\nWHERE age > 3\nORDER BY name;",
        "#!/bin/bash\nfor f in *.txt; do\n  echo $f\ndone",
        "<html>\n<body>\n<p>Hello</p>\n</body>\n</html>",
    ],
    "prose": [
        "",
        " \n ",
        "Once upon a time there lived a king; he had three sons.",
        "“Is it you?” said he.\n“It is.”\n“Come in.”\n“I will.”",
        "It cost $5 in 1998 and $7 in 2004, which is more than the 3-4 dollars (2-3 pounds) of old.",
        "* * *\n\nPoor Mr. Wraxall! He set out on his journey to England on the next day, as he had planned.",
        "The treaty of 1914-1918 was signed; the parties of the first part agreed; the others did not;",
    ],
    "verse": [
        "The cure for this ill is not to sit still,\nOr frowst with a book by the fire;\n"
        "But to take a large hoe and a shovel also,\nAnd dig till you gently perspire;",
    ],
    "list": [
        "1. Apples and pears\n2. Plums\n3. Cherries",
        "Buy:\n- milk\n- two loaves of bread\n- butter",
        "season | game | score\n2011 | Texans at Ravens | 13\n2011 | Browns at Ravens | 10",
    ],
    "heading": ["Chapter the First", "The Sign of the Four"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in EXAMPLES.items() for text in texts])
def test_examples(kind, text):
    assert chunk_type(text) == kind and kind in TYPES


def rows(path):
    with gzip.open(shared_data() / path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_worked_problems_are_mathematics():
    kinds = Counter(chunk_type(row["answer"]) for row in rows("sft/gsm8k_train.jsonl.gz"))
    assert kinds["mathematics"] > 0.99 * kinds.total()


@pytest.mark.parametrize(
    "path", ["corpus/fairytaleqa_stories.jsonl.gz", "corpus/wikipedia_passages_boolq_train.jsonl.gz"]
)
def test_tales_and_articles_are_prose(path):
    texts = [text for row in rows(path) for text in row.get("sections", [row.get("text")])]
    kinds = Counter(map(chunk_type, texts))
    assert kinds["prose"] > 0.995 * len(texts)


def test_verse_of_a_real_book_is_found():
    stories = [row for row in rows("corpus/standardebooks_short_fiction.jsonl.gz") if "just-so" in row["id"]]
    paragraphs = [one for row in stories for one in row["text"].split("\n\n")]
    verses = [one for one in paragraphs if chunk_type(one) == "verse"]
    # Kipling's poems stand at the ends of his stories; nothing else there is verse.
    assert len(verses) >= 10 and all(one.count("\n") >= 2 for one in verses)


@pytest.mark.parametrize(
    "text",
    ["x" * 1_000_000, "$" * 20_000, "$=" * 10_000, " ;" * 10_000, "\n" * 20_000, "- a\n" * 9000, "if " * 9000]
    + ["a.b." * 5000 + "(", " " * 20_000 + "x", "\\" * 20_000, "| a " * 5000, "\0" * 20_000, "import " * 3000],
    ids=lambda text: repr(text[:6]),
)
def test_hostile_text_is_done_in_no_time(text):
    begun = time.process_time()
    assert chunk_type(text) in TYPES
    assert time.process_time() - begun < 0.5
