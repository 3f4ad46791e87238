"""The role of a token, and everything that is a function of it.

Roles are made once, when text is interleaved with annotations, and travel with the tokens as data.
Loss weights, the anchor's positions, per-role metrics and what a user sees all derive from them; no
mask is ever computed from token ids. Section 3 of the paper (arXiv 2605.09995) is `loss_weights`.
"""

import enum

import numpy as np


class Role(enum.IntEnum):
    """What a token is. The integer values are part of the file format: never renumber them."""

    PAD = 0
    PROMPT = 1
    ANNOTATION_KEY = 2  # keys, separators and both delimiters
    ANNOTATION_VALUE = 3
    TEXT = 4  # document or response, and the end-of-document token


ANNOTATION_ROLES = (Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE)

# Which target roles an objective trains on.
OBJECTIVES: dict[str, tuple[Role, ...]] = {
    # Stage 2 of the paper: next-token loss on every token.
    "pretrain": (Role.PROMPT, Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT),
    # Stage 3: the response only. On rows without annotations this is standard SFT.
    "masked": (Role.TEXT,),
    # The ablation that trains on annotation and response alike.
    "unmasked": (Role.ANNOTATION_KEY, Role.ANNOTATION_VALUE, Role.TEXT),
    # Rows that exist only to be anchored, such as reference draws.
    "anchor": (),
}

# In the few syntax examples (0.3 % in the paper) of masked SFT only annotation values are masked.
SYNTAX_ROLES = (Role.TEXT, Role.ANNOTATION_KEY)


def check_roles(roles: np.ndarray, where: str) -> None:
    """Raises ValueError unless every entry of `roles` (any shape, integer) is a known role."""
    if roles.size and (roles.min() < min(Role) or roles.max() > max(Role)):
        raise ValueError(f"{where}: roles must lie in {min(Role)}..{max(Role)}, got {roles.min()}..{roles.max()}")


def loss_weights(target_roles: np.ndarray, objective: str, *, syntax_example: bool = False) -> np.ndarray:
    """Weight of the next-token loss at each target.

    Args:
      target_roles: integer roles of the targets, any shape.
      objective: a key of `OBJECTIVES`.
      syntax_example: whether the row is one of the few whose annotation syntax is trained on; only
        meaningful for `masked`.

    Returns:
      float32 array of zeros and ones, shaped like `target_roles`.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; one of {', '.join(OBJECTIVES)}")
    check_roles(target_roles, "loss_weights")
    if syntax_example and objective != "masked":
        raise ValueError(f"syntax examples exist only under the objective 'masked', not {objective!r}")
    trained = SYNTAX_ROLES if syntax_example else OBJECTIVES[objective]
    return np.isin(target_roles, trained).astype(np.float32)


def is_annotation(roles: np.ndarray) -> np.ndarray:
    """Where `roles` (integer, any shape) are `ANNOTATION_ROLES`: bool. `np.isin` takes 4 to 10 times as long."""
    return (roles == Role.ANNOTATION_KEY) | (roles == Role.ANNOTATION_VALUE)


def anchor_positions(input_roles: np.ndarray, target_roles: np.ndarray) -> np.ndarray:
    """Where the annotation distribution is compared with the reference's.

    These are the predictions made from inside an annotation: input and target both have an
    annotation role. The opening delimiter is thereby left out, because decoding forces it: z is
    drawn given that it is open.

    Args:
      input_roles: integer roles of the inputs, any shape.
      target_roles: integer roles of the targets (the inputs one step on), same shape.

    Returns:
      float32 array of zeros and ones, same shape.
    """
    return (is_annotation(input_roles) & is_annotation(target_roles)).astype(np.float32)


def anchored(roles: np.ndarray) -> np.ndarray:
    """`anchor_positions` of one whole example, of its integer roles [n]: bool."""
    return anchor_positions(np.concatenate([[Role.PROMPT], roles[:-1]]), roles) > 0
