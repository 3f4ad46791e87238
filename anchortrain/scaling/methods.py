"""The methods that a study compares: what each starts from, is trained on, and how it is sampled."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Method:
    """A method, apart from its gin file."""

    start: str  # "base" (annotated), "plain", or the method whose run it goes on from
    data: str  # a set of `data.SETS`
    two_stage: bool = True  # False: decoded without a plan
    anchored: bool = False  # given annotations drawn from the base
    replays: bool = False  # pretraining documents are mixed in
    rehearses: bool = False  # run by `anchortrain rehearse`

    @property
    def heldout(self) -> str:
        """The held-out set of the same kind."""
        return "sft_plain_heldout" if self.data == "sft_plain" else "sft_heldout"

    @property
    def has_plans(self) -> bool:
        """Whether it starts from an annotated base, so that its drift from that can be told."""
        return self.start != "plain"


_KL = Method("base", "sft", anchored=True)

METHODS = {
    "sft": Method("plain", "sft_plain", two_stage=False),
    # Standard SFT with all the tokens that rehearsal takes: its gin file has a larger budget.
    "sft_compute": Method("plain", "sft_plain", two_stage=False),
    "masked": Method("base", "sft"),
    "kl": _KL,
    "replay": Method("base", "sft", replays=True),
    "kl_replay": dataclasses.replace(_KL, replays=True),
    "rehearsal": dataclasses.replace(_KL, start="kl", rehearses=True),
    "rehearsal_no_anchor": Method("masked", "sft", rehearses=True),
    # Ablations of the paper. A model that never saw an unplanned response cannot write one, hence the mixed data.
    "no_annotated_pretraining": Method("plain", "sft"),
    # The same, with the annotations trained on: masked, a small model that never saw one hardly writes any.
    "plans_from_instructions": Method("plain", "sft"),
    "no_annotation_decoding": dataclasses.replace(_KL, data="sft_mixed", two_stage=False),
    # Annotations trained on: what masking is for.
    "unmasked": Method("base", "sft"),
}
