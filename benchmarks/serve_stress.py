"""Two minutes of streaming clients, clients that vanish, and ten thousand random requests, against a server process.

    python -m benchmarks.serve_stress [--run RUN] [--clients 64] [--seconds 120] [--requests 10000] [--json FILE]

Without `--run` the model is a tiny random one. Every stream is compared with the answer to the same request when it was
asked for alone. Exits with 1 when a stream failed, was mixed up or truncated, when an answer was malformed, or when a
place was not free again within a second.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.serve.stress import CHAT, Tally, body_of, random_requests, stream_for

_MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run directory (default: a tiny random model)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--vanish", type=int, default=20, help="clients that leave in the middle of a stream")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(args.run) if args.run else _tiny_run(Path(folder) / "tiny")
        command = [sys.executable, "-m", "anchortrain", "serve", str(run), "--port", "0", "--name", "model"]
        command += ["--places", str(args.clients), "--max_tokens", "256", "--max_prompt_tokens", "256", "--max_n", "16"]
        with open(Path(folder) / "log", "w") as log:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            url = server.stdout.readline().split()[-1]
            figures = asyncio.run(_measure(url, psutil.Process(server.pid), args))
            server.terminate()
            figures["exit code after SIGTERM"] = server.wait(timeout=60)
        finally:
            server.kill()
    wrong = figures.pop("wrong")
    print(f"exit code after SIGTERM: {figures['exit code after SIGTERM']}")
    for line in wrong[:10]:
        print(f"wrong: {line}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
    return int(bool(wrong) or figures["exit code after SIGTERM"] != 0)


def _tiny_run(path: Path) -> Path:
    from tests.serve.conftest import KEYS, tiny_model
    from tests.serve.runs import write_run
    from tests.vocabularies import train_vocabulary

    vocabulary = train_vocabulary(path.parent)
    return write_run(path, tiny_model(vocabulary), vocabulary, KEYS)


async def _measure(url: str, process: psutil.Process, args: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        figures[name] = value
        print(f"{name:60} {value}", flush=True)

    def memory(name: str) -> None:
        note(f"RSS, {name} (MiB)", round(process.memory_info().rss / _MIB, 1))

    wrong: list[str] = []

    def take(tally: Tally, name: str) -> None:
        wrong.extend(tally.wrong)
        note(f"{name}: answered", tally.answered)
        note(f"{name}: wrong", len(tally.wrong))

    memory("start")
    for name, share in (("first third", 1), ("the rest", 2)):
        took = time.monotonic()
        seconds = args.seconds * share / 3
        tally = await stream_for(url, "model", clients=args.clients, seconds=seconds)
        take(tally, f"{args.clients} streaming clients, {name} ({time.monotonic() - took:.0f} s)")
        memory(f"after {name} of the streams")
    if args.vanish:
        seconds = [await _vanish(url, number) for number in range(args.vanish)]
        note(f"{args.vanish} clients vanished: longest until the place was free (s)", round(max(seconds), 3))
        wrong += [f"a place was free only after {one:.2f} s" for one in seconds if one > 1]
    if args.requests:
        half = args.requests // 2
        for name, count, seed in (("first half", half, 0), ("second half", args.requests - half, 1)):
            took = time.monotonic()
            tally = await random_requests(url, "model", count=count, seed=seed)
            take(tally, f"random requests, {name} ({time.monotonic() - took:.0f} s)")
            note(f"random requests, {name}: refused, by status", str(dict(sorted(tally.refused.items()))))
            memory(f"after the {name} of random requests")
    return figures | {"wrong": wrong}


async def _vanish(url: str, number: int) -> float:
    """Seconds from the moment a streaming client is gone until nothing is drawn for it any more."""
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
        body = body_of("model", number, max_tokens=256) | {"stream": True, "n": 16}
        async with http.stream("POST", CHAT, json=body) as answer:
            await anext(answer.aiter_lines())
        gone = time.monotonic()
        while True:
            text = (await http.get("/metrics")).text
            if "\nanchortrain_places_in_use 0.0\n" in text and "\nanchortrain_queue_samples 0.0\n" in text:
                return time.monotonic() - gone
            if time.monotonic() - gone > 30:
                return float("inf")
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
