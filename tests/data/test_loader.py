"""The loader: batches are a pure function of (data, seed, step), and its state is exact on any number of hosts."""

import itertools
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from anchortrain.annotation import Tag
from anchortrain.data.annotation_view import AnnotationView
from anchortrain.data.loader import (
    PackedIterator,
    Settings,
    _uniform,
    make_anchor_loader,
    make_eval_batches,
    make_loader,
)
from anchortrain.data.loader import open_sources as opened
from anchortrain.data.prepared import PreparedDataset
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.errors import UserError
from anchortrain.roles import Role

SIZES = {"length": 128, "batch_rows": 8}


def loader(sources, seed=0, **settings):
    return make_loader(sources, seed=seed, **SIZES | settings)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def packed_iterator(sources, syntax_share=0.0, **settings) -> PackedIterator:
    settings = Settings(**SIZES | {"syntax_share": syntax_share} | settings)
    return PackedIterator(opened(sources, length=settings.length), list(sources.values()), settings)


@pytest.fixture(scope="module")
def mixture(story_like):
    return {story_like["instructions"]: 0.6, story_like["documents"]: 0.4}


def test_two_loaders_give_the_same_batches_and_another_seed_others(mixture):
    first, again, other = (take(loader(mixture, seed=seed), 6) for seed in (3, 3, 4))
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert not same(first[0], first[1])


def test_batches_have_the_given_shape(mixture):
    batch = next(loader(mixture))
    assert {array.shape for array in batch.values()} == {(8, 128)}
    assert batch["inputs"].dtype == np.int32 and batch["loss_weights"].dtype == np.float32


def test_start_step_is_the_step_of_a_fresh_loader(mixture):
    assert same(next(loader(mixture, start_step=7)), take(loader(mixture), 8)[7])


@pytest.mark.parametrize("length, bar", [(128, 0.95), (256, 0.99)])
def test_fill(story_like, length, bar):
    batches = take(loader({story_like["instructions"]: 1}, length=length), 30)
    assert np.mean([(batch["segment_ids"] > 0).mean() for batch in batches]) > bar


def test_every_example_once_per_epoch_and_none_cut(story_like):
    path = story_like["instructions"]
    dataset = PreparedDataset(path)
    by_id = {example.id: example for example in dataset}
    iterator = packed_iterator({path: 1.0})
    seen: list[str] = []
    while len(seen) < 3 * len(dataset):
        rows = iterator.next_rows()
        batch = iterator.pack(rows)
        for r, row in enumerate(rows):
            for segment, placed in enumerate(row, 1):
                slots = batch["segment_ids"][r] == segment
                stored = by_id[placed.example.id]
                assert np.array_equal(batch["targets"][r, slots], stored.tokens)
                assert np.array_equal(batch["target_roles"][r, slots], stored.roles)
                assert batch["positions"][r, slots].tolist() == list(range(len(stored.tokens)))
                seen.append(placed.example.id)
    # What was drawn is what was placed and what waits; three epochs of it hold every example three times.
    state = iterator.get_state()
    numbers = [iterator._number_at(at) for at in state["waiting"]]
    drawn = Counter(seen) + Counter(dataset[number].id for number in numbers)
    assert sum(drawn.values()) == state["position"]
    extra = Counter(dataset[iterator._number_at(at)].id for at in range(3 * len(dataset), state["position"]))
    assert drawn - extra == Counter({id: 3 for id in by_id})


def test_every_epoch_has_another_order(story_like):
    iterator = packed_iterator({story_like["instructions"]: 1.0})
    epochs = [[iterator._number_at(epoch * 500 + i) for i in range(500)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(500)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(500))
    neighbour = packed_iterator({story_like["instructions"]: 1.0}, seed=1)
    assert [neighbour._number_at(i) for i in range(500)] not in epochs


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_weights_are_shares_of_tokens(story_like, share):
    iterator = packed_iterator({story_like["instructions"]: share * 7, story_like["documents"]: (1 - share) * 7})
    tokens = [0, 0]
    for _ in range(60):
        for placed in itertools.chain.from_iterable(iterator.next_rows()):
            tokens[placed.source] += len(placed.example.tokens)
    assert tokens[0] / sum(tokens) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("steps", [0, 1, 5, 17])
def test_resume_is_exact(mixture, steps):
    original = loader(mixture)
    take(original, steps)
    state = json.loads(json.dumps(original.get_state()))
    fresh = loader(mixture)
    take(fresh, 2)
    fresh.set_state(state)
    assert fresh.get_state() == state and state["step"] == steps
    assert all(map(same, take(original, 5), take(fresh, 5)))


def test_state_describes_the_last_batch_delivered_whatever_is_prefetched(mixture):
    prefetched, plain = loader(mixture), packed_iterator(mixture, syntax_share=0.003)
    assert prefetched.get_state() == plain.get_state()
    for _ in range(5):
        assert same(next(prefetched), next(plain))
        assert prefetched.get_state() == plain.get_state()
    prefetched.close()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_global_batch_and_its_state(mixture, hosts):
    whole = loader(mixture)
    take(whole, 3)
    state = whole.get_state()
    batches = take(whole, 3)
    parts = [loader(mixture, host_index=host, host_count=hosts) for host in range(hosts)]
    for part in parts:
        part.set_state(state)
    for batch in batches:
        slices = [next(part) for part in parts]
        assert same(batch, {name: np.concatenate([one[name] for one in slices]) for name in batch})
    assert all(part.get_state() == whole.get_state() for part in parts)


def test_a_host_reads_only_its_own_rows(mixture, monkeypatch):
    read = []
    inner = PreparedDataset.__getitems__
    monkeypatch.setattr(PreparedDataset, "__getitems__", lambda self, i: read.extend(i) or inner(self, i))
    iterator = packed_iterator(mixture, host_index=1, host_count=4)
    batches = [iterator.next_rows()]
    while iterator._ahead:  # read along with the first
        batches.append(iterator.next_rows())
    assert {len(rows) for rows in batches} == {2}
    assert len(read) == sum(len(row) for rows in batches for row in rows)


@pytest.mark.parametrize("examples", [1, 30, 1000])
def test_batches_and_states_do_not_depend_on_how_much_is_read_at_once(mixture, monkeypatch, examples):
    def first_batches():
        iterator = packed_iterator(mixture, syntax_share=0.3)
        return [(next(iterator), iterator.get_state()) for _ in range(20)]

    want = first_batches()
    monkeypatch.setattr("anchortrain.data.loader._READ_EXAMPLES", examples)
    for (batch, state), (other, other_state) in zip(want, first_batches(), strict=True):
        assert same(batch, other) and state == other_state


def test_syntax_examples_are_those_of_a_generator_for_each_position():
    drawn = _uniform(7, 2)
    for i in (0, 1, 500, len(drawn) - 1):
        counter = 2 * len(drawn) + i
        assert drawn[i] == np.random.Generator(np.random.Philox(key=[7, 1], counter=counter)).random()


def test_state_of_other_data_or_settings_is_refused(mixture, story_like):
    state = loader(mixture).get_state()
    for other in (
        loader(mixture, seed=1),
        loader(mixture, batch_rows=4),
        loader(mixture, length=256),
        loader(mixture, objective="unmasked"),
        loader({path: 1.0 for path in mixture}),
        loader({story_like["documents"]: 1.0}),
    ):
        with pytest.raises(UserError, match="other data, weights, seed"):
            other.set_state(state)


def test_objectives_follow_the_kind(mixture, story_like):
    for objective in ("masked", "unmasked"):
        batch = next(loader({story_like["instructions"]: 1}, objective=objective, syntax_share=0.0))
        trained = {Role.TEXT} if objective == "masked" else {Role.TEXT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE}
        assert np.array_equal(batch["loss_weights"] > 0, np.isin(batch["target_roles"], list(trained)))
    batch = next(loader({story_like["documents"]: 1}))
    assert np.array_equal(batch["loss_weights"] > 0, batch["segment_ids"] > 0)


def test_syntax_examples(story_like):
    path = story_like["instructions"]
    iterator = packed_iterator({path: 1.0}, syntax_share=0.2)
    rows = [row for _ in range(100) for row in iterator.next_rows()]
    chosen = [placed.syntax_example for row in rows for placed in row]
    assert np.mean(chosen) == pytest.approx(0.2, abs=0.04)
    batch = iterator.pack([[placed] for row in rows[:50] for placed in row])
    for row, syntax in enumerate(chosen[: len(batch["targets"])]):
        trained = {Role.TEXT, Role.ANNOTATION_KEY} if syntax else {Role.TEXT}
        assert np.array_equal(batch["loss_weights"][row] > 0, np.isin(batch["target_roles"][row], list(trained)))
    # In the next epoch others are chosen; other objectives, kinds and plain data have none.
    unmasked = packed_iterator({path: 1.0}, syntax_share=1.0, objective="unmasked")
    documents = packed_iterator({story_like["documents"]: 1.0}, syntax_share=1.0)
    for other in (unmasked, documents):
        assert not any(placed.syntax_example for row in other.next_rows() for placed in row)


# -- held-out batches --------------------------------------------------------------------------------


def test_eval_batches_are_finite_and_hold_every_example_once(story_like):
    dataset = PreparedDataset(story_like["instructions"])
    batches = make_eval_batches(story_like["instructions"], **SIZES, batches=10**6)
    assert {batch["targets"].shape for batch in batches} == {(8, 128)}
    tokens = sum(int((batch["segment_ids"] > 0).sum()) for batch in batches)
    assert tokens == dataset.manifest.tokens
    assert batches[0]["targets"][0, : dataset.lengths[0]].tolist() == dataset[0].tokens.tolist()
    again = make_eval_batches(story_like["instructions"], **SIZES, batches=3)
    assert len(again) == 3 and all(map(same, batches, again))


def test_eval_batches_of_hosts_make_up_the_whole(story_like):
    whole = make_eval_batches(story_like["documents"], **SIZES, batches=2)
    parts = [
        make_eval_batches(story_like["documents"], **SIZES, batches=2, host_index=host, host_count=2) for host in (0, 1)
    ]
    for batch, a, b in zip(whole, *parts, strict=True):
        assert same(batch, {name: np.concatenate([a[name], b[name]]) for name in batch})


# -- the anchor's stream -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def annotated(tmp_path_factory, write, make) -> str:
    annotation = (Tag("hero", "fox"), Tag("place", "mill"))
    examples = [
        make.instruction("a fox?", annotation, "the fox ran", id="0"),
        make.instruction("a mill?", None, "the mill ran", id="1"),
        make.instruction("who?", annotation[:1], "fox", id="2"),
    ]
    return write(tmp_path_factory.mktemp("annotated") / "a", examples)


def test_annotation_view_ends_after_the_annotation(annotated, vocabulary):
    view = AnnotationView(PreparedDataset(annotated))
    assert len(view) == 2
    for example, whole in zip(view.__getitems__([0, 1]), ("0", "2"), strict=True):
        assert example.id == whole and example.tokens[-1] == vocabulary.ann_close
        assert Role.TEXT not in example.roles and (example.roles == Role.PROMPT).any()
    assert view.lengths.tolist() == [len(example.tokens) for example in view.__getitems__([0, 1])]


def test_anchor_batches_train_on_nothing_and_hold_no_text(annotated, story_like, vocabulary):
    sources = {annotated: 1.0, story_like["documents"]: 5.0}
    batch = next(make_anchor_loader(sources, seed=0, **SIZES))
    assert not batch["loss_weights"].any() and batch["anchor_positions"].any()
    assert not np.isin(batch["target_roles"], Role.TEXT).any()
    closes = batch["targets"] == vocabulary.ann_close
    assert (batch["anchor_positions"][closes] == 1).all()
    assert (batch["anchor_positions"][batch["targets"] == vocabulary.ann_open] == 0).all()


def test_draws_are_anchored_as_they_are(tmp_path, write, make):
    rng = np.random.default_rng(0)
    examples = [make.numbered(rng, i, 40, roles=(2, 3)) for i in range(30)]
    path = write(tmp_path / "draws", examples, kind="draws")
    for iterator in (make_anchor_loader({path: 1.0}, seed=0, **SIZES), loader({path: 1.0})):
        batch = next(iterator)
        assert not batch["loss_weights"].any() and (batch["segment_ids"] > 0).mean() > 0.9
        assert batch["anchor_positions"].sum() == (batch["positions"] > 1).sum()


def test_nothing_to_anchor_at(story_like, tmp_path, write, make):
    with pytest.raises(UserError, match="nothing to anchor at"):
        make_anchor_loader({story_like["documents"]: 1.0}, seed=0, **SIZES)
    unannotated = write(tmp_path / "a", [make.instruction("a", None, "b")], annotated=True)
    with pytest.raises(UserError, match="no example has an annotation"):
        make_anchor_loader({unannotated: 1.0}, seed=0, **SIZES)


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "1", True, None])
def test_bad_weights(story_like, weight):
    with pytest.raises(UserError, match="weight must be a positive number"):
        loader({story_like["documents"]: weight})


def test_bad_sizes(mixture):
    for settings, message in [
        ({"length": 80}, "but rows are 80 long"),
        ({"host_count": 3}, "multiple of the 3 hosts"),
        ({"batch_rows": 2, "host_count": 4}, "multiple of the 4 hosts"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"seed": -1}, "seed"),
        ({"syntax_share": 1.5}, "syntax_share"),
    ]:
        with pytest.raises(UserError, match=message):
            loader(mixture, **settings)
    with pytest.raises(UserError, match="no data"):
        loader({})


def test_another_vocabulary(story_like, tmp_path, write, make, vocabulary):
    (tmp_path / "other.json").write_text(vocabulary.path.read_text() + "\n")
    other = Vocabulary.from_path(tmp_path / "other.json")
    path = write(tmp_path / "a", [make.instruction("a", None, "b")], vocabulary=other)
    with pytest.raises(UserError, match="another vocabulary"):
        loader({story_like["documents"]: 1, path: 1})


def test_damage_found_while_training_is_a_user_error(tmp_path, write, make):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "a", [make.numbered(rng, i, 100) for i in range(300)])
    shard = tmp_path / "a" / "data-00000-of-00001.arrayrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 :][:9000] = bytes(9000)
    content[10_000:40_000] = bytes(30_000)
    shard.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        take(loader({path: 1.0}), 100)


def test_tensorflow_is_never_imported(story_like):
    script = f"""
import sys
from anchortrain.data.loader import make_loader, make_eval_batches
next(make_loader({{{story_like["documents"]!r}: 1.0}}, length=128, batch_rows=2, seed=0))
make_eval_batches({story_like["documents"]!r}, length=128, batch_rows=2, batches=1)
assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "seqio", "torch")]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
