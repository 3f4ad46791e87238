"""Many clients at once, and requests of every kind: what both the tests and `benchmarks.serve_stress` do.

Whatever a stream should have told is known beforehand: the whole answer to the same request, asked for alone.
"""

import asyncio
import dataclasses
import json
import random
from typing import Any

import httpx2

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclasses.dataclass
class Tally:
    """What came of many requests."""

    answered: int = 0
    refused: dict[int, int] = dataclasses.field(default_factory=dict)  # status -> how many
    wrong: list[str] = dataclasses.field(default_factory=list)

    def refuse(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1


def body_of(model: str, number: int, *, max_tokens: int = 32) -> dict[str, Any]:
    """A request that `number` tells apart from all others."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
        "max_tokens": max_tokens,
        "seed": number,
        "anchortrain": {"return_annotation": True},
    }


async def stream_text(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(text, annotation, finish reason) of each choice. Raises ValueError for a stream that is not whole."""
    found: dict[int, list[Any]] = {}
    last = ""
    async with client.stream("POST", CHAT, json=body | {"stream": True}) as answer:
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}: {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if not line:
                continue
            last = line
            if line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            for choice in chunk.get("choices", ()):
                one = found.setdefault(choice["index"], ["", None, None])
                one[0] += choice["delta"].get("content") or ""
                one[1] = choice.get("anchortrain", {}).get("annotation", one[1])
                one[2] = choice["finish_reason"]
    if last != "data: [DONE]" or any(one[2] is None for one in found.values()):
        raise ValueError(f"truncated: {last[:200]!r}")
    return [tuple(found[index]) for index in sorted(found)]


async def whole_text(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[tuple[str, Any, str]]:
    answer = await client.post(CHAT, json=body)
    answer.raise_for_status()
    return [
        (choice["message"]["content"], choice["anchortrain"]["annotation"], choice["finish_reason"])
        for choice in answer.json()["choices"]
    ]


async def stream_for(url: str, model: str, *, clients: int, seconds: float, kinds: int = 64) -> Tally:
    """Streams from so many clients at once; each stream must tell what the same request was told alone."""
    tally = Tally()
    limits = httpx2.Limits(max_connections=clients + 8)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        bodies = [body_of(model, number) for number in range(kinds)]
        expected = [await whole_text(http, body) for body in bodies]
        end = asyncio.get_running_loop().time() + seconds

        async def one(number: int) -> None:
            choose = random.Random(number)
            while asyncio.get_running_loop().time() < end:
                kind = choose.randrange(kinds)
                try:
                    got = await stream_text(http, bodies[kind])
                except (ValueError, httpx2.HTTPError) as error:
                    tally.wrong.append(f"{type(error).__name__}: {error}")
                    continue
                if got == expected[kind]:
                    tally.answered += 1
                else:
                    tally.wrong.append(f"kind {kind}: {got!r}, not {expected[kind]!r}")

        await asyncio.gather(*(one(number) for number in range(clients)))
    return tally


# -- random requests -------------------------------------------------------------------------------

_TEXTS = ("Tell me.", "x" * 40, "São Paulo’s café <3", "</ann><ann>hero: x</ann>", "a\nb\0c", " é")
_VALUES = ("fox", "the old fox", "é", "mill by the river", "x" * 30)
_BAD_VALUES = ("a; b", "", " x", "x" * 201, "<ann>", "x" * 190)


class _Chooser:
    """Fields of a body, each with values that are allowed and some that are not; only every other body has these."""

    def __init__(self, choose: random.Random, *, wild: bool) -> None:
        self.choose, self.wild = choose, wild
        self.made: dict[str, Any] = {}

    def maybe(self, name: str, share: float, good: tuple[Any, ...], bad: tuple[Any, ...] = ()) -> None:
        if self.choose.random() < share:
            self.made[name] = self.choose.choice(bad if bad and self.wild and self.choose.random() < 0.25 else good)

    def tags(self, keys: tuple[str, ...]) -> Any:
        bad = self.wild and self.choose.random() < 0.3
        pairs = [[self.choose.choice(keys), self.choose.choice(_BAD_VALUES if bad else _VALUES)]]
        pairs += [[self.choose.choice(keys), "mill"]] * self.choose.choice((0, 0, 1))
        if self.wild and self.choose.random() < 0.05:
            pairs.append(["no_such_key", "x"])
        return self.choose.choice((pairs, dict(pairs)))


def random_request(choose: random.Random, model: str, keys: tuple[str, ...], limits: dict[str, int]) -> tuple[str, Any]:
    """A path and a body: settings at their limits, and in every other request also past them."""
    chat, body = choose.random() < 0.6, _Chooser(choose, wild=choose.random() < 0.5)
    text = choose.choice(("word " * 300, "")) if body.wild and choose.random() < 0.1 else choose.choice(_TEXTS)
    body.made["model"] = model
    if chat:
        turns = 2 if body.wild and choose.random() < 0.1 else choose.choice((1, 1, 3))
        messages = [{"role": ("user", "assistant")[i % 2], "content": text if i == 0 else "Yes."} for i in range(turns)]
        system = [{"role": "system", "content": "Be kind."}] if choose.random() < 0.2 else []
        body.made["messages"] = system + messages
    else:
        body.maybe("prompt", 1, (text, [text, "Hi"], [text] * 3), ([1, 2], []))
    most = limits["max_tokens"]
    body.maybe("n", 0.4, (1, 2, limits["max_n"] if chat else 2, None), (0, limits["max_n"] + 1))
    body.maybe("max_tokens", 1, (1, 2, 8, 12, 16, 24, most if choose.random() < 0.2 else 4), (most + 1, 0, -1, "8"))
    body.maybe("temperature", 0.5, (0, 0.001, 0.7, 1, 2, 100, None), (-1, 1e-5, "1"))
    body.maybe("top_p", 0.3, (1, 0.5, 1e-6), (0, 1.01))
    body.maybe("stop", 0.4, ("e", ["o", "the"], ["zzz"], [], None), ("", ["a"] * 5))
    body.maybe("seed", 0.5, (0, 1, (1 << 32) - 1), (1 << 32, -1))
    body.maybe("stream", 0.3, (True, False))
    body.maybe("logprobs", 0.2, (True, False) if chat else (0, None), (2,))
    body.maybe("presence_penalty", 0.05, (0,), (1,))
    if chat:
        body.maybe("tools", 0.05, ([],), ([{"type": "function"}],))
    if choose.random() < 0.7:
        body.made["anchortrain"] = _random_extension(_Chooser(choose, wild=body.wild), keys, limits)
    return (CHAT if chat else COMPLETIONS), body.made


def _random_extension(made: _Chooser, keys: tuple[str, ...], limits: dict[str, int]) -> dict[str, Any]:
    made.maybe("return_annotation", 1, (True, True, True, False))
    steering = made.choose.choice(("none", "tags", "plan", "prefix"))
    if steering == "tags":
        made.maybe("fixed", 0.7, (made.tags(keys), {}, []))
        made.maybe("forbidden", 0.4, (made.tags(keys),))
    elif steering == "plan":
        made.maybe("plan", 1, (made.tags(keys), made.tags(keys), [], None))
    elif steering == "prefix":
        key = made.choose.choice(keys)
        begun = (f"{key}: fox", f"{key}: fox; ", key[:2], f"{key}:", "", f"{key}: a;")
        made.maybe("prefix", 1, begun, ("; ", "nonsense", "no_such_key: x"))
    made.maybe("mode", 0.15, ("two_stage",) if steering != "none" else ("two_stage", "single_stage"), ("document",))
    made.maybe("constrain", 0.2, (True, False))
    most = limits["max_annotation_tokens"]
    made.maybe("max_annotation_tokens", 0.3, (36, most) if steering != "none" else (1, 2, 12, most), (3, most + 1, 0))
    made.maybe("annotation_temperature", 0.3, (0, 0.5, 1.5, 100), (1e-4, -1))
    made.maybe("annotation_top_k", 0.2, (0, 1, 5, 2**31 - 1), (-1, 2**31))
    made.maybe("annotation_top_p", 0.15, (0.3, 1), (0,))
    made.maybe("annotation_min_p", 0.1, (0, 0.5, 1), (1.1,))
    made.maybe("annotation_repetition_penalty", 0.1, (1, 1.3, 0.001, 1000), (0,))
    made.maybe("top_k", 0.15, (1, 50), (2**40,))
    made.maybe("min_p", 0.1, (0.1, 1), (-0.1,))
    made.maybe("repetition_penalty", 0.1, (1.2, 1000), (1001,))
    if made.wild:
        made.maybe("colour", 0.02, ("red",))
    return made.made


def problem(path: str, body: dict[str, Any], status: int, content: bytes) -> str | None:
    """What is wrong with an answer; None when it is well-formed or a clear refusal."""
    if status != 200:
        error = json.loads(content).get("error", {})
        if 400 <= status < 500 and set(error) == {"message", "type", "param", "code"} and error["message"]:
            return None
        return f"status {status}"
    if body.get("stream"):
        *events, done = content.decode().strip().split("\n\n")
        if done != "data: [DONE]":
            return f"a stream ends with {done[:100]!r}"
        chunks = [choice for event in events for choice in json.loads(event.removeprefix("data: "))["choices"]]
        by_index: dict[int, list[dict]] = {}
        for choice in chunks:
            by_index.setdefault(choice["index"], []).append(choice)
        choices = [_joined(of) for _, of in sorted(by_index.items())]
    else:
        choices = json.loads(content)["choices"]
    prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
    if len(choices) != prompts * (body.get("n") or 1):
        return f"{len(choices)} choices"
    return next((said for choice in choices if (said := _choice_problem(body, choice))), None)


def _joined(of: list[dict]) -> dict[str, Any]:
    details: dict[str, Any] = {}
    for choice in of:
        details |= choice.get("anchortrain", {})
    text = "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in of)
    return {"text": text, "finish_reason": of[-1]["finish_reason"], "anchortrain": details}


def _choice_problem(body: dict[str, Any], choice: dict[str, Any]) -> str | None:
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    details, extension = choice.get("anchortrain", {}), body.get("anchortrain", {})
    if choice["finish_reason"] not in ("stop", "length", "content_filter"):
        return f"finish reason {choice['finish_reason']!r}"
    stops = body.get("stop") or []
    if any(stop in text for stop in ([stops] if isinstance(stops, str) else stops)):
        return f"the stop string is in {text!r}"
    if choice["finish_reason"] == "content_filter":
        return None if details.get("refusal") and not text else "a refusal without a reason"
    if extension.get("mode") == "single_stage" or not extension.get("return_annotation"):
        return "an annotation that nobody asked for" if "annotation" in details else None
    if not details["wellformed"]:
        return None if extension.get("constrain") is False else "constrained, but not well-formed"
    have = {tuple(tag) for tag in details["annotation"]}
    if missing := _pairs(extension.get("fixed")) - have:
        return f"without the fixed tags {missing}"
    if there := _pairs(extension.get("forbidden")) & have:
        return f"with the forbidden tags {there}"
    if extension.get("plan") is not None and _pairs(extension["plan"]) != have:
        return f"another plan: {have}"
    return None


def _pairs(tags: Any) -> set[tuple[str, str]]:
    return {tuple(pair) for pair in (tags.items() if isinstance(tags, dict) else tags or ())}


async def random_requests(url: str, model: str, *, count: int, seed: int = 0, at_once: int = 32) -> Tally:
    """So many random requests, some at once."""
    tally = Tally()
    async with httpx2.AsyncClient(base_url=url, timeout=300) as http:
        (described,) = (await http.get("/v1/models")).json()["data"]
        keys, limits = tuple(described["anchortrain"]["keys"]), described["anchortrain"]["limits"]
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                path, body = random_request(random.Random(f"{seed} {number}"), model, keys, limits)
                answer = await http.post(path, json=body)
                said = problem(path, body, answer.status_code, answer.content)
                if said is not None:
                    tally.wrong.append(f"request {number}: {said}: {json.dumps(body)[:600]} {answer.text[:300]}")
                elif answer.status_code == 200:
                    tally.answered += 1
                else:
                    tally.refuse(answer.status_code)

        await asyncio.gather(*(some() for _ in range(at_once)))
    return tally
