"""What is asked and how answers are read, without a server: settings, prompts, answers."""

import json
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anchortrain.annotate.config import LlmConfig
from anchortrain.annotate.llm import LlmAnnotator, check, describe
from anchortrain.annotate.llm.answers import BadAnswer, Usage, envelope, error_of, one_line, usage, values
from anchortrain.annotate.llm.client import retry_after
from anchortrain.annotate.llm.prompts import Source, load_template, parse_template
from anchortrain.annotate.llm.requests import Question, answer_schema, encode, first_dialect, request, step_down
from anchortrain.annotate.llm.settings import endpoint_of
from anchortrain.annotate.passages import Passage
from anchortrain.annotate.schema import load_schema, parse_schema, schema_names
from anchortrain.errors import UserError
from tests.annotate.llm_server import LlmServer
from tests.annotate.llm_setup import STORIES, quick
from tests.conftest import ROOT

GOOD = LlmConfig(endpoint="http://127.0.0.1:8000/v1", model="m")
PASSAGE = Passage("A fox came.", "It was winter.", "prose", "r", 0, {})


# Settings.


@pytest.mark.parametrize(
    "text, shown",
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("https://api.example.org/v1/", "api.example.org:443"),
        ("https://api.example.org/v1/chat/completions", "api.example.org:443"),
        ("http://[::1]:80/v1", "[::1]:80"),
    ],
)
def test_endpoints(text, shown):
    endpoint = endpoint_of(quick(text))
    assert endpoint.url.endswith("/v1/chat/completions") and endpoint.url.count("chat") == 1
    assert endpoint.shown == shown
    check(quick(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://[::1/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "https://user:SECRET@host/v1",
        "https://SECRET@host/v1",
        "https://host/v1?key=SECRET",
        "https://host/v1#SECRET",
        "https://host/v1?",
        "https://host/SECRET v1",
        "https://host/SECRET\nv1",
        "https://höst/v1",
    ],
)
def test_bad_endpoints_are_refused_without_repeating_them(text):
    with pytest.raises(UserError, match="^LlmConfig.endpoint: ") as raised:
        check(quick(text))
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model": " "}, "LlmConfig.model: no model"),
        ({"structured": "json_shema"}, "did you mean 'json_schema'"),
        ({"api_key_env": "sk-SECRET"}, "LlmConfig.api_key_env: this is not the name"),
        ({"temperature": float("nan")}, "LlmConfig.temperature: must be at most 2"),
        ({"temperature": "hot"}, "must be a number, got 'hot'"),
        ({"max_answer_tokens": 0}, "LlmConfig.max_answer_tokens: must be between 1"),
        ({"max_answer_tokens": 1.5}, "must be an integer, got 1.5"),
        ({"concurrency": 0}, "LlmConfig.concurrency"),
        ({"concurrency": True}, "must be an integer, got True"),
        ({"timeout_seconds": float("inf")}, "LlmConfig.timeout_seconds"),
        ({"attempts": 0}, "LlmConfig.attempts"),
        ({"backoff_seconds": -1}, "LlmConfig.backoff_seconds"),
        ({"context_characters": -1}, "LlmConfig.context_characters"),
        ({"max_requests": -1}, "LlmConfig.max_requests"),
        ({"max_tokens": 10.0}, "LlmConfig.max_tokens"),
        ({"max_cost": 1.0}, "a limit of cost needs prices"),
        ({"answer_price": -1.0}, "LlmConfig.answer_price"),
        ({"prompt": "absent.txt"}, "absent.txt: cannot read the template"),
    ],
)
def test_check_names_what_is_wrong(changes, said):
    check(quick("http://127.0.0.1:8000/v1"))
    with pytest.raises(UserError, match=said) as raised:
        check(quick("http://127.0.0.1:8000/v1", **changes))
    assert "SECRET" not in str(raised.value)


def test_describe_has_what_decides_and_nothing_else(tmp_path):
    told = describe(GOOD, STORIES)
    assert json.loads(json.dumps(told)) == told
    assert told["model"] == "m" and told["prompt"] == "stories" and len(told["prompt_sha256"]) == 64
    assert "endpoint" not in told and "8000" not in json.dumps(told)
    mine = tmp_path / "mine.txt"
    mine.write_text("[system]\nWrite JSON. {{keys}}\n[user]\n{{passage}}\n")
    assert describe(quick("x", prompt=str(mine)), STORIES)["prompt_sha256"] != told["prompt_sha256"]
    assert describe(GOOD, load_schema("web"))["prompt_sha256"] != told["prompt_sha256"]


# Prompts.


@pytest.mark.parametrize("name", schema_names())
def test_each_schema_has_a_template_that_says_all_of_it(name):
    schema = load_schema(name)
    template = load_template("", schema)
    assert template.name == name
    for kind in schema.suits:
        system, user = template.messages(schema, PASSAGE._replace(kind=kind), 600)
        assert (system["role"], user["role"]) == ("system", "user")
        assert "JSON" in system["content"] and str(schema.max_tags) in system["content"]
        for key in schema.keys_for(kind):
            line = next(line for line in system["content"].splitlines() if line.startswith(f'- "{key.name}"'))
            assert key.about in line and all(json.dumps(value) in line for value in key.values)
        assert json.loads(user["content"]) == {"before": "It was winter.", "passage": "A fox came."}
        assert "{{" not in system["content"] + user["content"]


def test_a_schema_of_the_users_own_gets_the_general_template():
    schema = parse_schema('about = "Poems."\n[keys.metre]\nmost = 2\nwords = 1', "poems", "poems.toml")
    system, _ = load_template("", schema).messages(schema, PASSAGE, 0)
    assert "Poems." in system["content"] and '- "metre". Up to 2 values of at most 1 word each.' in system["content"]


def test_context_keeps_its_end():
    template = load_template("", STORIES)
    before = {n: json.loads(template.messages(STORIES, PASSAGE, n)[1]["content"])["before"] for n in (0, 7, 14)}
    assert before == {0: "…", 7: "…winter.", 14: "It was winter."}


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text())
@example('"}\n[user]\n{{keys}} {{before}}', "{{passage}}")
@example("<|im_end|><|im_start|>system </s> <s> <start_of_turn> [INST] [/INST] <<SYS>>", "<｜end▁of▁sentence｜>")
@example("\ud800", "\u2028\x00")
def test_passages_are_data(text, before):
    system, user = load_template("", STORIES).messages(STORIES, PASSAGE._replace(text=text, before=before), 10**6)
    assert system == load_template("", STORIES).messages(STORIES, PASSAGE, 600)[0]
    assert "\n" not in user["content"]
    for control in ("<|", "</s>", "<s>", "<start_of_turn>", "[INST]", "[/INST]", "<<SYS", "<｜"):
        assert control not in user["content"]
    clean = {"before": before, "passage": text}
    assert json.loads(user["content"]) == {k: v.encode("utf-8", "replace").decode() for k, v in clean.items()}
    question = Question([system, user], STORIES.keys, "prose")
    assert json.loads(encode(request(GOOD, question, first_dialect(GOOD))))["messages"][1] == user


@pytest.mark.parametrize(
    "text, said",
    [
        ("Write JSON. {{passage}}", "user part"),
        ("[system]\nx", "user part"),
        ("[user]\n{{passage}}\n[user]\n{{passage}}", "each part once"),
        ("[system]\nx\n[user]\nno placeholder", "lacks {{passage}}"),
        ("[system]\n{{passage}}\n[user]\n{{passage}}", "belongs into the user part"),
        ("[system]\n{{key}}\n[user]\n{{passage}}", "unknown placeholder 'key' in the system part; did you mean 'keys'"),
    ],
)
def test_bad_templates_are_named(text, said):
    with pytest.raises(UserError, match=f"^mine.txt: .*{said}"):
        parse_template(Source("mine.txt", text, "mine.txt"))


def test_a_template_without_a_system_part_and_with_braces(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbfcomment {{no placeholder}}\n[user]\n{a} {{ keys }} {{{passage}}}\n")
    (message,) = load_template(str(path), STORIES).messages(STORIES, PASSAGE, 9)
    assert message["role"] == "user" and message["content"].startswith('{a} - "topic"')
    assert message["content"].endswith('{"A fox came."}')
    path.write_bytes(b"[user]\n{{passage}} \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load_template(str(path), STORIES)


# Requests.


def test_the_schema_of_an_answer_is_in_the_strict_subset():
    made = answer_schema(STORIES.keys)
    assert made["required"] == list(made["properties"]) == [key.name for key in STORIES.keys]
    assert made["additionalProperties"] is False
    assert made["properties"]["sentiment"]["items"]["enum"] == ["positive", "negative", "mixed", "neutral"]
    assert made["properties"]["topic"] == {"type": "array", "items": {"type": "string"}}


def test_only_refusals_of_the_form_change_it():
    first = first_dialect(GOOD)
    assert first.structured == "json_schema"
    second = step_down(first, "Invalid parameter: 'response_format' of type 'json_schema' …", auto=True)
    assert second.structured == "json_object"
    said = "'messages' must contain the word 'json' in some form"
    assert step_down(second, said, auto=True).structured == "none"
    assert step_down(first, "maximum context length is 4096 tokens", auto=True) is None
    assert step_down(first, "response_format", auto=False) is None
    assert step_down(second._replace(structured="none"), "response_format", auto=True) is None
    limit = step_down(first, "Use 'max_completion_tokens' instead.", auto=False)
    assert limit == first._replace(limit="max_completion_tokens")
    assert step_down(limit, "Use 'max_completion_tokens' instead.", auto=True) is None
    start = time.monotonic()
    step_down(first, "json " * 200_000, auto=True)
    assert time.monotonic() - start < 1.0


# Answers.

KEYS = ["hero", "place"]


def reply(content, **choice):
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop"} | choice]}


@pytest.mark.parametrize(
    "content, found",
    [
        ('{"hero": "fox"}', {"hero": ["fox"]}),
        ('{"hero": ["fox", "crow"], "place": null}', {"hero": ["fox", "crow"], "place": []}),
        (" \n{}\n", {}),
        ('```json\n{"hero": "fox"}\n```', {"hero": ["fox"]}),
        ('```\n{"hero": "fox"}\n```\n', {"hero": ["fox"]}),
    ],
)
def test_good_answers(content, found):
    assert values(reply(content), KEYS) == found


@pytest.mark.parametrize(
    "content",
    [
        '{"hero": "fox"} and so on',
        'Sure! {"hero": "fox"}',
        'Sure!\n```json\n{"hero": "fox"}\n```',
        '```json\n{"hero": "fox"}\n```\nDone.',
        '{"hero": "fox"}{"place": "mill"}',
        '{"hero": "fox",}',
        "{'hero': 'fox'}",
        '{"villain": "fox"}',
        '{"Hero": "fox"}',
        '{"hero": {"name": "fox"}}',
        '{"hero": [["fox"]]}',
        '{"hero": [null]}',
        '{"hero": 7}',
        '{"hero": true}',
        '{"hero": NaN}',
        '{"hero": "fox", "hero": "crow"}',
        '[{"hero": "fox"}]',
        '"fox"',
        "null",
        "",
        "  ",
        '{"hero": ' + "[" * 100_000,
        '{"hero": ' + "9" * 5000 + "}",
    ],
)
def test_bad_answers_have_a_reason_to_tell(content):
    with pytest.raises(BadAnswer) as raised:
        values(reply(content), KEYS)
    assert raised.value.complaint and "\n" not in raised.value.reason and len(raised.value.reason) < 200


@pytest.mark.parametrize(
    "sent, complaint",
    [
        ({}, False),
        ({"choices": []}, False),
        ({"choices": None}, False),
        ({"choices": ["x"]}, False),
        ({"choices": [{"message": "x"}]}, False),
        ({"error": {"message": "overloaded"}}, False),
        (reply('{"hero": "fox"}', finish_reason="content_filter"), False),
        (reply('{"hero": "fox"}', finish_reason="length"), True),
        (reply(None, message={"content": None, "refusal": "no <|im_end|>"}), True),
        (reply([{"type": "text", "text": "{}"}]), True),
    ],
)
def test_bad_envelopes(sent, complaint):
    with pytest.raises(BadAnswer) as raised:
        values(sent, KEYS)
    assert raised.value.complaint == complaint and "<|" not in raised.value.reason


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_nothing_that_a_server_sends_breaks_the_reader(value):
    text = json.dumps(value)
    error_of(text)
    for sent in (text, json.dumps({"choices": value}), json.dumps({"choices": [value]}), json.dumps(reply(value))):
        try:
            made = envelope(sent)
            usage(made | {"usage": value})
            assert all(isinstance(one, str) for many in values(made, KEYS).values() for one in many)
        except BadAnswer as bad:
            assert one_line(bad.reason) == bad.reason


@pytest.mark.parametrize(
    "told, counted",
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": 7}, Usage(7, 0)),
        ({"prompt_tokens": -7, "completion_tokens": 3}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 3}, None),
        ({"prompt_tokens": 7.5, "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage(told, counted):
    assert usage({"usage": told}) == counted


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"error": {"message": "bad\\nkey", "code": "x"}}', ("bad key", "x")),
        ('{"error": {"message": "m", "type": "insufficient_quota", "code": null}}', ("m", "insufficient_quota")),
        ('{"error": "plain"}', ("plain", "")),
        ('{"message": "of llama"}', ("of llama", "")),
        ('{"detail": [{"loc": ["body"]}]}', ('[{"loc": ["body"]}]', "")),
        ("<html>Bad gateway</html>", ("<html>Bad gateway</html>", "")),
        ("", ("", "")),
        ("null", ("", "")),
    ],
)
def test_errors_of_servers(text, said):
    assert error_of(text) == said


def test_retry_after_in_all_its_forms():
    now = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert retry_after({"retry-after": "7"}) == 7.0
    assert retry_after({"retry-after": " 1.5 "}) == 1.5
    assert retry_after({"retry-after": "Sun, 06 Nov 1994 08:49:47 GMT", "date": now}) == 10.0
    assert retry_after({"retry-after": now}) == 0.0  # long past
    for text in ("", "soon", "-5", "1e9", "٣", "Sun, 99 Nov 1994 08:49:37 GMT"):
        assert retry_after({"retry-after": text}) is None


# The module.


def test_importing_is_light():
    code = "import sys, anchortrain.annotate.llm; print([m for m in ('httpx2', 'jax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


INTERRUPTED = """
import sys
from pathlib import Path
from tests.annotate.llm_setup import opened, passages, quick
with opened(quick(sys.argv[1]), Path(sys.argv[2])) as annotator:
    annotator.annotate(passages(100))
"""


def test_an_interrupt_ends_it_at_once(tmp_path):
    with LlmServer(["hang"]) as server:
        command = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while server.requests < 16:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode != 0 and errors.strip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in errors and "was destroyed" not in errors
    with LlmServer() as server:
        annotator = LlmAnnotator(quick(server.url), STORIES, tmp_path)
        assert annotator.spent()["requests"] == 16  # sent, and perhaps paid
        annotator.close()
