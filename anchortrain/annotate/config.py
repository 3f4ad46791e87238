"""The configuration of `anchortrain annotate`: typed dataclasses that gin binds, like those of `anchortrain.config`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Names of the fields of a record. A document has `text` (or a list of chunks), an instruction `prompt` and
    `response`, or chat `messages`."""

    text: str = "text"
    id: str = "id"  # "" ignores what the records have and numbers them by file and line
    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"


@dataclasses.dataclass(frozen=True)
class ChunkConfig:
    """How documents are cut: at blank lines, then shorter chunks are joined and longer ones cut, in tokens.

    Without a tokenizer a token is a word of up to 12 letters or a punctuation mark, which is near what a trained
    tokenizer makes of English.
    """

    min_tokens: int = 64
    max_tokens: int = 400
    tokenizer: str = ""  # tokenizer.json or SentencePiece *.model to count with


@dataclasses.dataclass(frozen=True)
class AnnotateConfig:
    """The job."""

    kind: str = "documents"  # or "instructions"
    annotator: str = "offline"  # "offline", "llm", "labels", or several joined by '+': tags of all
    schema: str = ""  # name or *.toml; "" is "web" for documents, "instructions" for instructions
    format: str = "jsonl"  # of the output: "jsonl", "jsonl.gz", "jsonl.zst" or "parquet"
    part_chunks: int = 4000  # chunks in a part, the unit that is written whole and resumed by
    bad_records: str = "stop"  # at the first one; "set_aside" lists them and goes on
    workers: int = 0  # processes of the offline annotator; 0 takes one for each core
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class OfflineConfig:
    """The offline annotator. It is fitted on a sample of the corpus."""

    topics: int = 0  # 0 chooses by the size of the sample, up to 100
    sample_chunks: int = 20_000
    features: int = 20_000  # words of the topic model, at most


@dataclasses.dataclass(frozen=True)
class LlmConfig:
    """The llm annotator: any server with /v1/chat/completions."""

    endpoint: str = ""  # such as "http://127.0.0.1:8000/v1"; no key belongs in it
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"  # name of the environment variable with the key; unset sends none
    prompt: str = ""  # template file; "" takes the one that belongs to the schema
    structured: str = "auto"  # "json_schema", "json_object", "none"; "auto" tries them in this order
    temperature: float = 0.0  # below 0 sends none: some models allow only their own
    max_answer_tokens: int = 300
    concurrency: int = 16  # requests in flight
    timeout_seconds: float = 120.0  # of one request
    attempts: int = 6  # of one chunk, before it is set aside
    backoff_seconds: float = 1.0  # before the second attempt, at most; doubles with each
    context_characters: int = 600  # of the chunk before, or of the prompt
    # Budgets over all runs of a job; 0 is no limit. Money is in the unit of the prices.
    max_requests: int = 0
    max_tokens: int = 0
    max_cost: float = 0.0
    prompt_price: float = 0.0  # of a million tokens
    answer_price: float = 0.0
    cache: str = ""  # directory; "" is inside the job's


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
    """The labels annotator: tags from fields that the corpus has, or from a table beside it."""

    # Key of a tag -> field of the record (`meta.author` looks inside an object): a text, a number, a list of them for
    # the whole record, or a list of lists (or nulls) with one for each chunk.
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    # JSONL whose every row labels chunks of a record: `record` names it, `chunks` is a number or list from 1 ("" is all
    # of them), `key` and `value` are fields with strings or lists of strings.
    table: str = ""
    table_record: str = "id"
    table_chunks: str = "chunks"
    table_key: str = "key"
    table_value: str = "value"
    table_span: int = 0  # a row about more chunks than this describes none of them; 0 is no limit
    # Value of table_key -> key of the tag, in the order in which tags are written. What is not named keeps its name.
    rename: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Annotating:
    """Everything that `anchortrain annotate` can be told."""

    source: SourceConfig
    chunk: ChunkConfig
    annotate: AnnotateConfig
    offline: OfflineConfig
    llm: LlmConfig
    labels: LabelsConfig
