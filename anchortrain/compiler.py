"""Named XLA options for each TPU generation.

The default is none: the options change with every libtpu, and a wrong one ends the process. Those named here are
compiled by a test with the libtpu of `constraints.txt`; their effect on speed has not been measured on a TPU. They are
passed with the program (`jax.jit(compiler_options=…)`), where an unknown one is an error and not the end.
"""

_COMMON = {
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}

PROFILES: dict[str, dict[str, str]] = {
    "v4": _COMMON,
    "v5e": _COMMON
    | {
        "xla_tpu_enable_async_collective_fusion": "true",
        "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
        "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
        "xla_tpu_overlap_compute_collective_tc": "true",
        "xla_enable_async_all_gather": "true",
    },
    "v5p": _COMMON
    | {
        "xla_tpu_megacore_fusion_allow_ags": "false",
        "xla_enable_async_collective_permute": "true",
        "xla_tpu_enable_ag_backward_pipelining": "true",
    },
    "v6e": _COMMON
    | {
        "xla_tpu_scoped_vmem_limit_kib": "98304",
        "xla_tpu_use_minor_sharding_for_major_trivial_input": "true",
        "xla_tpu_relayout_group_size_threshold_for_reduce_scatter": "1",
        "xla_tpu_assign_all_reduce_scatter_layout": "true",
    },
}


def options(profile: str) -> dict[str, str]:
    """The options of a named profile; none for ""."""
    return PROFILES[profile] if profile else {}
