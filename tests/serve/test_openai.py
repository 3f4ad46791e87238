"""The official `openai` client, unchanged, against a real server."""

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me a story."}]


def chat(client, **given):
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 24, **given})


def read(stream) -> dict[int, dict]:
    """Text, finish reason, extension and tokens of each choice of a stream."""
    found: dict[int, dict] = {}
    for chunk in stream:
        for choice in chunk.choices:
            one = found.setdefault(choice.index, {"text": "", "finish": None, "details": {}, "tokens": [], "roles": []})
            assert one["finish"] is None, "nothing follows the finish reason"
            text = choice.delta.content if hasattr(choice, "delta") else choice.text
            one["text"] += text or ""
            one["finish"] = choice.finish_reason
            one["details"] |= getattr(choice, "anchortrain", None) or {}
            if getattr(choice, "delta", None) is not None and choice.delta.role:
                one["roles"].append(choice.delta.role)
            if choice.logprobs is not None and hasattr(choice.logprobs, "content"):
                one["tokens"] += choice.logprobs.content
    return found


def test_a_chat_is_answered(client):
    answer = chat(client, seed=1)
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    assert "anchortrain" not in choice.model_dump() and "<ann>" not in choice.message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    assert 0 < reasoning < answer.usage.completion_tokens <= reasoning + 24


@pytest.mark.parametrize("stop", [None, ["e", "zz"], "o"])
def test_a_stream_tells_what_the_whole_answer_tells(client, stop):
    shown = {"anchortrain": {"return_annotation": True}}
    given = {"seed": 7, "n": 3, "logprobs": True, "stop": stop, "extra_body": shown}
    whole = chat(client, **given)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}, **given))
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump() and not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])
    streamed = read(chunks)
    assert sorted(streamed) == [0, 1, 2]
    for choice in whole.choices:
        got = streamed[choice.index]
        assert (got["text"], got["finish"]) == (choice.message.content, choice.finish_reason)
        assert got["roles"] == ["assistant"]
        assert got["details"] == choice.anchortrain and got["details"]["wellformed"]
        assert [token.logprob for token in got["tokens"]] == [token.logprob for token in choice.logprobs.content]
        assert sum(token.logprob for token in got["tokens"]) <= 0
    if stop is not None:
        texts = [choice.message.content for choice in whole.choices if choice.finish_reason == "stop"]
        assert texts and not any(one in text for text in texts for one in ([stop] if isinstance(stop, str) else stop))


def test_the_same_seed_gives_the_same_choices_whatever_n(client):
    four = [choice.message.content for choice in chat(client, seed=3, n=4).choices]
    assert [choice.message.content for choice in chat(client, seed=3, n=2).choices] == four[:2]
    assert len(set(four)) == 4
    drawn = chat(client)
    again = chat(client, seed=drawn.anchortrain["seed"])
    assert again.choices[0].message.content == drawn.choices[0].message.content


def test_completions_are_answered_for_each_prompt(client):
    def complete(**given):
        return client.completions.create(**{"model": "tiny", "max_tokens": 12, "seed": 2, **given})

    both = complete(prompt=["One?", "Two?"], n=2, logprobs=0)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for choice in both.choices:
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) > 0
    one = complete(prompt="One?", n=2)
    assert [choice.text for choice in one.choices] == [choice.text for choice in both.choices[:2]]
    streamed = read(complete(prompt=["One?", "Two?"], n=2, stream=True))
    assert [streamed[i]["text"] for i in range(4)] == [choice.text for choice in both.choices]
    # The prompt is the user's turn.
    asked = client.chat.completions.create(
        model="tiny", max_tokens=12, seed=2, n=2, messages=[{"role": "user", "content": "One?"}]
    )
    assert [choice.message.content for choice in asked.choices] == [choice.text for choice in one.choices]


def test_conversations_have_turns_and_a_system(client):
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
    ]
    joined = [{"role": "user", "content": "Be kind.\n\nHello"}]
    answers = [chat(client, messages=messages, seed=5).choices[0].message.content for messages in (turns, joined)]
    assert answers[0] == answers[1]
    longer = [*turns, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go on."}]
    assert chat(client, messages=longer, seed=5).usage.prompt_tokens > 20


def test_the_message_of_an_answer_goes_back_as_it_is(client):
    said = chat(client, seed=5).choices[0].message
    for message in (said, said.model_dump(), {"role": "assistant", "content": "", "refusal": "no plan"}):
        messages = [*MESSAGES, message, {"role": "user", "content": "Go on."}]
        assert chat(client, messages=messages).choices[0].message.content


def test_an_empty_system_says_nothing(client):
    empty = [{"role": "system", "content": ""}, *MESSAGES]
    texts = [chat(client, messages=messages, seed=5).choices[0].message.content for messages in (empty, MESSAGES)]
    assert texts[0] == texts[1]


def test_single_stage_draws_no_plan(client):
    body = {"anchortrain": {"mode": "single_stage", "return_annotation": True}}
    answer = chat(client, extra_body=body)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert set(answer.choices[0].anchortrain) == {"response_logprob"}


def test_an_annotation_that_does_not_close_is_told(client):
    body = {"anchortrain": {"constrain": False, "max_annotation_tokens": 1}}
    (choice,) = chat(client, seed=1, extra_body=body).choices
    assert choice.message.content == "" and choice.finish_reason == "length"
    assert choice.anchortrain == {"wellformed": False}


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert model.id == "tiny" and client.models.retrieve("tiny").id == "tiny"
    assert model.anchortrain["keys"] == ["hero", "place", "time-of-day"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")
