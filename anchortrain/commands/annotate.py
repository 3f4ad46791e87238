"""`anchortrain annotate`: annotations for documents or instructions: offline, by a language model, or from labels.

The same command continues a job that was stopped, and asks again for chunks that failed. docs/annotate.md has it all.
"""

import argparse
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from anchortrain.commands.train import add_gin_arguments

if TYPE_CHECKING:
    from anchortrain.annotate.config import Annotating

# Option -> field of the configuration that it binds.
_BINDS = {
    "kind": "AnnotateConfig.kind",
    "annotator": "AnnotateConfig.annotator",
    "schema": "AnnotateConfig.schema",
    "format": "AnnotateConfig.format",
    "bad_records": "AnnotateConfig.bad_records",
    "workers": "AnnotateConfig.workers",
    "seed": "AnnotateConfig.seed",
    "text_field": "SourceConfig.text",
    "id_field": "SourceConfig.id",
    "prompt_field": "SourceConfig.prompt",
    "response_field": "SourceConfig.response",
    "messages_field": "SourceConfig.messages",
    "min_tokens": "ChunkConfig.min_tokens",
    "max_tokens": "ChunkConfig.max_tokens",
    "tokenizer": "ChunkConfig.tokenizer",
    "labels": "LabelsConfig.fields",
    "endpoint": "LlmConfig.endpoint",
    "model": "LlmConfig.model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    job = parser.add_argument_group("job")
    job.add_argument("--inputs", nargs="+", required=True, metavar="FILE", help="JSONL, .gz, .zst, Parquet, or folders")
    job.add_argument("--out", required=True, metavar="DIR", help="directory of the job; the same one continues it")
    job.add_argument("--kind", choices=("documents", "instructions"), help="default documents")
    job.add_argument("--annotator", help="offline (default), llm, labels, or several joined by +")
    job.add_argument("--schema", help="stories, web, instructions, mathematics, code, or a *.toml file")
    job.add_argument("--format", help="of the output: jsonl (default), jsonl.gz, jsonl.zst or parquet")
    job.add_argument("--bad_records", help="stop (default) at the first, or set_aside: list them and go on")
    job.add_argument("--workers", type=int, help="processes (default: one for each core)")
    job.add_argument("--seed", type=int, help="default 0")
    fields = parser.add_argument_group("fields of the records")
    fields.add_argument("--text_field", metavar="NAME", help="text of a document, or list of its chunks (default text)")
    fields.add_argument("--id_field", metavar="NAME", help="default id; '' numbers the records by file and line")
    fields.add_argument("--prompt_field", metavar="NAME", help="default prompt; instruction+input joins two")
    fields.add_argument("--response_field", metavar="NAME", help="default response")
    fields.add_argument("--messages_field", metavar="NAME", help="a chat in place of both (default messages)")
    fields.add_argument(
        "--labels", nargs="+", metavar="KEY=FIELD", help="fields that become tags, for --annotator labels"
    )
    chunks = parser.add_argument_group("chunks")
    chunks.add_argument("--min_tokens", type=int, help="shorter paragraphs are joined (default 64)")
    chunks.add_argument("--max_tokens", type=int, help="longer ones are cut (default 400)")
    chunks.add_argument("--tokenizer", metavar="FILE", help="counts tokens (default: words and marks)")
    server = parser.add_argument_group("language model")
    server.add_argument(
        "--endpoint", metavar="URL", help="any server with /v1/chat/completions; the key is in the environment"
    )
    server.add_argument("--model", metavar="NAME", help="name of the model on that server")
    add_gin_arguments(parser)
    more = parser.add_argument_group("many machines")
    more.add_argument("--runner", metavar="NAME", help="Apache Beam's: DirectRunner, FlinkRunner, DataflowRunner, …")
    more.add_argument(
        "--runner_options", default="", metavar="TEXT", help="its options: --runner_options='--direct_num_workers=2'"
    )


def run(args: argparse.Namespace) -> int:
    from anchortrain.annotate.job import annotate
    from anchortrain.errors import UserError

    annotating = configuration(args)
    _check(args, annotating)
    if args.runner:
        manifest = _beam().annotate_on(args.runner, args.runner_options, args.inputs, args.out, annotating)
    elif args.runner_options:
        raise UserError("--runner_options needs --runner")
    else:
        manifest = annotate(args.inputs, args.out, annotating)
    return tell(args.out, manifest)


def _check(args: argparse.Namespace, annotating: "Annotating") -> None:
    """Raises UserError on options that would have no effect, and on empty paths."""
    from anchortrain.errors import UserError

    for option, annotator in {"endpoint": "llm", "model": "llm", "labels": "labels"}.items():
        if getattr(args, option) is not None and annotator not in annotating.annotate.annotator.split("+"):
            raise UserError(f"--{option} has no effect without --annotator {annotator}", mend="add it")
    if not args.out or not all(args.inputs):
        raise UserError("an empty path", where="--inputs" if args.out else "--out", mend="is a variable unset?")


def _beam() -> ModuleType:
    """`annotate.beam`. Raises UserError where Beam is not installed."""
    import logging

    logging.disable(logging.WARNING)  # Beam warns of libraries for clouds that nobody asked for
    try:
        from anchortrain.annotate import beam
    except ImportError as error:
        from anchortrain.errors import UserError

        raise UserError(f"--runner needs Apache Beam: {error}", mend="pip install 'anchortrain[beam]'") from None
    finally:
        logging.disable(logging.NOTSET)
    return beam


def configuration(args: argparse.Namespace) -> "Annotating":
    """What gin files, then bindings, then options say. Raises UserError."""
    from anchortrain.annotate.config import Annotating
    from anchortrain.config_reader import build, read_bindings
    from anchortrain.gin_reader import Bound

    bound = read_bindings(Annotating, args.gin_file, args.gin_bindings)
    for option, name in _BINDS.items():
        value = getattr(args, option)
        if value is not None:
            bound[name] = Bound(_labels(value) if option == "labels" else value, f"--{option}")
    return build(Annotating, bound)


def _labels(pairs: list[str]) -> dict[str, str]:
    """`genre=meta.genre` binds a field to a key; `genre` alone is both."""
    return {pair.partition("=")[0]: pair.partition("=")[2] or pair for pair in pairs}


def tell(out: str, manifest: dict) -> int:
    """Says what there is, and what to do about the rest. Returns the exit code: 1 while chunks are set aside."""
    tags = sum(manifest["tags"].values())
    parts = ", ".join(
        f"{manifest[name]} {name}" for name in ("annotated", "empty", "unannotated", "failed") if manifest[name]
    )
    print(f"{out}: {manifest['records']} records, {manifest['chunks']} chunks ({parts}), {tags} tags")
    if manifest["bad_records"]:
        print(
            f"warning: {manifest['bad_records']} bad records were left out, see {out}/bad_records.jsonl",
            file=sys.stderr,
        )
    if not manifest["annotated"]:
        print("warning: no chunk got a tag: are schema and fields the right ones?", file=sys.stderr)
    elif 2 * manifest["unannotated"] > manifest["chunks"] and manifest["annotator"] != "labels":
        what = f"the schema suits {manifest['chunks'] - manifest['unannotated']} of {manifest['chunks']} chunks"
        print(f"warning: {what}; --schema takes another", file=sys.stderr)
    if manifest["failed"]:
        what = f"{manifest['failed']} chunks failed, see {out}/failed.jsonl; the same command asks for them again"
        print(f"warning: {what}", file=sys.stderr)
        return 1
    return 0
