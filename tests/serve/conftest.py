"""A server over a tiny random model, on a port of this machine."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import pytest
from flax import nnx

from anchortrain.config import ModelConfig
from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.settings import SamplingConfig
from anchortrain.decode.stream import Sampler
from anchortrain.model.transformer import Transformer
from tests.vocabularies import train_vocabulary

KEYS = ("hero", "place", "time-of-day")


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    return train_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="session")
def model(vocabulary: Vocabulary) -> Transformer:
    return tiny_model(vocabulary)


def tiny_model(vocabulary: Vocabulary) -> Transformer:
    """Random, with distributions far from uniform, and no response that ends soon by itself."""
    config = ModelConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48)
    made = Transformer(config, 384, rngs=nnx.Rngs(0))
    made.head[...] = 0.3 * jax.random.normal(jax.random.key(1), made.head.shape)
    made.embedding[...] = jax.random.normal(jax.random.key(2), made.embedding.shape)
    return made


DEFAULTS = SamplingConfig(constrain=True, max_annotation_tokens=48, max_response_tokens=64)


@dataclasses.dataclass
class Running:
    """A server in a thread of this process."""

    url: str
    service: object


@contextmanager
def served(app, config) -> Iterator[Running]:
    """Serves an application in a thread; its end drains it."""
    from anchortrain.serve.server import Server, bind, url_of

    with bind(config) as bound:
        server = Server(app, config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        try:
            while not server.started:
                threading.Event().wait(0.01)
                assert thread.is_alive()
            yield Running(url_of(bound), app.state.service)
        finally:
            app.state.service.draining = True
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def make_server(model, vocabulary) -> Callable:
    """`with make_server(max_n=4) as server:` serves with these limits; without `keys` a model that draws no plans."""
    from anchortrain.serve.app import make_app
    from anchortrain.serve.service import Served
    from anchortrain.serve.settings import ServeConfig

    @contextmanager
    def make(keys: tuple[str, ...] = KEYS, **settings) -> Iterator[Running]:
        given = {"name": "tiny", "places": 16, "max_tokens": 256, "max_annotation_tokens": 64, "max_prompt_tokens": 128}
        config = ServeConfig(**{**given, "port": 0, "grace_s": 20, **settings})
        sampler = Sampler(model, vocabulary, keys, places=config.places, most_tokens=config.most_tokens)
        defaults = dataclasses.replace(DEFAULTS, mode="two_stage" if keys else "single_stage")
        with served(make_app(sampler, Served(vocabulary, defaults, keys, "test"), config), config) as running:
            yield running

    return make


@pytest.fixture(scope="session")
def server(make_server) -> Iterator[Running]:
    """One server for all tests that do not need limits of their own."""
    with make_server() as running:
        yield running


@pytest.fixture
def client(server):
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made
