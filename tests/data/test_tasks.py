"""SeqIO tasks, the feature converter and `prepare`: everything that needs TensorFlow, imported once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf

from anchortrain.data.feature_converter import RoleFeatureConverter
from anchortrain.data.rows import RowMaker
from anchortrain.data.sources import Line
from anchortrain.data.tasks import add_mixture, add_task, make_task
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.roles import Role, loss_weights
from tests.conftest import shared_data

LENGTHS = {"targets": 48, "roles": 48}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """600 documents of one or two annotated chunks, in two files."""
    rng = np.random.default_rng(0)
    words = "the fox ran to mill hen <ann> </ann> <eos> é".split()
    paths = [tmp_path_factory.mktemp("documents") / f"{name}.jsonl" for name in "ab"]
    for path in paths:
        records = []
        for i in range(300):
            texts = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(rng.integers(1, 3))]
            annotations = [{"hero": str(rng.choice(["fox", "hen"]))} for _ in texts]
            records.append({"id": f"{path.stem}{i}", "text": "\n\n".join(texts), "annotations": annotations})
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return paths


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    path = tmp_path_factory.mktemp("instructions") / "i.jsonl"
    record = {"prompt": "the fox", "response": "ran to <eos>", "annotation": {"hero": "fox"}}
    path.write_text("".join(json.dumps(record | {"id": f"i{i}"}) + "\n" for i in range(50)))
    return path


def unpadded(task, split="train"):
    """(id, tokens, roles) of every example."""
    for batch in task.examples(split):
        for id, tokens, roles in zip(batch["id"], batch["targets"], batch["roles"], strict=True):
            n = np.count_nonzero(roles)
            yield id.decode(), tokens[:n].tolist(), roles[:n].tolist()


@pytest.fixture(params=["tokenizer.json", "tokenizer.model"])
def either_vocabulary(request, vocabulary):
    if request.param == "tokenizer.json":
        return vocabulary
    return Vocabulary.from_path(shared_data() / "tokenizers" / "sentencepiece_test_model_1000.model")


def test_a_task_gives_what_its_parts_say(documents, either_vocabulary):
    """In the graph and beside it, with both kinds of tokenizer, tokens and roles are those of plain Python."""
    found = list(unpadded(make_task("t", kind="documents", files=documents, vocabulary=either_vocabulary)))
    lines = [Line(line, "f:1", "f:1") for path in documents for line in path.read_bytes().splitlines()]
    settings = {"annotated": True, "max_length": None, "long": "split", "unannotated_share": 0.0}
    maker = RowMaker(either_vocabulary, kind="documents", **settings)
    pieces = maker.pieces(lines)
    tokens = [either_vocabulary.encode(text.decode()) for text in pieces.texts_D]
    flat = np.array([token for one in tokens for token in one], np.int32)
    rows = maker.rows(flat, np.array([len(one) for one in tokens]), pieces, ["f:1"] * len(lines))
    assert found == [(row.id, row.tokens.tolist(), row.roles.tolist()) for row in rows]
    assert len(found) == 600
    # Whatever the text spells, the controls are those of the annotations and one end.
    for _, one, roles in found:
        controls = [either_vocabulary.token_text(t) for t in one if t in either_vocabulary.control_ids]
        assert controls == ["<ann>", "</ann>"] * (len(controls) // 2) + ["<eos>"]
        assert roles[-1] == Role.TEXT


def test_the_seqio_vocabulary(either_vocabulary, documents):
    task = make_task("t", kind="documents", files=documents, vocabulary=either_vocabulary)
    vocabulary = task.output_features["targets"].vocabulary
    text = "the fox"
    ids = vocabulary.encode(text)
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert vocabulary.encode_tf(tf.constant([text, ""])).to_list() == [ids, []]
    assert vocabulary.decode(ids) == vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
    assert vocabulary.vocab_size == either_vocabulary.size
    assert (
        vocabulary
        == make_task("u", kind="documents", files=documents, vocabulary=either_vocabulary)
        .output_features["targets"]
        .vocabulary
    )


@pytest.fixture(scope="module")
def registered(documents, instructions, vocabulary):
    files = {"train": documents[:1], "heldout": documents[1:]}
    add_task("anchortrain_documents", kind="documents", files=files, vocabulary=vocabulary)
    add_task("anchortrain_instructions", kind="instructions", files=[instructions], vocabulary=vocabulary)
    add_mixture("anchortrain_mixture", {"anchortrain_documents": 0.5, "anchortrain_instructions": 0.5})
    yield
    for name in ("anchortrain_documents", "anchortrain_instructions"):
        seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("anchortrain_mixture")


def dataset(name, split="train"):
    return seqio.get_mixture_or_task(name).get_dataset(LENGTHS, split=split, shuffle=False)


def converter(name, **options):
    features = seqio.get_mixture_or_task(name).output_features
    return RoleFeatureConverter(vocabulary=features["targets"].vocabulary, **options)


def examples(name, split="train"):
    return [(one["targets"].tolist(), one["roles"].tolist()) for one in dataset(name, split).as_numpy_iterator()]


def test_a_registered_task_keeps_to_the_sequence_length(registered):
    heldout = examples("anchortrain_documents", "heldout")
    assert len(heldout) >= 300
    assert max(len(tokens) for tokens, _ in heldout) <= 48
    task = seqio.get_mixture_or_task("anchortrain_documents")
    # A smaller length splits more; a larger one afterwards is not held to it.
    shorter = list(task.get_dataset({"targets": 24, "roles": 24}, split="heldout", shuffle=False).as_numpy_iterator())
    assert len(shorter) > len(heldout)
    assert examples("anchortrain_documents", "heldout") == heldout


@pytest.mark.parametrize("objective", ["pretrain", "masked", "unmasked"])
def test_converter_unpacked(registered, vocabulary, objective):
    converted = converter("anchortrain_instructions", objective=objective, pack=False)
    rows = list(converted(dataset("anchortrain_instructions"), LENGTHS).as_numpy_iterator())
    for (tokens, roles), row in zip(examples("anchortrain_instructions"), rows, strict=True):
        n, pad = len(tokens), [0] * (48 - len(tokens))
        assert row["decoder_target_tokens"].tolist() == tokens + [vocabulary.pad] * len(pad)
        assert row["decoder_input_tokens"].tolist() == [vocabulary.bos, *tokens[:-1]] + [vocabulary.pad] * len(pad)
        assert row["decoder_target_roles"].tolist() == roles + pad
        assert row["decoder_input_roles"].tolist() == [Role.PROMPT, *roles[:-1]] + pad
        weights = loss_weights(np.array(roles), objective).astype(int).tolist()
        assert row["decoder_loss_weights"].tolist() == weights + pad
        assert set(row) == set(RoleFeatureConverter.MODEL_FEATURES) and n < 48


def segments(rows):
    """Every segment of packed rows, as a dict of its features."""
    for row in rows:
        ids = row["decoder_segment_ids"]
        for segment in range(1, ids.max() + 1):
            yield {name: values[ids == segment].tolist() for name, values in row.items()}


def test_packed_equals_unpacked(registered, vocabulary):
    name = "anchortrain_mixture"
    packing = converter(name, objective="masked")
    plain = converter(name, objective="masked", pack=False)
    some = dataset(name).take(120)
    packed = list(packing(some, LENGTHS).as_numpy_iterator())
    unpacked = list(plain(some, LENGTHS).as_numpy_iterator())
    assert len(packed) < 0.7 * len(unpacked)
    for segment, row in zip(segments(packed), unpacked, strict=True):
        n = np.count_nonzero(row["decoder_target_roles"])
        for feature in RoleFeatureConverter.MODEL_FEATURES:
            assert segment[feature] == row[feature][:n].tolist()
        assert segment["decoder_positions"] == list(range(n))
        assert segment["decoder_input_tokens"][0] == vocabulary.bos
    for row in packed:
        padding = row["decoder_segment_ids"] == 0
        assert (row["decoder_target_tokens"][padding] == vocabulary.pad).all()
        assert not row["decoder_loss_weights"][padding].any() and not row["decoder_input_roles"][padding].any()


class _Ids:
    """What the converter needs of a vocabulary: here padding is not 0, and 0 is a token like any other."""

    bos_id, pad_id = 9, 8


@pytest.mark.parametrize("pack", [True, False])
def test_token_zero_is_a_token(pack):
    rows = {"targets": [[0, 5, 0], [0, 0, 7]], "roles": [[1, 2, 4], [3, 4, 4]]}
    ds = tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(tf.constant, rows, expand_composites=False))
    lengths = {"targets": 8, "roles": 8}
    first = next(iter(RoleFeatureConverter(vocabulary=_Ids(), pack=pack)(ds, lengths).as_numpy_iterator()))
    if pack:
        assert first["decoder_target_tokens"].tolist() == [0, 5, 0, 0, 0, 7, 8, 8]
        assert first["decoder_input_tokens"].tolist() == [9, 0, 5, 9, 0, 0, 8, 8]
        assert first["decoder_input_roles"].tolist() == [1, 1, 2, 1, 3, 4, 0, 0]
        assert first["decoder_segment_ids"].tolist() == [1, 1, 1, 2, 2, 2, 0, 0]
        assert first["decoder_positions"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    else:
        assert first["decoder_target_tokens"].tolist() == [0, 5, 0, 8, 8, 8, 8, 8]
        assert first["decoder_input_tokens"].tolist() == [9, 0, 5, 8, 8, 8, 8, 8]


def test_a_missing_role_is_an_error():
    ds = tf.data.Dataset.from_tensors({"targets": tf.constant([5, 6]), "roles": tf.constant([1, 0])})
    for pack in (True, False):
        with pytest.raises(tf.errors.InvalidArgumentError, match="every token needs a role"):
            list(RoleFeatureConverter(vocabulary=_Ids(), pack=pack)(ds, {"targets": 4, "roles": 4}))
    with pytest.raises(ValueError, match="unknown objective"):
        RoleFeatureConverter(vocabulary=_Ids(), objective="mask")
    with pytest.raises(ValueError, match="syntax examples"):
        RoleFeatureConverter(vocabulary=_Ids(), objective="unmasked", syntax_share=0.1)


def test_syntax_examples_are_a_share_and_only_differ_in_keys():
    rows = tf.data.Dataset.from_tensors({"targets": tf.range(1, 5), "roles": tf.range(1, 5)}).repeat(1000)
    convert = RoleFeatureConverter(vocabulary=_Ids(), objective="masked", syntax_share=0.3, seed=1, pack=False)
    weights = [
        one["decoder_loss_weights"].tolist() for one in convert(rows, {"targets": 4, "roles": 4}).as_numpy_iterator()
    ]
    syntax = weights.count([0, 1, 0, 1])
    assert syntax + weights.count([0, 0, 0, 1]) == 1000
    assert 240 < syntax < 360
    again = convert(rows, {"targets": 4, "roles": 4}).as_numpy_iterator()
    assert weights == [one["decoder_loss_weights"].tolist() for one in again]


def test_an_error_in_a_record_arrives_as_itself(tmp_path, documents, vocabulary):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n' * 700 + '{"text": 1}\n' + '{"text": 2}\n' * 700)
    for _ in range(3):
        task = make_task("t", kind="documents", files=[documents[0], bad], vocabulary=vocabulary)
        with pytest.raises(UserError, match=r"bad\.jsonl:701: field 'text' must be a string"):
            list(task.examples())
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("missing.jsonl", "cannot be read"), ("empty.jsonl", "empty corpus")):
        with pytest.raises(UserError, match=f"{name}: {message}"):
            list(make_task("t", kind="documents", files=[tmp_path / name], vocabulary=vocabulary).examples())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "prompts"}, "kind must be one of documents, instructions"),
        ({"kind": "documents", "long": "cut"}, "long must be one of"),
        ({"kind": "instructions", "long": "split"}, "instructions cannot be split"),
        ({"kind": "instructions", "unannotated_share": 1.5}, r"unannotated_share must lie in 0\.\.1"),
        ({"kind": "documents", "unannotated_share": 0.5}, "for instructions only"),
    ],
)
def test_bad_options(options, message, vocabulary):
    with pytest.raises(UserError, match=message):
        make_task("t", files=["x"], vocabulary=vocabulary, **options)


def test_the_process_ends_when_reading_stops_early(documents, vocabulary):
    """TensorFlow's threads that read ahead must not outlive the interpreter, on an error or a budget."""
    code = """
import sys
from anchortrain.data.prepare import _tensorflow_tasks
from anchortrain.data.vocabulary import Vocabulary
files, vocabulary = sys.argv[2:] * 20, Vocabulary.from_path(sys.argv[1])
make_task = _tensorflow_tasks().make_task
task = make_task("t", kind="documents", files=files, vocabulary=vocabulary, max_length=8, long="error")
list(task.examples())
"""
    command = [sys.executable, "-c", code, str(vocabulary.path), *map(str, documents)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("anchortrain.errors.UserError: ")
    assert done.stderr.startswith("Traceback"), "TensorFlow's chatter is to be kept off"
