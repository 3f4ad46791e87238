"""The claims: what is said, which test decides it, and which figure shows it."""

from functools import partial

from anchortrain.scaling import claims_ours as ours
from anchortrain.scaling import claims_paper as paper
from anchortrain.scaling.claims import Claim
from anchortrain.scaling.results import SFT

CLAIMS = (
    Claim(
        "base_grows",
        "paper",
        "Larger base models are more diverse.",
        "diversity_by_size",
        paper.base_grows,
    ),
    Claim(
        "sft_collapses",
        "paper",
        "Standard SFT collapses at every size.",
        "diversity_by_size",
        paper.sft_collapses,
    ),
    Claim(
        "larger_sft_narrower",
        "paper",
        "Larger models are less diverse after standard SFT.",
        "diversity_by_size",
        paper.larger_sft,
    ),
    Claim(
        "lost_share_stays",
        "paper",
        "The share of entropy that standard SFT loses does not shrink with size.",
        "lost_by_size",
        paper.lost_share,
    ),
    Claim(
        "better_fit_narrower",
        "paper",
        "The better a model fits the post-training data, the narrower it is.",
        "diversity_by_fit",
        paper.better_fit,
    ),
    Claim(
        "temperature_no_repair",
        "paper",
        "A higher temperature does not repair the collapse: while form holds (within 5 points), it closes "
        "less than half of the gap.",
        "frontier",
        paper.temperature,
    ),
    Claim(
        "masked_ratio",
        "paper",
        "Annotated pretraining and masked post-training collapse several times less (6× at the paper's "
        "largest; our bar is 4× at every size).",
        "collapse_by_size",
        paper.masked_ratio,
    ),
    Claim(
        "masked_stays_diverse",
        "paper",
        "With annotations, diversity no longer falls with size.",
        "diversity_by_size",
        partial(paper.stays_diverse, method="masked"),
    ),
    Claim(
        "masked_frontier",
        "paper",
        "The frontier of diversity and quality over temperature moves outward.",
        "frontier",
        partial(paper.frontier, method="masked"),
    ),
    Claim(
        "masked_quality",
        "paper",
        "Quality holds: well-formed share within 2 points of standard SFT, loss on post-training data within 2 %.",
        "quality_by_size",
        paper.quality,
    ),
    Claim(
        "needs_annotated_pretraining",
        "paper",
        "Without annotated pretraining at least half of the gain is gone.",
        "diversity_by_size",
        partial(paper.ablation, ablation="no_annotated_pretraining", whole="masked"),
    ),
    Claim(
        "needs_pretrained_plans",
        "paper",
        "Likewise where annotations are learned from the instructions alone, which small models need to write any.",
        "diversity_by_size",
        partial(paper.ablation, ablation="plans_from_instructions", whole="masked"),
    ),
    Claim(
        "needs_annotation_decoding",
        "paper",
        "Without sampling annotations at decoding at least half of the gain is gone.",
        "diversity_by_size",
        partial(paper.ablation, ablation="no_annotation_decoding", whole="kl"),
    ),
    Claim(
        "sft_follows_data",
        "paper",
        "The output entropy of standard SFT follows that of its data (slope at least 0.6).",
        "data_entropy",
        partial(paper.data_slope, method=SFT, least=0.6),
    ),
    Claim(
        "masked_ignores_data",
        "paper",
        "That of the annotated method hardly moves (slope at most 0.1).",
        "data_entropy",
        partial(paper.data_slope, method="masked", most=0.1),
    ),
    Claim(
        "more_data_narrows_sft",
        "paper",
        "More SFT data makes standard SFT less diverse.",
        "diversity_by_examples",
        paper.more_data,
    ),
    Claim(
        "more_data_spares_masked",
        "paper",
        "More SFT data does not make the annotated method less diverse.",
        "diversity_by_examples",
        partial(paper.spared, method="masked"),
    ),
    Claim(
        "kl_ratio",
        "ours",
        "The KL anchor collapses at least 10× less than standard SFT at every size, and the interval's lower "
        "end is above 6 at the largest.",
        "collapse_by_size",
        partial(paper.ratios, method="kl", bar=10.0, low_at_largest=6.0),
    ),
    Claim(
        "kl_stays_diverse",
        "ours",
        "Diversity under the KL anchor does not fall with size.",
        "diversity_by_size",
        partial(paper.stays_diverse, method="kl"),
    ),
    Claim(
        "kl_ignores_data",
        "ours",
        "Under the KL anchor output entropy does not follow that of the data (slope at most 0.1).",
        "data_entropy",
        partial(paper.data_slope, method="kl", most=0.1),
    ),
    Claim(
        "more_data_spares_kl",
        "ours",
        "More SFT data does not make the KL anchor less diverse.",
        "diversity_by_examples",
        partial(paper.spared, method="kl"),
    ),
    Claim(
        "kl_frontier",
        "ours",
        "The KL anchor moves the frontier of diversity and quality outward.",
        "frontier",
        partial(paper.frontier, method="kl"),
    ),
    Claim(
        "masked_drifts",
        "ours",
        "Masking alone lets the annotation distribution drift, by half a nat or more at every size.",
        "drift",
        ours.masked_drifts,
    ),
    Claim(
        "anchor_holds",
        "ours",
        "The KL anchor holds it: at most half of masked SFT's drift at every size.",
        "drift",
        ours.anchor_holds,
    ),
    Claim(
        "anchor_beats_replay",
        "ours",
        "The KL anchor holds it better than replay of annotated documents.",
        "drift",
        ours.anchor_beats_replay,
    ),
    Claim(
        "replay_agreement",
        "ours",
        "Replay makes responses agree with their annotations more often.",
        "quality_by_size",
        ours.replay_agreement,
    ),
    Claim(
        "rehearsal_diverse",
        "ours",
        "Rehearsal keeps at least 98 % of the base's text entropy.",
        "diversity_by_size",
        partial(
            ours.rehearsal,
            quantity="kept_share",
            least=0.98,
            what="Text entropy after rehearsal against the base's",
        ),
    ),
    Claim(
        "rehearsal_wellformed_diverse",
        "ours",
        "So it does counted over well-formed responses only.",
        "diversity_by_size",
        partial(
            ours.rehearsal,
            quantity="wellformed_kept_share",
            least=0.98,
            what="Entropy of well-formed responses after rehearsal against the base's text entropy",
        ),
    ),
    Claim(
        "rehearsal_form",
        "ours",
        "After rehearsal responses are as often well-formed as under standard SFT of the same compute, within "
        "2 points.",
        "quality_by_size",
        ours.rehearsal_form,
    ),
    Claim(
        "rehearsal_agreement",
        "ours",
        "After rehearsal responses agree with their annotations in at least 95 % of attributes.",
        "quality_by_size",
        partial(ours.rehearsal, quantity="agreement", least=0.95, what="Agreement after rehearsal"),
    ),
    Claim(
        "rehearsal_frontier",
        "ours",
        "Rehearsal moves the frontier of diversity and quality outward.",
        "frontier",
        partial(paper.frontier, method="rehearsal"),
    ),
    Claim(
        "rehearsal_needs_anchor",
        "ours",
        "Rehearsal without the anchor is less diverse.",
        "diversity_by_size",
        ours.unanchored,
    ),
    Claim(
        "compute_no_repair",
        "ours",
        "More compute does not give standard SFT its diversity back: it closes at most 10 % of the gap.",
        "diversity_by_size",
        ours.compute,
    ),
    Claim(
        "size_predicts",
        "ours",
        "The smaller sizes predict the largest: measured text entropy within the 95 % prediction interval, "
        "for every method.",
        "diversity_by_size",
        ours.prediction,
    ),
)
