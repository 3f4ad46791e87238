"""A made-up study whose truth is known, as the files of `anchortrain scaling`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"27k": 26_624, "70k": 69_632, "160k": 159_744, "420k": 419_840, "850k": 851_968}
METHODS = (
    "sft", "sft_compute", "masked", "replay", "kl", "kl_replay", "rehearsal", "rehearsal_no_anchor",
    "no_annotated_pretraining", "plans_from_instructions", "no_annotation_decoding",
)  # fmt: skip
DATA_BITS = {0.0: 3.6, 0.4: 2.9, 0.8: 1.8, 0.95: 1.0}
TEMPERATURES = (0.6, 0.8, 1.0, 1.2)
NOISE = 0.007  # bits, between runs

# Method -> (share of the gap closed, well-formed, agreement, drift at the sweep's size).
TRUTH: dict[str, tuple[float, float, float | None, float | None]] = {
    "sft": (0.0, 0.90, None, None),
    "sft_compute": (0.0, 0.95, None, None),
    "masked": (0.84, 0.60, 0.93, 3.0),
    "replay": (0.90, 0.62, 0.95, 1.5),
    "kl": (0.97, 0.68, 0.94, 0.4),
    "kl_replay": (0.98, 0.70, 0.97, 0.3),
    "rehearsal": (0.995, 0.945, 0.98, 0.3),
    "rehearsal_no_anchor": (0.5, 0.3, 0.99, 6.0),
    "no_annotated_pretraining": (0.2, 0.3, None, None),
    "plans_from_instructions": (0.05, 0.9, 0.97, None),
    "no_annotation_decoding": (0.1, 0.85, None, 0.5),
}


def base_bits(parameters: float) -> float:
    """Grows by 0.05 bits per tenfold parameters."""
    return 3.5 + 0.05 * math.log10(parameters / 26_624)


def description(**changes: Any) -> dict[str, Any]:
    return {
        "name": "synthetic",
        "sizes": SIZES,
        "methods": list(METHODS),
        "seeds": 3,
        "sweep_size": "160k",
        "defaults": {"narrowness": 0.8, "examples": 8000, "tokens": 800_000, "temperature": 1.0},
        "prior_bits": {"0": 3.62, "1": 3.60, "2": 3.65},
        "base_gate": 0.95,
        "command": "anchortrain scaling --gin_file gin_configs/scaling/laptop.gin --out runs/laptop",
    } | changes


def row(size: str, method: str, seed: int, rng: np.random.Generator, **changes: Any) -> dict[str, Any]:
    """A measurement at the defaults, or with AXES in `changes`; other changes replace figures."""
    parameters = SIZES[size]
    axes = {"narrowness": 0.8, "examples": 8000, "tokens": 800_000, "temperature": 1.0}
    axes |= {name: value for name, value in changes.items() if name in axes}
    base = base_bits(parameters) + 0.02 * seed  # a seed is a world of its own
    common = {"size": size, "parameters": parameters, "method": method, "seed": seed, "n": 512, "finished": 1.0}
    errors = {"text_bits_se": 0.012, "wellformed_bits_se": 0.015, "base_agreement": 0.97}
    if method == "base":
        figures = {"text_bits": base + rng.normal(0, NOISE), "wellformed": 0.97, "agreement": 0.97}
        figures |= {"annotation_bits": base, "document_nll": 0.5 + 8 * parameters**-0.3, "flops": 6e6 * parameters}
        axes |= {"narrowness": None, "examples": None, "tokens": None}
    else:
        closed, form, agreement, drift = TRUTH[method]
        hotter = axes["temperature"] - 1
        data = DATA_BITS[axes["narrowness"]]
        # Collapses a little further with size, with examples and with training.
        sft = data - 0.1 - 0.06 * math.log10(parameters / 26_624) - 0.1 * math.log10(axes["examples"] / 8000)
        sft -= 0.05 * math.log10(axes["tokens"] / 800_000)
        bits = sft + closed * (base - sft) + 0.2 * hotter + rng.normal(0, NOISE)
        nll = 0.2 + 3 * parameters**-0.25 * (axes["tokens"] / 800_000) ** -0.1
        figures = {"text_bits": bits, "wellformed": form - 0.2 * abs(hotter), "agreement": agreement, "drift": drift}
        figures |= {"annotation_bits": None if agreement is None else base, "drift_se": 0.1, "data_bits": data}
        figures |= {"sft_nll": nll + rng.normal(0, 0.001), "flops": 4e6 * parameters, "document_nll": None}
    figures |= {"wellformed_bits": figures["text_bits"] - 0.02, "annotation_wellformed": 0.95, "seconds": 10.0}
    return common | errors | axes | figures | changes


def rows(seeds: int = 3, seed_of_noise: int = 0) -> list[dict[str, Any]]:
    """Every method at every size, and the sweeps of four methods at one."""
    rng = np.random.default_rng(seed_of_noise)
    found = []
    for seed in range(seeds):
        for size in SIZES:
            found += [row(size, method, seed, rng) for method in ("base", *METHODS)]
        for method in ("sft", "masked", "kl", "rehearsal"):
            found += [row("160k", method, seed, rng, narrowness=one) for one in DATA_BITS if one != 0.8]
            found += [row("160k", method, seed, rng, examples=one) for one in (1000, 2000, 4000)]
            found += [row("160k", method, seed, rng, tokens=one) for one in (200_000, 400_000, 1_600_000)]
            found += [row("160k", method, seed, rng, temperature=one) for one in TEMPERATURES if one != 1.0]
    return found


def curves(seeds: int = 3) -> list[dict[str, Any]]:
    """Losses that follow 0.5 + 100 C^-0.25 at the end, and drifts that level off."""
    found = []
    for seed in range(seeds):
        for size, parameters in SIZES.items():
            tokens = np.linspace(1e5, 30 * parameters + 2e6, 30)
            points = [[t, 6 * t * parameters, 0.5 + 100 * (6 * t * parameters) ** -0.25] for t in tokens]
            for method in ("base", "plain"):
                found.append({"kind": "pretrain", "size": size, "seed": seed, "method": method, "points": points})
        for method, (_, _, _, drift) in TRUTH.items():
            if drift is not None:
                points = [[t, drift * (1 - math.exp(-t / 2e5)), 0.1] for t in np.linspace(0, 8e5, 9)]
                common = {"kind": "drift", "size": "160k", "seed": seed, "method": method, "narrowness": 0.8}
                found.append(common | {"points": points})
    return found


def write(
    directory: Path,
    rows: list[dict[str, Any]],
    curves: list[dict[str, Any]] | None = None,
    described: dict[str, Any] | None = None,
) -> Path:
    """Writes the three files; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.json").write_text(json.dumps(described or description()))
    (directory / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if curves is not None:
        (directory / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in curves))
    return directory
