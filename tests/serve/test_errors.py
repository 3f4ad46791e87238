"""Wrong requests: a 4xx with an error as OpenAI's API has it, which names the field."""

import json
import time

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
        ("n", 10**4299),
        ("temperature", -1),
        ("temperature", 1e-9),
        ("temperature", 1e300),
        ("temperature", "1"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("stop", ""),
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
        ("prompt", ""),
        ("prompt", " \n"),
        ("prompt", "absent"),
        ("logprobs", 3),
        ("echo", True),
        ("suffix", "."),
        ("best_of", 4),
        ("messages", [USER]),
    ],
)
def test_completions_name_the_field(http, field, value):
    error = assert_error(post(http, COMPLETIONS, **{field: value}), 400)
    assert error["param"].split(".")[0] == field


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        (CHAT, {"stop": ["a"] * 5}, "stop: at most four strings"),
        (CHAT, {"stop": 3}, "stop: must be a string or a list of strings"),
        (CHAT, {"messages": []}, "messages: is empty"),
        (COMPLETIONS, {"prompt": []}, "prompt: is empty"),
        (COMPLETIONS, {"prompt": ["Hi", ""]}, "prompt.1: is empty"),
        (COMPLETIONS, {"prompt": ["Hi", 3]}, "prompt.1: must be a string; token ids are not supported"),
        (COMPLETIONS, {"prompt": 3}, "prompt: must be a string or a list of strings; token ids are not supported"),
        (
            COMPLETIONS,
            {"prompt": ["Hi"] * 100, "n": 10**4299},
            "n: at most 64 choices in one request, of all its prompts together",
        ),
        (CHAT, {"max_tokens": 10**4000}, "max_tokens: at most 256"),
    ],
)
def test_messages_say_what_is_wrong(http, path, given, message):
    error = assert_error(post(http, path, **given), 400, message.partition(":")[0])
    assert error["message"] == message


@pytest.mark.parametrize(
    ("extension", "param", "said"),
    [
        ({"fixed": {"hero": 3}}, "fixed.0", "must be a non-empty string"),
        ({"fixed": [["hero", "fox"], ["hero", "a; b"]]}, "fixed.1", "delimiter"),
        ({"fixed": "hero"}, "fixed", "must be an object"),
        ({"fixed": {"no_such_key": "x"}}, "fixed", "no key 'no_such_key'"),
        ({"forbidden": {"no_such_key": "x"}}, "forbidden", "no key 'no_such_key'"),
        ({"fixed": {"hero": "fox"}, "plan": {"no_such_key": "x"}}, "plan", "no key 'no_such_key'"),
        ({"required": ["hero", "no_such_key"]}, "required", "no key 'no_such_key'"),
        ({"prefix": "villain: x"}, "prefix", "no key 'villain'"),
        ({"prefix": "; "}, "prefix", "must read 'key: value'"),
        ({"prefix": "hero: x" * 10_000}, "prefix", "at most 16384 characters"),
        ({"fixed": {"hero": "fox"}, "forbidden": {"hero": "fox"}}, None, "fixed and forbidden"),
        ({"fixed": {"hero": "fox"}, "prefix": "hero: fox"}, None, "fixed and in the prefix"),
        ({"plan": {"hero": "fox"}, "prefix": "hero"}, None, "nothing to fix"),
        ({"fixed": {"hero": "fox"}, "mode": "single_stage"}, "fixed", "no annotation to steer"),
        ({"fixed": {"hero": "fox" * 60}, "max_annotation_tokens": 5}, "fixed", "tokens"),
        ({"fixed": [["hero", f"x{i}"] for i in range(5000)]}, "fixed", "at most 4096"),
        ({"mode": "document"}, "mode", "two_stage"),
        ({"prefix": "hero: a; ", "max_annotation_tokens": 8}, "max_annotation_tokens", "tokens more at least"),
        ({"max_annotation_tokens": 65}, "max_annotation_tokens", "at most 64"),
        ({"annotation_top_p": 2}, "annotation_top_p", "less than or equal to 1"),
        ({"constrain": 1}, "constrain", "boolean"),
        ({"colour": "red"}, "colour", "colour"),
    ],
)
def test_extension_is_checked(http, extension, param, said):
    error = assert_error(post(http, CHAT, anchortrain=extension), 400)
    assert said in error["message"] and len(error["message"]) <= 500
    assert error["param"] == ("anchortrain" if param is None else f"anchortrain.{param}")


def test_a_tag_that_is_given_twice_is_one(http):
    for twice in ({"hero": ["fox", "fox"]}, [["hero", "fox"], ["hero", "fox"]]):
        for field in ("fixed", "plan"):
            answer = post(http, CHAT, max_tokens=2, anchortrain={field: twice, "return_annotation": True}).json()
            assert answer["choices"][0]["anchortrain"]["annotation"].count(["hero", "fox"]) == 1


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
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " \n"}],
        [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi", "name": "Ann"}],
        [{"role": "user", "content": "Hi", "tool_calls": [{"id": "1"}]}],
        [{"role": "user", "content": "word " * 500}],
    ],
)
def test_conversations_that_cannot_be(http, messages):
    error = assert_error(post(http, CHAT, messages=messages), 400)
    assert error["param"].startswith("messages")


def test_a_prompt_without_words_is_named(http):
    system, empty = {"role": "system", "content": "Be kind."}, {"role": "user", "content": ""}
    for messages, place in (([empty], 0), ([system, empty], 1), ([USER, {**USER, "role": "assistant"}, empty], 2)):
        error = assert_error(post(http, CHAT, messages=messages), 400, f"messages.{place}.content")
        assert error["message"] == f"messages.{place}.content: is empty"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'"\\ud800"'],
)
def test_bodies_that_are_no_json_objects(http, content):
    assert_error(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)


def test_half_a_surrogate_pair_is_told(http):
    for field in ("user", "stop", "model"):
        content = json.dumps({"model": "tiny", "messages": [USER], field: "a\ud800"})  # as Python writes it
        error = assert_error(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)
        assert "half of a surrogate pair" in error["message"]


def test_a_body_of_nothing_but_errors_keeps_nobody_waiting(http):
    began = time.monotonic()
    for field, value in (("messages", [1]), ("stop", [1]), ("anchortrain", {"required": [1]})):
        content = json.dumps({"model": "tiny", "messages": [USER], field: value}).replace("[1]", f"[{'1,' * 500_000}1]")
        assert_error(http.post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)
    assert time.monotonic() - began < 3  # each took as long when all of them were listed


def test_other_refusals(http):
    assert_error(post(http, CHAT, model="gpt-4o"), 404, "model")
    assert_error(http.get("/v1/nothing"), 404)
    assert_error(http.get(CHAT), 405)
    assert_error(http.post("/v1/models"), 405)
    assert_error(http.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert_error(http.post(CHAT, content=b"{}", headers=packed), 415)
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
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",  # OpenAI's client sends some
    }
    assert "access-control-allow-origin" not in http.options(CHAT, headers=asked).headers
    with make_server(cors_origins=("https://page.example",)) as server:
        allowed = httpx2.options(server.url + CHAT, headers=asked)
        assert httpx2.options(server.url + CHAT, headers=asked | {"Origin": "https://other.example"}).status_code == 400
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"


def test_all_origins_still_need_the_key(make_server):
    with make_server(cors_origins=("*",), api_key="the key") as server:
        headers = {"Origin": "https://page.example"}
        refused = httpx2.get(f"{server.url}/v1/models", headers=headers)
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in refused.headers
        key = {"Authorization": "Bearer the key"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers | key).status_code == 200
