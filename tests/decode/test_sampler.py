"""Two-stage sampling against a full forward pass over its own output."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchortrain import annotation
from anchortrain.config import ModelConfig
from anchortrain.decode import engine
from anchortrain.decode import grammar as grammars
from anchortrain.decode.grammar import compile_grammar
from anchortrain.decode.sampler import SamplingConfig, draw_annotations, sample
from anchortrain.errors import UserError
from anchortrain.model.transformer import Transformer
from anchortrain.roles import ANNOTATION_ROLES, Role

PROMPTS = ["Tell me a story.", "A fox?", "The old fox, please."]

# Most tests share one batch size, and one number of tokens in all: each other one costs a compilation.
TOKENS = 64
TWO_STAGE = SamplingConfig(max_annotation_tokens=24, max_response_tokens=TOKENS - 24, batch_size=16)
SINGLE_STAGE = SamplingConfig(mode="single_stage", max_response_tokens=TOKENS, batch_size=16)
DOCUMENT = dataclasses.replace(TWO_STAGE, mode="document")


def prompts(n: int) -> list[str]:
    return [PROMPTS[i % len(PROMPTS)] for i in range(n)]


@jax.jit
def full_logits(model, tokens_L):
    row = tokens_L[None]
    return model.logits(model.hidden(row, jnp.arange(row.shape[1])[None], jnp.ones_like(row)))[0]


def prompt_tokens(vocabulary, prompt) -> list[int]:
    return [vocabulary.user, *vocabulary.encode(prompt), vocabulary.assistant, *vocabulary.encode("\n\n")]


def replay(model, vocabulary, keys, config, row) -> list[tuple[int, np.ndarray, bool]]:
    """Of each drawn token: the token, the log-probabilities it was drawn with, and whether it belongs to the text."""
    two_stage = config.mode != "single_stage"
    head = prompt_tokens(vocabulary, row["prompt"]) if row["prompt"] else []
    head = [vocabulary.bos, *head]
    tokens = row["tokens"]
    padded = np.zeros(256, np.int32)
    padded[: len(head) + len(tokens)] = head + tokens
    logits = np.asarray(full_logits(model, jnp.asarray(padded)), np.float64)[len(head) - 1 :]
    grammar = compile_grammar(vocabulary, keys, mode=config.mode, columns=logits.shape[1])
    cost, value_cost = grammar.cost(constrain=config.constrain), grammar.value_cost()
    state, found, inside, value = grammar.start, [], 0, 0
    for i in range(int(two_stage), len(tokens)):
        text = bool(grammar.text_stage[state])
        allowed = cost[state] < grammars.FAR if text else cost[state] <= config.max_annotation_tokens - inside
        if config.constrain and not text:
            allowed &= value_cost[state] <= grammars.VALUE_BUDGET - value
        temperature = (config.response_temperature if text else config.annotation_temperature) or 1.0
        scaled = np.where(allowed, logits[i] / temperature, -np.inf)
        found.append((tokens[i], scaled - np.logaddexp.reduce(scaled), text))
        state, inside = int(grammar.next_state[state, tokens[i]]), inside + (not text)
        value = value + grammar.characters[tokens[i]] if row["roles"][i] == Role.ANNOTATION_VALUE else 0
    return found


@pytest.mark.parametrize("constrain", [False, True])
def test_greedy_decoding_is_the_argmax_of_the_full_forward_pass(model, vocabulary, keys, constrain):
    config = dataclasses.replace(TWO_STAGE, annotation_temperature=0, response_temperature=0, constrain=constrain)
    for row in sample(model, vocabulary, prompts(16), config, keys=keys)[: len(PROMPTS)]:
        drawn = replay(model, vocabulary, keys, config, row)
        assert drawn and [token for token, _, _ in drawn] == [int(np.argmax(logprob)) for _, logprob, _ in drawn]


@pytest.mark.parametrize("config", [TWO_STAGE, SINGLE_STAGE])
@pytest.mark.parametrize("constrain", [False, True])
def test_log_probabilities_are_those_of_the_full_forward_pass(model, vocabulary, keys, constrain, config):
    settings = {"annotation_temperature": 0.7, "response_temperature": 1.3, "constrain": constrain}
    config = dataclasses.replace(config, **settings)
    for row in sample(model, vocabulary, prompts(16), config, keys=keys, seed=3):
        drawn = replay(model, vocabulary, keys, config, row)
        for name, stage in (("annotation_logprob", False), ("response_logprob", True)):
            expected = sum(logprob[token] for token, logprob, text in drawn if text == stage)
            assert row[name] == pytest.approx(expected, abs=1e-3)


def test_a_sample_does_not_depend_on_neighbours_order_batch_or_bucket(model, vocabulary, keys, monkeypatch):
    given = prompts(24)
    expected = sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=5)
    order = np.random.default_rng(0).permutation(24).tolist()
    for settings in ({"batch_size": 16}, {"batch_size": 5}):
        config = dataclasses.replace(TWO_STAGE, **settings)
        got = sample(model, vocabulary, [given[i] for i in order], config, keys=keys, seed=5, indices=order)
        assert_same(got, [expected[i] for i in order])
    monkeypatch.setattr(engine, "_LEAST_PROMPT", 128)
    assert_same(sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=5), expected)


def test_a_sample_does_not_depend_on_how_the_cache_grows(model, vocabulary, keys, monkeypatch):
    given = prompts(24)
    expected = sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=5)
    monkeypatch.setattr(engine, "_SMALL_CACHE", 0)
    assert_same(sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=5), expected)


def test_another_seed_and_another_index_give_another_sample(model, vocabulary, keys):
    given = PROMPTS[:1] * 16
    tokens = [
        row["tokens"] for seed in (0, 1) for row in sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=seed)
    ]
    assert len({tuple(one) for one in tokens}) == 32


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        sums = ("annotation_logprob", "response_logprob")
        assert {k: v for k, v in one.items() if k not in sums} == {k: v for k, v in other.items() if k not in sums}
        assert [one[name] for name in sums] == pytest.approx([other[name] for name in sums], abs=1e-3)


@pytest.mark.parametrize(("cold", "warm"), [("annotation", "response"), ("response", "annotation")])
def test_temperatures_act_on_their_own_stage(model, vocabulary, keys, cold, warm):
    settings = {f"{cold}_temperature": 0.0, f"{warm}_temperature": 2.0, "constrain": True}
    config = dataclasses.replace(TWO_STAGE, **settings)
    rows = sample(model, vocabulary, PROMPTS[:1] * 32, config, keys=keys)
    if cold == "annotation":
        assert len({row["annotation_text"] for row in rows}) == 1
        assert len({row["response"] for row in rows}) > 16
    else:
        # A greedy response is a function of its plan.
        plans = {row["annotation_text"] for row in rows}
        assert len(plans) > 16 and len({(row["annotation_text"], row["response"]) for row in rows}) == len(plans)


def test_frequencies_of_the_first_token_match_the_model(model, vocabulary, keys):
    n = 4096
    config = SamplingConfig(mode="single_stage", max_response_tokens=1, batch_size=n)
    rows = sample(model, vocabulary, PROMPTS[:1] * n, config, keys=keys)
    logprob = replay(model, vocabulary, keys, config, rows[0])[0][1]
    expected = n * np.exp(logprob)
    counts = np.bincount([row["tokens"][0] for row in rows], minlength=len(expected))
    # Rare tokens are counted together, as the test needs.
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    chi2, degrees = ((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1
    assert degrees > 20 and chi2 < degrees + 5 * (2 * degrees) ** 0.5
    assert counts[expected == 0].sum() == 0


def test_two_stage_samples_have_roles_and_responses_without_delimiters(flat_model, vocabulary, keys):
    grammar = compile_grammar(vocabulary, keys, mode="two_stage")
    rows = sample(flat_model(2.0), vocabulary, prompts(64), TWO_STAGE, keys=keys)
    finished = [row for row in rows if row["finished"]]
    unclosed = [row for row in rows if vocabulary.ann_close not in row["tokens"]]
    assert len(finished) > 3 and len(unclosed) > 3
    for row in rows:
        tokens, roles = row["tokens"], row["roles"]
        assert tokens[0] == vocabulary.ann_open and roles[0] == Role.ANNOTATION_KEY and len(tokens) == len(roles)
        inside = [role in ANNOTATION_ROLES for role in roles]
        assert inside == sorted(inside, reverse=True)
        length = sum(inside)
        wellformed, read = grammar.read(tokens[1:length])
        assert roles[1:length] == read and row["annotation_wellformed"] == wellformed
        text = tokens[length:]
        assert not set(text[:-1]) & vocabulary.control_ids
        assert not set(text[-1:]) & (vocabulary.control_ids - {vocabulary.eos})
        assert row["finished"] == (text[-1:] == [vocabulary.eos])
        assert row["response"] == vocabulary.decode(text)
        assert max(tokens) < vocabulary.size
    for row in unclosed:
        assert (
            len(row["tokens"]) == 1 + TWO_STAGE.max_annotation_tokens
            and row["response"] == ""
            and row["response_logprob"] == 0
        )
        assert not row["finished"] and not row["annotation_wellformed"] and row["annotation"] is None


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 40])
def test_constrained_annotations_are_wellformed_and_close_in_time(flat_model, vocabulary, keys, limit):
    settings = {"max_annotation_tokens": limit, "max_response_tokens": TOKENS - limit, "constrain": True}
    config = dataclasses.replace(TWO_STAGE, **settings)
    rows = sample(flat_model(0.0), vocabulary, prompts(64), config, keys=keys, seed=limit)
    check_constrained(rows, vocabulary, limit)
    if limit == 1:
        assert {row["annotation_text"] for row in rows} == {""}
    if limit == 40:
        assert sum(bool(row["annotation"]) for row in rows) > 32


def test_constrained_values_are_not_too_long(flat_model, vocabulary, keys):
    config = SamplingConfig(max_annotation_tokens=300, max_response_tokens=1, constrain=True, batch_size=16)
    # It hardly ever closes an annotation before it must.
    rows = sample(flat_model(-6.0), vocabulary, prompts(16), config, keys=keys)
    check_constrained(rows, vocabulary, 300)
    assert max(len(value) for row in rows for _, value in row["annotation"]) > 190


def check_constrained(rows, vocabulary, limit):
    for row in rows:
        assert row["annotation_wellformed"]
        inside = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role != Role.TEXT]
        assert len(inside) <= limit + 1 and inside[-1] == vocabulary.ann_close
        assert [list(tag) for tag in annotation.parse(row["annotation_text"])] == row["annotation"]
        assert "\ufffd" not in row["annotation_text"]


def test_single_stage_has_no_annotation(flat_model, vocabulary, keys):
    rows = sample(flat_model(2.0), vocabulary, prompts(16), SINGLE_STAGE, keys=keys)
    assert any(row["finished"] for row in rows)
    for row in rows:
        assert not set(row["tokens"]) & (vocabulary.control_ids - {vocabulary.eos})
        assert set(row["roles"]) == {Role.TEXT} and row["annotation"] is None and row["annotation_text"] == ""
        assert row["annotation_logprob"] == 0 and not row["annotation_wellformed"]


@pytest.mark.parametrize("constrain", [False, True])
def test_documents_take_turns(flat_model, vocabulary, keys, constrain):
    config = dataclasses.replace(DOCUMENT, constrain=constrain)
    rows = sample(flat_model(3.0), vocabulary, [""] * 64, config, keys=keys)
    several = [row for row in rows if row["tokens"].count(vocabulary.ann_open) > 1]
    assert len(several) > 5 and any(row["finished"] for row in rows)
    for row in rows:
        tokens = row["tokens"]
        assert tokens[0] == vocabulary.ann_open and len(tokens) <= 1 + TOKENS
        delimiters = [t for t in tokens if t in (vocabulary.ann_open, vocabulary.ann_close)]
        assert set(delimiters[::2]) == {vocabulary.ann_open} and set(delimiters[1::2]) <= {vocabulary.ann_close}
        assert set(tokens) & vocabulary.control_ids <= {vocabulary.ann_open, vocabulary.ann_close, vocabulary.eos}
        if constrain:
            assert row["annotation_wellformed"]
            lines = row["annotation_text"].split("\n")
            assert len(lines) == tokens.count(vocabulary.ann_open)
            assert [list(tag) for line in lines for tag in annotation.parse(line)] == row["annotation"]


def test_an_annotation_of_a_document_has_a_limit_of_its_own(flat_model, vocabulary, keys):
    config = dataclasses.replace(DOCUMENT, max_annotation_tokens=5, max_response_tokens=TOKENS - 5, constrain=True)
    for row in sample(flat_model(3.0), vocabulary, [""] * 64, config, keys=keys):
        length = 0
        for token, role in zip(row["tokens"], row["roles"], strict=True):
            length = 0 if token == vocabulary.ann_open else length + (role in ANNOTATION_ROLES)
            assert length <= 5
        assert row["annotation_wellformed"]


def test_draws_are_the_first_stage(model, vocabulary, keys):
    given = prompts(20)
    rows = sample(model, vocabulary, given, TWO_STAGE, keys=keys, seed=2)
    seen = []
    draws = draw_annotations(model, vocabulary, given, TWO_STAGE, keys=keys, seed=2, progress=seen.append)
    assert sum(seen) == 20
    assert {one.closed for one in draws} == {True, False}
    for prompt, row, one in zip(given, rows, draws, strict=True):
        head = prompt_tokens(vocabulary, prompt)
        inside = [t for t, role in zip(row["tokens"], row["roles"], strict=True) if role in ANNOTATION_ROLES]
        assert one.tokens == head + inside
        assert one.roles == [Role.PROMPT] * len(head) + row["roles"][: len(inside)]
        assert one.wellformed == row["annotation_wellformed"]
        assert one.closed == (one.tokens[-1] == vocabulary.ann_close)


def test_bfloat16(vocabulary, keys):
    config = ModelConfig(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=16, compute_dtype="bfloat16")
    made = Transformer(config, 384, rngs=nnx.Rngs(0))
    rows = sample(made, vocabulary, prompts(4), dataclasses.replace(TWO_STAGE, constrain=True), keys=keys)
    assert all(row["annotation_wellformed"] for row in rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "three_stage"},
        {"annotation_temperature": -1.0},
        {"response_temperature": float("nan")},
        {"max_annotation_tokens": 0},
        {"max_response_tokens": 0},
        {"batch_size": 0},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        SamplingConfig(**settings)


def test_wrong_prompts_and_runs_are_refused(model, vocabulary, keys):
    document = SamplingConfig(mode="document")
    with pytest.raises(UserError, match="nothing to sample"):
        sample(model, vocabulary, [], TWO_STAGE, keys=keys)
    with pytest.raises(UserError, match="without a prompt"):
        sample(model, vocabulary, ["Hello"], document, keys=keys)
    with pytest.raises(UserError, match="the prompt has .* tokens with its roles, at most"):
        sample(model, vocabulary, ["fox " * 40_000], TWO_STAGE, keys=keys)
    with pytest.raises(UserError, match="no annotation keys"):
        sample(model, vocabulary, PROMPTS, TWO_STAGE, keys=[])
    with pytest.raises(UserError, match="the seed must lie in"):
        sample(model, vocabulary, PROMPTS, TWO_STAGE, keys=keys, seed=-1)
    tiny = ModelConfig(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16)
    with pytest.raises(UserError, match="head only 128"):
        sample(Transformer(tiny, 128, rngs=nnx.Rngs(0)), vocabulary, PROMPTS, TWO_STAGE, keys=keys)
    broken = Transformer(tiny, 384, rngs=nnx.Rngs(0))
    broken.final_norm[...] = jnp.full(16, jnp.nan)
    with pytest.raises(UserError, match="not finite"):
        sample(broken, vocabulary, PROMPTS, TWO_STAGE, keys=keys)
