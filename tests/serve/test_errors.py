"""Wrong requests: a 4xx with an error as OpenAI's API has it, which names the field."""

import json

import httpx2
import pytest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="module")
def http(server):
    with httpx2.Client(base_url=server.url, timeout=30) as made:
        yield made


def assert_error(answer, status, param=None):
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert param is None or error["param"] == param, error
    return error


def post(http, path, content=None, **given):
    body = {"model": "tiny", **({"messages": [USER]} if path == CHAT else {"prompt": "Hi"}), **given}
    return http.post(path, json={name: value for name, value in body.items() if value != "absent"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "absent"),
        ("model", 3),
        ("messages", "absent"),
        ("messages", []),
        ("messages", "Hi"),
        ("n", 0),
        ("n", 65),
        ("n", 1.5),
        ("n", True),
        ("max_tokens", 0),
        ("max_tokens", 257),
        ("max_completion_tokens", 10**30),
        ("temperature", -1),
        ("temperature", 1e-9),
        ("temperature", 1e300),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("stop", [""]),
        ("stop", ["a"] * 5),
        ("seed", -1),
        ("seed", 1 << 32),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("logprobs", 1),
        ("top_logprobs", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"1": 5}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("store", True),
        ("reasoning_effort", "high"),
        ("no_such_field", 1),
        ("anchortrain", []),
    ],
)
def test_chat_names_the_field(http, field, value):
    error = assert_error(post(http, CHAT, **{field: value}), 400)
    assert (error["param"] or "").split(".")[0] == field and error["type"] == "invalid_request_error"
    assert field in error["message"] or field in ("temperature",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", [1, 2, 3]),
        ("prompt", [[1, 2]]),
        ("prompt", []),
        ("prompt", "absent"),
        ("logprobs", 3),
        ("echo", True),
        ("suffix", "."),
        ("best_of", 4),
        ("messages", [USER]),
    ],
)
def test_completions_name_the_field(http, field, value):
    assert_error(post(http, COMPLETIONS, **{field: value}), 400, field)


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        ({"fixed": {"hero": 3}}, "must be a string or a list"),
        ({"fixed": {"no_such_key": "x"}}, "no key 'no_such_key'"),
        ({"fixed": {"hero": "a; b"}}, "delimiter"),
        ({"fixed": {"hero": "fox"}, "forbidden": {"hero": "fox"}}, "fixed and forbidden"),
        ({"plan": {"hero": "fox"}, "prefix": "hero"}, "nothing to fix"),
        ({"prefix": "villain: x"}, "villain"),
        ({"fixed": {"hero": "fox"}, "mode": "single_stage"}, "no annotation to steer"),
        ({"fixed": {"hero": "fox" * 60}, "max_annotation_tokens": 5}, "tokens"),
        ({"mode": "document"}, "two_stage"),
        ({"max_annotation_tokens": 65}, "at most 64"),
        ({"annotation_top_p": 2}, "less than or equal to 1"),
        ({"constrain": 1}, "boolean"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_extension_is_checked(http, extension, said):
    error = assert_error(post(http, CHAT, anchortrain=extension), 400)
    assert said in error["message"], error


def test_harmless_values_of_what_is_not_supported_are_taken(http):
    harmless = {
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}, "user": "me",
        "presence_penalty": 0, "frequency_penalty": 0.0, "store": False, "top_logprobs": 0, "metadata": None,
    }  # fmt: skip
    assert post(http, CHAT, max_tokens=2, **harmless).status_code == 200
    assert post(http, COMPLETIONS, max_tokens=2, n=2, best_of=2, echo=False, suffix="").status_code == 200


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],
        [{"role": "assistant", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Hi"}, {"role": "user", "content": "Hi"}],
        [{"role": "system", "content": "Hi"}],
        [{"role": "tool", "content": "Hi", "tool_call_id": "1"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "word " * 500}],
    ],
)
def test_conversations_that_cannot_be(http, messages):
    error = assert_error(post(http, CHAT, messages=messages), 400)
    assert error["param"].startswith("messages")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'"\\ud800"'],
)
def test_bodies_that_are_no_json_objects(http, content):
    assert_error(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)


def test_other_refusals(http):
    assert_error(post(http, CHAT, model="gpt-4o"), 404, "model")
    assert_error(http.get("/v1/nothing"), 404)
    assert_error(http.get(CHAT), 405)
    assert_error(http.post("/v1/models"), 405)
    assert_error(http.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    assert_error(http.get("/v1/models", headers={"Host": "evil.example"}), 403)


def test_a_body_that_is_too_long(make_server):
    with make_server(max_body=1000) as server, httpx2.Client(base_url=server.url) as http:
        for size in (1500, 100_000):
            long = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * size}]})
            try:
                assert_error(http.post(CHAT, content=long, headers={"Content-Type": "application/json"}), 413)
            except httpx2.WriteError:
                assert size > 10_000  # far too long: the connection is closed while it comes
        pieces = (b"x" * 400 for _ in range(4))
        assert_error(http.post(CHAT, content=pieces, headers={"Content-Type": "application/json"}), 413)


def test_the_key_is_needed(make_server):
    with make_server(api_key="the key") as server, httpx2.Client(base_url=server.url) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic the key"}):
            error = assert_error(http.get("/v1/models", headers=headers), 401)
            assert error["code"] == "invalid_api_key"
            assert_error(post(http, CHAT), 401) if not headers else None
        assert http.get("/v1/models", headers={"Authorization": "Bearer the key"}).status_code == 200
        assert [http.get(path).status_code for path in ("/", "/health", "/ready", "/metrics")] == [200] * 4


def test_other_origins_are_refused_unless_named(http, make_server):
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in http.options(CHAT, headers=asked).headers
    with make_server(cors_origins=("https://page.example",)) as server:
        allowed = httpx2.options(server.url + CHAT, headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
