"""Short versions of what `python -m benchmarks.serve_stress` does for minutes."""

import asyncio

from tests.serve.stress import random_requests, stream_for


def test_64_clients_stream_at_once_and_nobody_gets_what_is_anothers(make_server):
    with make_server(places=64) as server:
        tally = asyncio.run(stream_for(server.url, "tiny", clients=64, seconds=8, kinds=16))
        assert not tally.wrong and tally.answered >= 64
        assert server.service.worker.outstanding == server.service.running == 0


def test_random_requests_are_answered_or_refused(make_server):
    with make_server(places=32, max_tokens=64, max_n=8, max_annotation_tokens=48) as server:
        tally = asyncio.run(random_requests(server.url, "tiny", count=300))
        assert not tally.wrong
        # Neither may come to mean all: then nothing was tested.
        assert tally.answered > 60 and tally.refused[400] > 60
        assert server.service.worker.outstanding == server.service.running == 0
