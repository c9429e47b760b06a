"""DeepSpeed's keys that a recipe cannot pass on: for each, why, and what to do instead."""

from __future__ import annotations

from ni_framework.recipe.validate.fields import RejectedKey

REMOVE_IT = "remove it"


def _set_by(keys: str) -> RejectedKey:
    return "is set by the recipe's own keys", f"use {keys}"


def _replaced_by(reason: str, hint: str) -> RejectedKey:
    return f"is not done by DeepSpeed here: {reason}", hint


def _useless(reason: str) -> RejectedKey:
    return f"has no use here: {reason}", REMOVE_IT


_GONE: RejectedKey = ("was removed from DeepSpeed", REMOVE_IT)
_NO_EFFECT: RejectedKey = ("is read by DeepSpeed and changes nothing", REMOVE_IT)
_BATCH = "`train.batch` and `train.micro_batches`"
_PRECISION = _set_by("`train.precision`")
_LOGS = _replaced_by("metrics are written to the run folder", "see `train.log_every` and `ni plot`")
_CHECKPOINTS = _replaced_by(
    "every stage writes checkpoints of this framework", "remove it; `ni train --resume` continues from them"
)
_ADAM = _useless("it needs DeepSpeed's own Adam, and the optimizer is PyTorch's AdamW")
_PARALLEL = _useless("processes split the batch, and shard what `engine.stage` names")
_DATA = _replaced_by("data are read by the component in `data`", "use `data`")

REJECTED_TOP_LEVEL: dict[str, RejectedKey] = {
    "train_batch_size": _set_by("`train.batch`"),
    "train_micro_batch_size_per_gpu": _set_by(_BATCH),
    "gradient_accumulation_steps": _set_by(_BATCH),
    "managed_gradient_accumulation": _set_by(_BATCH),
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "fp16": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "gradient_clipping": _set_by("`train.max_grad_norm`"),
    "optimizer": _set_by("`train.optimizer`"),
    "zero_allow_untested_optimizer": _set_by("`train.optimizer`"),
    "zero_force_ds_cpu_optimizer": _set_by("`train.optimizer` and `engine.offload`"),
    "scheduler": _set_by("`train.schedule`"),
    "activation_checkpointing": _set_by("`train.activation_checkpointing`"),
    "compile": _set_by("`engine.compile`"),
    "steps_per_print": _LOGS,
    "tensorboard": _LOGS,
    "wandb": _LOGS,
    "csv_monitor": _LOGS,
    "comet": _LOGS,
    "log_level": _replaced_by("its complete log is written to the run folder", REMOVE_IT),
    "checkpoint": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "load_universal": _CHECKPOINTS,
    "load_universal_checkpoint": _CHECKPOINTS,
    "data_efficiency": _DATA,
    "dataloader_drop_last": _DATA,
    "gradient_allreduce_op": _replaced_by(
        "gradients are averaged over the batch, so that the loss has the same scale", REMOVE_IT
    ),
    "tensor_parallel": _PARALLEL,
    "expert_parallel": _PARALLEL,
    "use_data_before_expert_parallelism": _PARALLEL,
    "pipeline": _PARALLEL,
    "data_parallel_size": _PARALLEL,
    "sequence_parallel_size": _PARALLEL,
    "seq_parallel_communication_data_type": _PARALLEL,
    "autotuning": _useless("its launcher starts other programs"),
    "hybrid_engine": _useless("it is for language models that generate text"),
    "weight_quantization": _useless("it is for inference"),
    "vocabulary_size": _useless("there is no vocabulary"),
    "disable_allgather": _NO_EFFECT,
    "amp": ("was removed from DeepSpeed", "use `train.precision`"),
    "elasticity": (
        "was removed from DeepSpeed",
        "a run can be resumed with any number of processes: `ni train --resume`",
    ),
    "nebula": ("was removed from DeepSpeed", "remove it; checkpoints are written by this framework"),
    "curriculum_learning": _GONE,
    "compression_training": _GONE,
    "quantize_training": _GONE,
    "sparse_gradients": _GONE,
    "eigenvalue": _GONE,
    "sparse_attention": _GONE,
    "graph_harvesting": _GONE,
    "progressive_layer_drop": _GONE,
}

_LEAVES = _replaced_by("each script is one leaf module", REMOVE_IT)
_INITIAL_VALUES = _replaced_by("initial values depend on the seed and the name of a parameter", REMOVE_IT)

REJECTED_ZERO: dict[str, RejectedKey] = {
    "stage": _set_by("`engine.stage`"),
    "cpu_offload": _set_by("`engine.offload`"),
    "cpu_offload_param": _set_by("`engine.offload`"),
    "cpu_offload_use_pin_memory": ("is an old name", "use `pin_memory` in `offload_optimizer` or `offload_param`"),
    "leaf_module": _LEAVES,
    "stage3_module_granularity_threshold": _LEAVES,
    "module_granularity_threshold": _LEAVES,
    "load_from_fp32_weights": _CHECKPOINTS,
    "elastic_checkpoint": _CHECKPOINTS,
    "pipeline_loading_checkpoint": _CHECKPOINTS,
    "stage3_gather_16bit_weights_on_model_save": _CHECKPOINTS,
    "gather_16bit_weights_on_model_save": _CHECKPOINTS,
    "stage3_gather_fp16_weights_on_model_save": _CHECKPOINTS,
    "compute_grad_norm": _replaced_by("the gradient norm decides which steps are skipped", "see `train.skip`"),
    "override_module_apply": _INITIAL_VALUES,
    "zero_quantized_nontrainable_weights": _useless("all weights are trainable"),
    "save_muon_momentum_buffer_in_memory": _useless("it is for Muon, and the optimizer is AdamW"),
    "zenflow": _useless("it applies gradients late, so that a resumed run would differ"),
    "legacy_stage1": _GONE,
    "allgather_partitions": _NO_EFFECT,
    "mics_shard_size": ("was removed from DeepSpeed", "use `zero_hpz_partition_size`"),
    "mics_hierarchical_params_gather": ("was removed from DeepSpeed", "use `zero_hpz_partition_size`"),
    "zeropp_loco_param": _GONE,
} | {
    # DeepSpeed accepts these with and without their `stage3_`; a recipe has one name for one thing.
    name: (f"is called stage3_{name} in a recipe", f"write `stage3_{name}`")
    for name in (
        "prefetch_bucket_size",
        "param_persistence_threshold",
        "model_persistence_threshold",
        "max_live_parameters",
        "max_reuse_distance",
        "use_all_reduce_for_fetch_params",
        "allgather_sequential",
    )
}

_OFFLOAD_TARGET: dict[str, RejectedKey] = {
    "device": _set_by("`engine.offload`"),
    "nvme_path": _set_by("`engine.nvme_dir`"),
}

REJECTED_OFFLOAD_PARAM: dict[str, RejectedKey] = _OFFLOAD_TARGET
REJECTED_OFFLOAD_OPTIMIZER: dict[str, RejectedKey] = _OFFLOAD_TARGET | {
    "ratio": _ADAM,
    "super_offload": _ADAM,
    "cpuadam_cores_perc": _ADAM,
}
REJECTED_FLOPS_PROFILER: dict[str, RejectedKey] = {
    "output_file": _replaced_by("the profile is written to `flops.txt` in the run folder", REMOVE_IT),
}
