"""Many requests at once: what each gets is its own, and places are used again."""

import dataclasses

import jax
import numpy as np
import pytest

from anchortrain.config import MeshConfig
from anchortrain.decode import tables
from anchortrain.decode.engine import Engine, Request
from anchortrain.decode.grammar import GrammarKey
from anchortrain.decode.sampler import sample
from anchortrain.decode.settings import SamplingConfig
from anchortrain.errors import UserError
from anchortrain.model.parameters import model_with, params_of
from anchortrain.roles import ANNOTATION_ROLES, Role
from anchortrain.sharding import make_mesh
from anchortrain.train_step import param_shardings
from tests.decode.test_sampler import PROMPTS, TWO_STAGE, assert_same, prompt_tokens, prompts

MOST = 160


def request(vocabulary, keys, index, *, mode="two_stage", prompt=PROMPTS[0], given=(), **settings) -> Request:
    config = dataclasses.replace(TWO_STAGE, **settings)
    opened = [] if mode == "single_stage" else [vocabulary.ann_open]
    tokens = (vocabulary.bos, *prompt_tokens(vocabulary, prompt), *opened, *given)
    return Request(tokens, GrammarKey(mode, tuple(keys) if opened else ()), config, 0, index, len(given))


def medley(vocabulary, keys) -> list[Request]:
    """Requests that differ in everything that a request can differ in."""
    random = np.random.default_rng(0)
    made = []
    for index in range(40):
        made.append(
            request(
                vocabulary,
                keys[: random.integers(1, 4)],
                index,
                mode=("two_stage", "single_stage", "document", "annotation")[index % 4],
                prompt=PROMPTS[index % 3] * int(random.integers(1, 4)),
                annotation_temperature=float(random.choice([0.0, 0.7, 1.5])),
                response_temperature=float(random.choice([0.0, 1.0])),
                max_annotation_tokens=int(random.integers(8, 24)),
                max_response_tokens=int(random.integers(1, 40)),
                response_top_k=int(random.choice([0, 0, 5])),
                annotation_repetition_penalty=float(random.choice([1.0, 1.0, 1.2])),
                constrain=bool(random.random() < 0.5),
            )
        )
    return made


def run(engine, requests) -> list:
    found = dict(engine.run(requests))
    assert engine.in_flight == engine.waiting == 0
    return [found[place] for place in range(len(requests))]


def alike(one, other) -> bool:
    return one.tokens == other.tokens and one.roles == other.roles and one.wellformed == other.wellformed


def test_a_request_gets_the_same_alone_and_in_a_crowd(model, vocabulary, keys):
    requests = medley(vocabulary, keys)
    crowd = run(Engine(model, vocabulary, keys, places=8, most_tokens=MOST), requests)
    alone = Engine(model, vocabulary, keys, places=1, most_tokens=MOST)
    for one, got in list(zip(requests, crowd, strict=True))[::3]:
        assert alike(run(alone, [one])[0], got)
    order = np.random.default_rng(1).permutation(len(requests))
    again = run(Engine(model, vocabulary, keys, places=8, most_tokens=MOST), [requests[i] for i in order])
    assert all(alike(again[place], crowd[i]) for place, i in enumerate(order))


def test_tokens_come_in_pieces_with_their_log_probabilities(model, vocabulary, keys):
    engine = Engine(model, vocabulary, keys, places=4, most_tokens=MOST)
    numbers = [engine.submit(request(vocabulary, keys, index, constrain=True)) for index in range(6)]
    seen, pieces = {number: [] for number in numbers}, 0
    last = {}
    while engine.in_flight or engine.waiting:
        for number, drawn, new in engine.step(3):
            assert new <= 3
            pieces += 1
            seen[number] += drawn.tokens[len(drawn.tokens) - new :]
            last[number] = drawn
    assert pieces > 60
    for number, drawn in last.items():
        assert drawn.finished and seen[number] == drawn.tokens
        in_text = [role == Role.TEXT for role in drawn.roles]
        for stage in (False, True):
            total = sum(logprob for logprob, text in zip(drawn.logprobs, in_text, strict=True) if text == stage)
            assert drawn.stage_logprobs[stage] == pytest.approx(total, abs=1e-3)


def test_a_cancelled_request_leaves_its_place_and_disturbs_nobody(model, vocabulary, keys):
    # Constrained and long, so that none is finished before it is cancelled.
    requests = [request(vocabulary, keys, index, constrain=True) for index in range(5)]
    expected = run(Engine(model, vocabulary, keys, places=2, most_tokens=MOST), requests)
    engine = Engine(model, vocabulary, keys, places=2, most_tokens=MOST)
    numbers = [engine.submit(one) for one in requests]
    engine.step(2)
    assert engine.in_flight == 2 and engine.waiting == 3
    engine.cancel(numbers[0])
    engine.cancel(numbers[3])
    engine.cancel(12345)
    assert engine.in_flight == 1 and engine.waiting == 2
    found = {}
    while engine.in_flight or engine.waiting:
        found |= {number: drawn for number, drawn, _ in engine.step(4) if drawn.finished}
    assert set(found) == {numbers[i] for i in (1, 2, 4)}
    assert all(alike(found[numbers[i]], expected[i]) for i in (1, 2, 4))


def test_what_is_given_of_an_annotation_is_gone_on_from(flat_model, vocabulary, keys):
    """The prefix ends within a value that already has 195 of its 200 characters."""
    given = (*vocabulary.encode("hero:"), *vocabulary.encode(" " + "x" * 195))
    settings = {"max_annotation_tokens": 320, "max_response_tokens": 4, "constrain": True}
    engine = Engine(flat_model(-6.0), vocabulary, keys, places=8, most_tokens=400)
    requests = [request(vocabulary, keys, index, given=given, **settings) for index in range(16)]
    for drawn in run(engine, requests):
        assert drawn.wellformed
        assert len([role for role in drawn.roles if role in ANNOTATION_ROLES]) + len(given) <= 320
        value = []
        for token, role in zip(drawn.tokens, drawn.roles, strict=True):
            if role != Role.ANNOTATION_VALUE:
                break
            value.append(token)
        assert len(vocabulary.decode(value)) <= 5


@pytest.mark.parametrize("mesh", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=8, fsdp=1)])
def test_a_mesh_changes_nothing(model, vocabulary, keys, mesh):
    given, config = prompts(16), dataclasses.replace(TWO_STAGE, batch_size=8, constrain=True)
    expected = sample(model, vocabulary, given, config, keys=keys, seed=3)
    devices = make_mesh(mesh)
    params = params_of(model)
    spread = model_with(model, jax.device_put(params, param_shardings(devices, params)))
    assert_same(sample(spread, vocabulary, given, config, keys=keys, seed=3, mesh=devices), expected)


def test_more_grammars_than_pages_wait_for_one_another(model, vocabulary, keys):
    engine = Engine(model, vocabulary, keys, places=4, most_tokens=MOST)
    several = [keys[i:j] for i in range(4) for j in range(i + 1, 5)]
    requests = [request(vocabulary, some, index, constrain=True) for index, some in enumerate(several * 2)]
    expected = run(engine, requests)
    engine.pool = type(engine.pool)(vocabulary, keys, columns=engine.columns, pages=1)
    assert all(alike(one, other) for one, other in zip(run(engine, requests), expected, strict=True))


@pytest.mark.parametrize("spare", [0, 20, 60])
def test_values_given_as_text_take_turns_where_columns_are_few(model, vocabulary, keys, monkeypatch, spare):
    texts = [" f", " the o", " m", " late", " São", " x", " <", " mi"]
    requests = [
        dataclasses.replace(
            one, grammar=one.grammar._replace(begun=("", text)), config=dataclasses.replace(one.config, constrain=True)
        )
        for index, text in enumerate(texts * 2)
        for one in [request(vocabulary, keys, index, given=vocabulary.encode("hero:"))]
    ]
    requests.insert(3, request(vocabulary, keys, 99, constrain=True))
    engine = Engine(model, vocabulary, keys, places=4, most_tokens=MOST)
    expected = run(engine, requests)
    for one, drawn in zip(requests, expected, strict=True):
        assert vocabulary.decode(drawn.tokens).startswith(one.grammar.begun[1] if one.grammar.begun else "")
    monkeypatch.setattr(tables, "_SPARE", spare)
    engine.pool = type(engine.pool)(vocabulary, keys, columns=engine.columns)
    assert all(alike(one, other) for one, other in zip(run(engine, requests), expected, strict=True))


def test_a_request_that_cannot_fit_is_refused(model, vocabulary, keys):
    engine = Engine(model, vocabulary, keys, places=2, most_tokens=40)
    with pytest.raises(UserError, match="may have .* tokens together, at most 40 fit"):
        engine.submit(request(vocabulary, keys, 0))
    with pytest.raises(UserError, match="not the beginning of a well-formed"):
        engine.submit(
            request(
                vocabulary, keys, 0, given=vocabulary.encode("xx:"), max_response_tokens=1, max_annotation_tokens=10
            )
        )
    with pytest.raises(UserError, match="takes 2 tokens more at least, its limit leaves 0"):
        given = vocabulary.encode("hero:")
        engine.submit(request(vocabulary, keys, 0, given=given, max_annotation_tokens=3, max_response_tokens=1))
    assert engine.waiting == 0


def test_settings_are_those_of_the_request_not_of_the_engine(model, vocabulary, keys):
    greedy = SamplingConfig(annotation_temperature=0, response_temperature=0, max_annotation_tokens=20)
    one = Request((vocabulary.bos, vocabulary.ann_open), GrammarKey("annotation", tuple(keys)), greedy, 0, 0)
    engine = Engine(model, vocabulary, keys, places=2, most_tokens=MOST)
    first, second = run(engine, [one, dataclasses.replace(one, index=1, seed=9)])
    assert first.tokens == second.tokens  # greedy: no random number is used
