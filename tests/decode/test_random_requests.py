"""Requests of every kind, at the limits of everything: a well-formed sample or a refusal in words."""

import numpy as np
import pytest

from anchortrain.annotation import MAX_VALUE_CHARACTERS, Tag, parse
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.prompts import encode_turns
from anchortrain.decode.samples import to_row
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.steering import Steering
from anchortrain.decode.stream import Sampler
from anchortrain.errors import UserError
from anchortrain.roles import Role

MOST = 384
VALUES = ["fox", "the old fox", "a", "’", "São Paulo", "漢字 🦊", "x" * MAX_VALUE_CHARACTERS, "<ann", "a: b", "-"]


def steering(rng: np.random.Generator, keys: list[str]) -> Steering:
    def tags(most: int) -> tuple[Tag, ...]:
        names = [*keys, "villain"] if rng.random() < 0.05 else keys
        chosen = [Tag(str(rng.choice(names)), str(rng.choice(VALUES))) for _ in range(rng.integers(0, most))]
        return tuple(dict.fromkeys(chosen))

    kind = rng.integers(0, 6)
    if kind == 0:
        return Steering(plan=tags(4))
    if kind == 1:
        text = "; ".join(f"{tag.key}: {tag.value}" for tag in tags(4))
        return Steering(prefix=text[: rng.integers(0, len(text) + 1)] + str(rng.choice(["", ";", "; ", "; h", ": "])))
    required = (str(rng.choice(keys)),) if rng.random() < 0.2 else ()
    return Steering(fixed=tags(3), forbidden=tags(3), required=required) if kind < 4 else Steering()


def config(rng: np.random.Generator) -> SamplingConfig:
    def some(*values):
        return values[rng.integers(0, len(values))]

    settings = {"max_annotation_tokens": some(1, 2, 5, 24, 60, 200), "max_response_tokens": some(1, 2, 30, 30, 200)}
    for stage in ("annotation", "response"):
        settings |= {
            f"{stage}_temperature": some(0.0, 0.3, 1.0, 1.0, 100.0),
            f"{stage}_top_k": some(0, 0, 0, 1, 2, 2**31 - 1),
            f"{stage}_top_p": some(1.0, 1.0, 1.0, 0.9, 1e-6),
            f"{stage}_min_p": some(0.0, 0.0, 0.0, 0.1, 1.0),
            f"{stage}_repetition_penalty": some(1.0, 1.0, 1.0, 1.3, 1e-3, 1e3),
        }
    mode = some("two_stage", "two_stage", "two_stage", "two_stage", "single_stage", "document")
    return SamplingConfig(mode=mode, constrain=bool(rng.random() < 0.6), **settings)


def check(update, config: SamplingConfig, steer: Steering, vocabulary: Vocabulary) -> None:
    row = to_row(update.sample, vocabulary)
    inside = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role != Role.TEXT]
    text = [token for token, role in zip(row["tokens"], row["roles"], strict=True) if role == Role.TEXT]
    assert np.isfinite([row["annotation_logprob"], row["response_logprob"], *update.logprobs]).all()
    assert not set(text) & (vocabulary.control_ids - {vocabulary.eos}) and vocabulary.eos not in text[:-1]
    assert row["finished"] == (text[-1:] == [vocabulary.eos])
    if config.mode == "single_stage":
        assert not inside and row["annotation"] is None
        return
    assert inside[0] == vocabulary.ann_open
    if config.mode == "two_stage":
        assert len(inside) <= config.max_annotation_tokens + 1 and len(text) <= config.max_response_tokens
        assert not text or inside[-1] == vocabulary.ann_close
    if config.constrain or steer:
        assert row["annotation_wellformed"]
    if not row["annotation_wellformed"] or config.mode == "document":
        return
    tags = parse(row["annotation_text"])
    assert [list(tag) for tag in tags] == row["annotation"] and not set(tags) & set(steer.forbidden)
    assert {tag.key for tag in tags} >= set(steer.required)
    assert set(steer.fixed) <= set(tags) and steer.plan in (None, tags)
    named = [tag.key for tag in tags if tag.key in {fixed.key for fixed in steer.fixed}]
    assert len(named) == len(steer.fixed)
    # SentencePiece joins white space, in what is given as in all text.
    assert row["annotation_text"].startswith(steer.prefix.rstrip("; ").rstrip())


def drawn(sampler: Sampler, keys: list[str], rng: np.random.Generator, count: int) -> tuple[int, int]:
    """How many samples and refusals there were."""
    asked, samples, refusals = {}, 0, 0
    prompts = [encode_turns(sampler.vocabulary, ["Tell me."]), encode_turns(sampler.vocabulary, ["A fox? " * 8] * 3)]
    for index in range(count):
        try:
            steer, settings = steering(rng, keys), config(rng)
            prompt = [sampler.vocabulary.bos] if settings.mode == "document" else prompts[rng.integers(0, 2)]
            number = sampler.submit(prompt, settings, seed=int(rng.integers(0, 1 << 32)), index=index, steering=steer)
        except UserError as error:
            assert str(error) and "\n" not in str(error)
            refusals += 1
            continue
        asked[number] = (settings, steer)
        if rng.random() < 0.02:
            sampler.cancel(number)
            del asked[number]
        while sampler.waiting > 20:
            for update in sampler.step(int(rng.integers(1, 33))):
                if update.done:
                    samples, refusals = taken(update, asked, sampler, samples, refusals)
    for update in sampler.run():
        samples, refusals = taken(update, asked, sampler, samples, refusals)
    assert not asked and sampler.in_flight == sampler.waiting == 0
    return samples, refusals


def taken(update, asked, sampler: Sampler, samples: int, refusals: int) -> tuple[int, int]:
    settings, steer = asked.pop(update.number)
    if update.refusal:
        assert "\n" not in update.refusal
        return samples, refusals + 1
    check(update, settings, steer, sampler.vocabulary)
    return samples + 1, refusals


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_requests(flat_model, vocabulary, keys, count):
    sampler = Sampler(flat_model(1.0), vocabulary, keys, places=32, most_tokens=MOST)
    samples, refusals = drawn(sampler, keys, np.random.default_rng(count), count)
    assert samples > 0.4 * count and refusals > 0.05 * count
