"""The figures of a study: what each shows, and the function that draws it as SVG."""

from collections.abc import Callable
from typing import NamedTuple

from anchortrain.scaling import figures_size as size
from anchortrain.scaling import figures_sweep as sweep
from anchortrain.scaling import figures_training as training
from anchortrain.scaling.results import Study


class Drawing(NamedTuple):
    title: str
    caption: str
    draw: Callable[[Study, str], bytes]


FIGURES = {
    "diversity_by_size": Drawing(
        "Diversity against size",
        "Semantic entropy of responses, of all above and of the well-formed ones below. Bands: 95 % over seeds.",
        size.diversity,
    ),
    "lost_by_size": Drawing(
        "Entropy lost against size",
        "Share of the base's text entropy that a method loses, within a seed. Zero is as diverse as the base.",
        size.lost,
    ),
    "collapse_by_size": Drawing(
        "Collapse ratio against size",
        "How many times less a method collapses than standard SFT. Hollow: what is left is below its standard error, "
        "by which the ratio is divided. An arrow has no upper end.",
        size.ratios,
    ),
    "quality_by_size": Drawing(
        "Form and agreement against size",
        "Share of well-formed responses, and share of planned attributes that the response keeps.",
        size.quality,
    ),
    "diversity_by_tokens": Drawing(
        "Diversity against post-training tokens", "One size, other settings at their defaults.", sweep.tokens
    ),
    "diversity_by_examples": Drawing(
        "Diversity against post-training examples", "One size; the number of tokens stays the same.", sweep.examples
    ),
    "diversity_by_fit": Drawing(
        "Diversity against the fit of the post-training data",
        "Each mark is a model, a mean over seeds; the larger the mark, the larger the model. To the left fits better.",
        sweep.fit,
    ),
    "data_entropy": Drawing(
        "Output entropy against data entropy",
        "The controlled study: the data is made narrower, one size. Lines are fits with an intercept for each seed.",
        sweep.data_entropy,
    ),
    "frontier": Drawing(
        "Diversity against quality over temperature",
        "One size; a line joins the temperatures of a method. The upper right is good.",
        sweep.frontier,
    ),
    "drift": Drawing(
        "Drift of the annotation distribution",
        "KL(R_ref‖R) on held-out prompts, during training at one size and after it at every size.",
        training.drift,
    ),
    "pretrain_loss": Drawing(
        "Pretraining loss against compute",
        "Held-out loss of documents during pretraining, by size, and a power law with an offset through the ends.",
        training.pretrain,
    ),
    "posttrain_loss": Drawing(
        "Loss on post-training data against compute",
        "Held-out loss per text token; compute since the base, of training and of sampling. Each mark is a model.",
        training.posttrain,
    ),
}
