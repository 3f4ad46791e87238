"""`anchortrain serve`: an OpenAI-compatible server for a run, and a page to play with it (docs/serving.md)."""

import argparse
import dataclasses
import os
from pathlib import Path

_HELP = {
    "places": "samples that are drawn together",
    "max_tokens": "most tokens of a response, and how many a request gets that does not say",
    "max_annotation_tokens": "most tokens of an annotation",
    "max_prompt_tokens": "most tokens of a conversation",
    "max_n": "most choices of a request",
    "max_queue": "samples that may wait; more are refused",
    "max_body": "bytes of a request",
    "timeout_s": "seconds from a request to the end of its answer",
    "grace_s": "seconds that running requests have after SIGTERM",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from anchortrain.serve.settings import API_KEY, ServeConfig

    defaults = ServeConfig()
    parser.add_argument("run", metavar="RUN", help="run directory, as given to `anchortrain train --out`")
    parser.add_argument("--host", default=defaults.host, help="address to listen at (default %(default)s)")
    parser.add_argument("--port", type=int, default=defaults.port, help="0 takes a free one (default %(default)s)")
    for name, help in _HELP.items():
        default = getattr(defaults, name)
        metavar = "S" if name.endswith("_s") else "N"
        parser.add_argument(
            f"--{name}", type=type(default), default=default, metavar=metavar, help=f"{help} (default %(default)s)"
        )
    parser.add_argument("--name", metavar="MODEL", help="of the model in requests (default: the directory's)")
    parser.add_argument(
        "--cors_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="whose pages may use it, as scheme://host[:port]; several times",
    )
    parser.add_argument(
        "--no_auth", action="store_true", help=f"beyond the loopback without an API key in ${API_KEY}: for anyone"
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain.serve.settings import API_KEY, ServeConfig

    named = {field.name for field in dataclasses.fields(ServeConfig)}
    given = {name: value for name, value in vars(args).items() if name in named and name != "name"}
    config = ServeConfig(
        name=Path(args.run).resolve().name if args.name is None else args.name,
        api_key=os.environ.get(API_KEY) or None,
        cors_origins=tuple(args.cors_origin),
        **given,
    )
    _need_packages()
    from anchortrain.serve.server import bind, log_to_stderr, run, url_of

    with bind(config) as bound:  # before anything slow: it may be taken
        app = _load(args.run, config)
        log_to_stderr()
        run(app, config, bound, on_ready=lambda: print(f"{config.name}: {url_of(bound)}", flush=True))
    return 0


def _need_packages() -> None:
    import importlib.util

    from anchortrain.errors import UserError

    for package in ("starlette", "uvicorn", "prometheus_client", "pydantic"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"needs the package {package}", mend="pip install 'anchortrain[serve]'")


def _load(run_dir: str, config: "ServeConfig") -> "Starlette":  # noqa: F821
    """The application over the last checkpoint of a run, with its programs compiled."""
    from anchortrain import compilation_cache
    from anchortrain.checkpoint import load_run
    from anchortrain.decode.settings import SamplingConfig
    from anchortrain.decode.stream import Sampler
    from anchortrain.progress import Progress
    from anchortrain.serve.app import make_app
    from anchortrain.serve.service import Served
    from anchortrain.serve.warm import rounds, warm_up

    compilation_cache.enable()
    loaded = load_run(run_dir)
    keys = tuple(loaded.info.annotation_keys)
    defaults = SamplingConfig(
        mode="two_stage" if keys else "single_stage",
        constrain=True,
        max_annotation_tokens=min(SamplingConfig.max_annotation_tokens, config.max_annotation_tokens),
        max_response_tokens=config.max_tokens,
    )
    sampler = Sampler(loaded.model, loaded.vocabulary, keys, places=config.places, most_tokens=config.most_tokens)
    with Progress(rounds(config), "programs", "serve: compiling") as progress:
        warm_up(sampler, loaded.vocabulary, defaults, config, progress.update)
    served = Served(loaded.vocabulary, defaults, keys, f"{loaded.info.vocabulary_hash[:8]}-{loaded.step}")
    return make_app(sampler, served, config)
