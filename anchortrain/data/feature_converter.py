"""A SeqIO feature converter that carries roles, for t5x-style training code.

Legend: features are [length] int32, as SeqIO has it.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from anchortrain.roles import Role, loss_weights

_INT32 = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)


class RoleFeatureConverter(seqio.FeatureConverter):
    """`targets` and `roles` become the usual decoder features and the roles of inputs and targets.

    Inputs are targets shifted by one; the first input of every segment is `<bos>` with role PROMPT. Loss
    weights are 0 or 1 and follow from the target's role and the objective. With `pack` examples share
    rows, and `decoder_segment_ids` (from 1; 0 is padding) and `decoder_positions` (from 0 in each
    segment) tell them apart. Unlike SeqIO's own converters this one does not take token 0 for padding.

    Args:
      vocabulary: gives `bos_id` and `pad_id`; `task.output_features["targets"].vocabulary`.
      objective: a key of `anchortrain.roles.OBJECTIVES`.
      syntax_share: share of examples, under "masked", whose annotation syntax is trained on, chosen by
        `seed` and the example's place in the stream (paper, section 3).
      pack: whether examples share rows.
    """

    TASK_FEATURES = {"targets": _INT32, "roles": _INT32}
    MODEL_FEATURES = {
        "decoder_target_tokens": _INT32,
        "decoder_input_tokens": _INT32,
        "decoder_loss_weights": _INT32,
        "decoder_target_roles": _INT32,
        "decoder_input_roles": _INT32,
    }
    PACKING_FEATURE_DTYPES = {"decoder_segment_ids": tf.int32, "decoder_positions": tf.int32}

    def __init__(
        self,
        *,
        vocabulary: seqio.Vocabulary,
        objective: str = "pretrain",
        syntax_share: float = 0.0,
        seed: int = 0,
        pack: bool = True,
        use_custom_packing_ops: bool = False,
        apply_length_check: bool = True,
    ) -> None:
        if use_custom_packing_ops:
            raise ValueError("custom packing operations are not supported")
        roles = np.array(Role)
        self._weights = loss_weights(roles, objective).astype(np.int32)
        # Raises for an objective that has no syntax examples.
        self._syntax_weights = (
            loss_weights(roles, objective, syntax_example=True).astype(np.int32) if syntax_share else self._weights
        )
        self._syntax_share, self._seed, self._pad_id = syntax_share, seed, vocabulary.pad_id
        super().__init__(pack=pack, apply_length_check=apply_length_check, bos_id=vocabulary.bos_id)

    def _weighted(self, index: tf.Tensor, example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Checks an example, adds its loss weights, and makes every entry positive.

        SeqIO takes whatever is zero at the end of a feature for padding when it packs.
        """
        targets, roles = example["targets"], example["roles"]
        checks = [
            tf.debugging.assert_equal(tf.shape(targets), tf.shape(roles), "targets and roles differ in length"),
            tf.debugging.assert_positive(roles, "every token needs a role other than PAD"),
        ]
        weights = self._weights
        if self._syntax_share:
            draw = tf.random.stateless_uniform([], [self._seed, index])
            weights = tf.where(draw < self._syntax_share, self._syntax_weights, self._weights)
        with tf.control_dependencies(checks):
            return {"targets": targets + 1, "roles": roles, "weights": tf.gather(weights, roles) + 1}

    def _model_features(self, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The model's features from packed or padded ones."""
        target_roles = features["roles"]
        real = target_roles > 0
        targets = tf.where(real, features["targets"] - 1, self._pad_id)
        segment_ids = features.get("roles_segment_ids")

        def shifted(values: tf.Tensor, first: int, padding: int) -> tf.Tensor:
            inputs = seqio.utils.make_autoregressive_inputs(values, sequence_id=segment_ids, bos_id=first)
            return tf.where(real, inputs, padding)

        converted = {
            "decoder_target_tokens": targets,
            "decoder_input_tokens": shifted(targets, self.bos_id, self._pad_id),
            "decoder_loss_weights": tf.where(real, features["weights"] - 1, 0),
            "decoder_target_roles": target_roles,
            "decoder_input_roles": shifted(target_roles, int(Role.PROMPT), int(Role.PAD)),
        }
        if self.pack:
            converted |= {"decoder_segment_ids": segment_ids, "decoder_positions": features["roles_positions"]}
        return converted

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        ds = ds.enumerate().map(self._weighted, num_parallel_calls=tf.data.AUTOTUNE)
        lengths = dict.fromkeys(("targets", "roles", "weights"), task_feature_lengths["targets"])
        return self._pack_or_pad(ds, lengths).map(self._model_features, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Every model feature is as long as the targets."""
        packed = self.PACKING_FEATURE_DTYPES if self.pack else {}
        return dict.fromkeys([*self.MODEL_FEATURES, *packed], task_feature_lengths["targets"])
