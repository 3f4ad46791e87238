"""A server with `/v1/chat/completions` on 127.0.0.1 that answers from a hash of the passage, and misbehaves on demand.

    with LlmServer(faults=["429", "cut"], share=0.5, seed=0) as server:
        … server.url … server.requests … server.answered

As a process of its own, `python -m tests.annotate.llm_server --faults 429,cut --share 0.5` prints the URL on a line and
serves until it is ended; `counters(url)` reads its counts.

A passage meets faults in its first `times` requests, each with probability `share`; which ones follows from `seed`,
passage and request alone. All that is answered well is the same with and without faults.
"""

import argparse
import contextlib
import dataclasses
import email.utils
import hashlib
import json
import random
import re
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

# Instead of an answer.
LOST = ("hang", "cut", "close", "trickle", "not_http", "huge", "broken_json")
REFUSED = ("429", "429_seconds", "429_date", "500", "503")
BAD = ("no_choices", "prose", "wrong_keys", "nested", "length", "content_filter", "refusal", "number")
# Good answers, told oddly.
ODD = ("dirty", "fence", "no_usage", "string_for_list", "null")
# The server repeats the key: in an annotation, in an error.
ECHO = ("echo", "echo_500")
FAULTS = (*LOST, *REFUSED, *BAD, *ODD)  # a server that has them all still answers everything in the end

HUGE_BYTES = 10_000_000
_KEY_LINE = re.compile(r'^- "([a-z][a-z0-9_-]*)"(?:.*(?:One|Up to \d+) of ("[^\n]*")\.)?', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it arrived; `fault` is "" when it was answered well."""

    seconds: float  # monotonic
    passage: str
    body: dict[str, Any]
    fault: str
    structured: str


def annotation_of(passage: str, system: str) -> dict[str, list[str]]:
    """The deterministic annotation of a passage, for the keys that the system message lists."""
    words = re.findall(r"[A-Za-z]{3,}", passage) or ["nothing"]
    found = {}
    for key, values in _KEY_LINE.findall(system):
        number = int.from_bytes(hashlib.sha256(f"{key} {passage}".encode()).digest()[:6], "big")
        choices = json.loads(f"[{values}]") if values else words
        found[key] = [choices[number % len(choices)]]
    return found


class LlmServer:
    """Context manager around the server in a thread. Counters may be read at any time."""

    def __init__(
        self,
        faults: Sequence[str] = (),
        *,
        share: float = 1.0,
        times: int = 1,
        seed: int = 0,
        seconds: float = 0.0,
        retry_after: float = 1.0,
        refuses: Sequence[str] = (),
        per_second: float = 0.0,
        key: str = "",
        port: int = 0,
    ) -> None:
        """Listens at once.

        Args:
          faults: of FAULTS or ECHO, a status such as "404", or "429_quota".
          share: probability of a fault.
          times: requests of each passage that may meet one.
          seed: which ones do.
          seconds: that an answer takes.
          retry_after: seconds that the 429 faults with a header ask for.
          refuses: forms of response_format that are answered with 400; "max_tokens" refuses that field.
          per_second: good answers; more are refused with 429. 0 is no limit.
          key: the API key that is asked for; "" takes any.
          port: 0 takes a free one.
        """
        self.faults, self.share, self.times, self.seed = tuple(faults), share, times, seed
        self.seconds, self.retry_after, self.refuses, self.key = seconds, retry_after, tuple(refuses), key
        self.per_second, self._next = per_second, 0.0
        self.log: list[Request] = []
        self.answered: Counter[str] = Counter()  # passage -> good answers that were sent
        self.tokens = 0  # that the model has read and written, told or not
        self.in_flight = self.most_in_flight = 0
        self.connections: list[socket.socket] = []
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def requests(self) -> int:
        """Requests so far, of any outcome."""
        return len(self.log)

    def counts(self) -> dict[str, Any]:
        """What `counters` reads over HTTP."""
        with self.lock:
            kept = {"requests": len(self.log), "answered": dict(self.answered), "tokens": self.tokens}
            return kept | {"most_in_flight": self.most_in_flight}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and all its connections. May be called again."""
        if self.ending.is_set():
            return
        self.ending.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def arrived(self, body: dict[str, Any], passage: str) -> Request:
        """Records a request and decides its fault."""
        structured = body.get("response_format", {}).get("type", "none")
        with self.lock:
            tries = sum(1 for one in self.log if one.passage == passage and not one.fault.startswith("refuses"))
            refused = [form for form in self.refuses if form == structured or form in body]
            fault = f"refuses {refused[0]}" if refused else self._limited() or self._fault(passage, tries)
            request = Request(time.monotonic(), passage, body, fault, structured)
            self.log.append(request)
            return request

    def _limited(self) -> str:
        now = time.monotonic()
        if now < self._next:
            return "429"
        self._next = now + 1 / self.per_second if self.per_second else 0.0
        return ""

    def _fault(self, passage: str, tries: int) -> str:
        draw = random.Random(f"{self.seed} {tries} {passage}")
        return draw.choice(self.faults) if self.faults and tries < self.times and draw.random() < self.share else ""

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Measures the requests in flight."""
        with self.lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self.lock:
                self.in_flight -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: LlmServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._send(200, self.server.owner.counts())

    def do_POST(self) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers["content-length"]))
        with owner.counting():
            if owner.key and self.headers.get("authorization") != f"Bearer {owner.key}":
                said = f"Incorrect API key provided: {self.headers.get('authorization')}"
                self._send(401, {"error": {"message": said, "code": "invalid_api_key"}})
            elif self.path != "/v1/chat/completions":
                self._send(404, {"detail": "Not Found"})
            else:
                self._complete(json.loads(raw))

    def _complete(self, body: dict[str, Any]) -> None:
        owner = self.server.owner
        user = body["messages"][-1]["content"]
        passage = next(json.loads(line)["passage"] for line in user.splitlines() if line.startswith('{"before"'))
        request = owner.arrived(body, passage)
        time.sleep(owner.seconds)
        if request.fault.startswith("refuses"):
            what = request.fault.removeprefix("refuses ")
            limit, form = "Use 'max_completion_tokens' instead.", f"response_format {what} is not supported."
            self._send(400, {"error": {"message": limit if what == "max_tokens" else form}})
        elif request.fault in (*LOST, "echo_500") or request.fault[:1].isdigit():
            self._refuse(request, body)
        else:
            self._answer(request, body)

    def _answer(self, request: Request, body: dict[str, Any]) -> None:
        owner = self.server.owner
        found = annotation_of(request.passage, body["messages"][0]["content"])
        if request.fault == "echo":
            found = {key: [self.headers["authorization"]] for key in found}
        content, reason = told(found, request.fault)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if request.fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        usage = self._work(body, content)
        reply: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": body["model"], "usage": usage}
        reply["choices"] = [{"index": 0, "message": message, "finish_reason": reason}]
        if request.fault == "no_choices":
            reply["choices"] = []
        if request.fault == "no_usage":
            del reply["usage"]
        if request.fault not in BAD:
            with owner.lock:
                owner.answered[request.passage] += 1
        self._send(200, reply)

    def _work(self, body: dict[str, Any], content: str) -> dict[str, int]:
        prompt = sum(len(one["content"]) for one in body["messages"]) // 4
        answer = min(len(content) // 4, body.get("max_tokens") or body["max_completion_tokens"])
        with self.server.owner.lock:
            self.server.owner.tokens += prompt + answer
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def _refuse(self, request: Request, body: dict[str, Any]) -> None:
        fault, owner = request.fault, self.server.owner
        if fault in LOST:
            self._work(body, "x" * 400)
            self.close_connection = True
            getattr(self, f"_{fault}")()
            return
        headers = {}
        if fault == "429_seconds":
            headers["Retry-After"] = f"{owner.retry_after:g}"
        elif fault == "429_date":
            headers["Retry-After"] = email.utils.formatdate(time.time() + owner.retry_after + 1, usegmt=True)
        elif fault.startswith("3"):
            headers["Location"] = f"{owner.url}/chat/completions"
        code = "insufficient_quota" if fault == "429_quota" else None
        status = int(fault.removeprefix("echo_")[:3])
        said = self.headers["authorization"] if fault == "echo_500" else f"status {status} for a test"
        self._send(status, {"error": {"message": said, "code": code}}, headers)

    def _hang(self) -> None:
        self.server.owner.ending.wait(60)

    def _close(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices": [')
        self.connection.shutdown(socket.SHUT_RDWR)

    def _not_http(self) -> None:
        self.wfile.write(b"220 mail.example.org ESMTP\r\n\r\n")

    def _broken_json(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"choices": [')

    def _trickle(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not self.server.owner.ending.wait(0.05):
            self.wfile.write(b" ")

    def _huge(self) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE_BYTES}\r\n\r\n".encode())
        for _ in range(HUGE_BYTES // 10_000):
            self.wfile.write(b" " * 10_000)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        # In one piece with the headers: two would wait for each other's acknowledgement.
        self._headers_buffer.append(b"\r\n" + content)
        self.flush_headers()


def told(found: dict[str, list[str]], fault: str) -> tuple[str, str]:
    """Content and finish_reason of an annotation, told with a fault of BAD or ODD."""
    plain = json.dumps(found)
    if fault == "dirty":  # what is left of it is the same
        dirty = {key: [f"<ann>\n{value} </ann>\u0000 <|im_end|>"] for key, [value] in found.items()}
        return json.dumps(dirty), "stop"
    if fault == "null":
        return json.dumps({key: value[0] for key, value in found.items()}), "stop"
    contents = {
        "fence": f"```json\n{plain}\n```",
        "prose": f"Here is the annotation: {plain}",
        "wrong_keys": json.dumps(found | {"<|im_end|> extra": ["x"]}),
        "nested": json.dumps({key: {"value": value} for key, value in found.items()}),
        "number": json.dumps({key: 7 for key in found}),
        "string_for_list": json.dumps({key: value[0] for key, value in found.items()}),
        "length": plain[: len(plain) // 2],
        "content_filter": "",
    }
    return contents.get(fault, plain), fault if fault in ("length", "content_filter") else "stop"


def counters(url: str) -> dict[str, Any]:
    """The counts of a server that runs in another process."""
    with urllib.request.urlopen(f"{url}/counters") as reply:
        return json.load(reply)


def main() -> None:
    """Serves until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", default="")
    parser.add_argument("--refuses", default="")
    parser.add_argument("--key", default="")
    for name, default in (("share", 1.0), ("seconds", 0.0), ("retry_after", 1.0), ("per_second", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in (("times", 1), ("seed", 0), ("port", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    for name in ("faults", "refuses"):
        options[name] = [one for one in options[name].split(",") if one]
    with LlmServer(**options) as server:
        print(server.url, flush=True)
        server.ending.wait()


if __name__ == "__main__":
    main()
