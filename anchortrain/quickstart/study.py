"""The quick start: the paper's effect on the story world, from nothing to a report, in minutes on a laptop.

base                       pretrained on annotated documents, until its text follows its annotations
sft                        pretrained on the plain documents, plain SFT: the collapse
masked                     base, annotation-masked SFT (paper, section 3)
kl                         the same with the KL anchor on annotations drawn from the base
rehearsal                  kl, trained on with what it wrote itself for rare plans and a checker confirmed
no_annotated_pretraining   ablation: masked SFT on the plain base
no_annotation_decoding     ablation: decoded without a plan. The model is `kl`'s recipe with a fifth of the examples
                           unannotated, because a model that never saw an unplanned response cannot write one
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from anchortrain.errors import UserError
from anchortrain.evaluate.collapse import compare
from anchortrain.evaluate.report import write_report
from anchortrain.evaluate.samples import read_samples
from anchortrain.evaluate.semantic import summarise
from anchortrain.evaluate.table import format_table
from anchortrain.files import write_json_atomic
from anchortrain.quickstart.runner import Runner
from anchortrain.storyworld.world import World

MAX_ANNOTATION_TOKENS, MAX_RESPONSE_TOKENS = 40, 160

GATE = 0.95  # agreement of the base's text with its annotations
MAX_EXTENSIONS = 2  # of pretraining, while the base is below the gate


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything; a smaller one serves tests. None of tokens: as the gin files say."""

    documents: int = 24_000
    instructions: int = 8_000
    samples: int = 512  # of every method
    draws: int = 3072  # annotations that the anchor compares on
    pretrain_tokens: int | None = None
    posttrain_tokens: int | None = None
    rehearsal: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of RehearsalConfig


# What stages cost, in seconds on two cores of 2026; only their proportion is used, for the estimate.
COSTS = {
    "world": 3,
    "data": 50,
    "base": 75,
    "base.sample": 8,
    "plain": 75,
    "draws": 8,
    "kl": 55,
    "kl.sample": 8,
    "rehearsal": 60,
    "rehearsal.sample": 8,
    "unplanned": 55,
    "no_annotation_decoding.sample": 8,
    "sft": 35,
    "sft.sample": 8,
    "masked": 35,
    "masked.sample": 8,
    "no_annotated_pretraining": 35,
    "no_annotated_pretraining.sample": 8,
}

_SETTINGS = "quickstart.json"


def gin_directory() -> Path:
    """Where gin files lie: in a checkout, or where the installer puts data files."""
    checkout = Path(__file__).resolve().parents[2]
    for root in (checkout, Path(sys.prefix) / "share" / "anchortrain"):
        if (root / "gin_configs" / "quickstart").is_dir():
            return root / "gin_configs"
    raise UserError("gin_configs/quickstart is missing", where=str(checkout), mend="install anchortrain again")


class Study:
    """One quick start under one directory."""

    def __init__(self, out: Path, seed: int, scale: Scale = Scale()) -> None:
        self.out, self.seed, self.scale = out, seed, scale
        self.seconds_before = self._open()
        self.started = time.monotonic()
        self.runner = Runner(out, COSTS, self.say)
        self.gin = gin_directory()
        self.bases: list[Path] = []  # each continues the one before
        self.base_agreement: float | None = None
        self.shown: set[str] = set()

    def _open(self) -> float:
        """Makes or checks the directory; returns the seconds that earlier calls spent."""
        path = self.out / _SETTINGS
        if path.exists():
            settings = json.loads(path.read_text(encoding="utf-8"))
            if settings["seed"] != self.seed:
                what = f"holds a quick start with seed {settings['seed']}, not {self.seed}"
                raise UserError(what, where=str(self.out), mend="choose another --out")
            return settings["seconds"]
        if self.out.exists() and any(self.out.iterdir()):
            raise UserError("is not empty and holds no quick start", where=str(self.out), mend="choose another --out")
        write_json_atomic(path, {"seed": self.seed, "seconds": 0.0})
        return 0.0

    @property
    def seconds(self) -> float:
        """Spent so far, earlier calls included."""
        return self.seconds_before + time.monotonic() - self.started

    def say(self, line: str) -> None:
        minutes, seconds = divmod(int(self.seconds), 60)
        print(f"[{minutes}:{seconds:02d}] {line}", flush=True)

    def run(self) -> dict[str, Any]:
        """Runs what is left to run; returns the summary."""
        try:
            world = self.out / "world"
            self.runner.command("world", self._world_arguments(world), world)
            ready = self.out / "prepared" / "ready.json"
            self.runner.command("data", [str(self.out)], ready, module="anchortrain.quickstart.data")
            self.world = World.load(world / "world.json")
            self.runner.run_tracks([self._pretrain_annotated, self._pretrain_plain], lambda: None)
            self.poll()
            self.runner.run_tracks([self._draw, self._extend_plain], lambda: None)
            self.runner.run_tracks([self._anchored, self._others], self.poll)
        except BaseException:
            self.runner.stop()
            raise
        finally:
            write_json_atomic(self.out / _SETTINGS, {"seed": self.seed, "seconds": self.seconds})
        return self.finish()

    # -- stages ----------------------------------------------------------------------------------

    def _at(self, *parts: str) -> str:
        return str(self.out.joinpath(*parts))

    def _world_arguments(self, world: Path) -> list[str]:
        counts = ["--documents", str(self.scale.documents), "--instructions", str(self.scale.instructions)]
        return ["storyworld", "--out", str(world), "--seed", str(self.seed), *counts]

    def _prepared(self, name: str) -> str:
        return self._at("prepared", name)

    def train(self, name: str, gin_file: str, tokens: int | None, **bindings: Any) -> Path:
        """Trains the run `name`. A binding `DataConfig__train` stands for `DataConfig.train`."""
        run = self.out / "runs" / name
        if tokens is not None:
            bindings["RunConfig__tokens"] = tokens
        arguments = ["train", *self._configured(gin_file, **bindings), "--out", str(run)]
        self.runner.command(name, arguments, run / "finished.json")
        return run

    def _configured(self, *gin_files: str, **bindings: Any) -> list[str]:
        """The options that say what to train."""
        options = [part for file in gin_files for part in ("--gin_file", str(self.gin / file))]
        bindings = {"DataConfig__seed": self.seed, "RunConfig__seed": self.seed} | bindings
        for field, value in bindings.items():
            options += ["--gin_bindings", f"{field.replace('__', '.')} = {value!r}"]
        return options

    def sample(self, name: str, run: Path, *how: str) -> Path:
        """Samples a run; every method gets the same number."""
        output = self.out / "samples" / f"{name}.jsonl"
        output.parent.mkdir(exist_ok=True)
        options = {
            "-n": self.scale.samples,
            "--batch_size": self.scale.samples,
            "--seed": self.seed,
            "--max_annotation_tokens": MAX_ANNOTATION_TOKENS,
            "--max_response_tokens": MAX_RESPONSE_TOKENS,
        }
        arguments = ["sample", str(run), "--jsonl", str(output), *how]
        arguments += [str(part) for option in options.items() for part in option]
        return self.runner.command(f"{name}.sample", arguments, output)

    def _pretrain(self, name: str, data: str, before: Path | None, **bindings: Any) -> Path:
        """Pretrains the run `name`, or trains the run `before` on, more gently and on the data in another order."""
        if before is not None:
            order = int(np.random.SeedSequence([self.seed, len(self.bases)]).generate_state(1)[0] >> 1)
            bindings |= {"RunConfig__init_from": str(before), "OptimizerConfig__learning_rate": 0.005}
            bindings["DataConfig__seed"] = order
        bindings["DataConfig__train"] = {self._prepared(data): 1.0}
        return self.train(name, "quickstart/pretrain.gin", self.scale.pretrain_tokens, **bindings)

    def _pretrain_annotated(self) -> None:
        """Pretrains the base until it passes the gate, at most `MAX_EXTENSIONS` times longer."""
        heldout = {"documents": self._prepared("heldout")}
        for extension in range(MAX_EXTENSIONS + 1):
            suffix = f"_{extension + 1}" if extension else ""
            before = self.bases[-1] if self.bases else None
            self.bases.append(self._pretrain(f"base{suffix}", "pretrain", before, DataConfig__heldout=heldout))
            samples = read_samples(self.sample(f"base{suffix}", self.bases[-1], "--document"))
            self.base_agreement = summarise(samples, self.world, "document")["agreement"] or 0.0
            if self.base_agreement >= GATE:
                return
            self.say(f"base: text agrees with its annotation in {self.base_agreement:.1%}, {GATE:.0%} is asked")
        self.say(f"warning: the base stays below {GATE:.0%}; the comparison goes on and the report says so")

    def _pretrain_plain(self) -> None:
        self.plain = self._pretrain("plain", "plain", None)

    def _posttraining(self, data: str, start: Path) -> dict[str, Any]:
        return {"DataConfig__train": {self._prepared(data): 1.0}, "RunConfig__init_from": str(start)}

    def _post(self, name: str, data: str, start: Path, gin_file: str = "posttrain.gin", **bindings: Any) -> Path:
        bindings |= self._posttraining(data, start)
        return self.train(name, f"quickstart/{gin_file}", self.scale.posttrain_tokens, **bindings)

    def _rehearse(self, start: Path, **bindings: Any) -> Path:
        """Rounds of rehearsal from the run `start` on; returns the last round's run."""
        out = self.out / "runs" / "rehearsal"
        bindings |= self._posttraining("sft", self.bases[-1])
        settings = {"start": str(start), "world": self._at("world", "world.json"), "seed": self.seed}
        for field, value in (settings | self.scale.rehearsal).items():
            bindings[f"RehearsalConfig__{field}"] = value
        files = ("quickstart/kl.gin", "rehearsal/storyworld.gin")
        arguments = ["rehearse", *self._configured(*files, **bindings), "--out", str(out)]
        done = self.runner.command("rehearsal", arguments, out / "rehearsal.json")
        return Path(json.loads(done.read_text(encoding="utf-8"))["rounds"][-1]["run"])

    def _two_stage(self, name: str, run: Path) -> None:
        self.sample(name, run, "--prompts", self._at("world", "prompts.jsonl"), "--constrain")

    def _single_stage(self, name: str, run: Path) -> None:
        self.sample(name, run, "--prompts", self._at("world", "prompts.jsonl"), "--single_stage")

    def _draw(self) -> None:
        arguments = ["draw", str(self.bases[-1]), "--data", self._prepared("sft"), "--out", self._prepared("draws")]
        arguments += ["--draws", str(self.scale.draws), "--seed", str(self.seed), "--top_k", "0"]
        arguments += ["--max_annotation_tokens", str(MAX_ANNOTATION_TOKENS)]
        self.runner.command("draws", arguments, Path(self._prepared("draws")))

    def _extend_plain(self) -> None:
        """The plain base gets as many tokens as the annotated one got."""
        for extension in range(1, len(self.bases)):
            self.plain = self._pretrain(f"plain_{extension + 1}", "plain", self.plain)

    def _anchored(self) -> None:
        anchor = {"LossConfig__anchor_data": self._prepared("draws")}
        kl = self._post("kl", "sft", self.bases[-1], "kl.gin", **anchor)
        self._two_stage("kl", kl)
        self._two_stage("rehearsal", self._rehearse(kl, **anchor))
        name = "no_annotated_pretraining"
        self._two_stage(name, self._post(name, "sft", self.plain))

    def _others(self) -> None:
        self._single_stage("sft", self._post("sft", "sft_plain", self.plain))
        self._two_stage("masked", self._post("masked", "sft", self.bases[-1]))
        anchor = {"LossConfig__anchor_data": self._prepared("draws")}
        unplanned = self._post("unplanned", "sft_mixed", self.bases[-1], "kl.gin", **anchor)
        self._single_stage("no_annotation_decoding", unplanned)

    # -- results ---------------------------------------------------------------------------------

    def _sets(self) -> dict[str, list[dict[str, Any]]]:
        """The samples that exist so far; the base's are those of its last extension."""
        names = ("sft", "masked", "kl", "no_annotated_pretraining", "no_annotation_decoding", "rehearsal")
        paths = {"base": self.out / "samples" / f"{self.bases[-1].name}.jsonl"}
        paths |= {name: self.out / "samples" / f"{name}.jsonl" for name in names}
        return {name: read_samples(path) for name, path in paths.items() if path.exists()}

    def summary(self, sets: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """What `summary.json` holds."""
        corpus = json.loads((self.out / "world" / "world.json").read_text(encoding="utf-8"))["corpus"]
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "prior_bits": self.world.mean_prior_bits,
            "sft_data_bits": corpus["mean_instruction_bits"],
            "base_agreement": self.base_agreement,
            "base_gate": GATE,
            "base_extensions": len(self.bases) - 1,
            "methods": compare(sets, self.world),
        }

    def poll(self) -> None:
        """Prints the table when it has grown."""
        existing = {path.stem for path in (self.out / "samples").glob("*.jsonl")}
        if existing != self.shown:
            self.shown = existing
            print("\n" + format_table(self.summary(self._sets())), flush=True)

    def finish(self) -> dict[str, Any]:
        sets = self._sets()
        summary = self.summary(sets)
        write_json_atomic(self.out / "summary.json", summary)
        for path in write_report(self.out, summary, sets):
            self.say(f"wrote {path}")
        self.say(f"wrote {self.out / 'summary.json'}; runs and samples lie in {self.out}")
        return summary
