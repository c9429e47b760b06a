"""Keys of DeepSpeed's that a recipe may not pass on: for each, why, and the way that is ours."""

from __future__ import annotations

from ni_framework.recipe.validate.fields import Refusal


def _set_by(way: str) -> Refusal:
    return "is set by the recipe's own keys", f"use {way}"


def _ours(what: str, way: str) -> Refusal:
    return f"is not DeepSpeed's to do here: {what}", way


def _useless(why: str) -> Refusal:
    return f"has no use here: {why}", "leave it out"


_LEAVE = "leave it out"
_GONE: Refusal = ("was removed from DeepSpeed", _LEAVE)
_IDLE: Refusal = ("is read by DeepSpeed and changes nothing", _LEAVE)
_BATCH = "`train.batch` and `train.accumulate`"
_PRECISION = _set_by("`train.precision`")
_LOGS = _ours("metrics go to the run folder", "see `train.log_every` and `ni plot`")
_CHECKPOINTS = _ours(
    "checkpoints are our own, whatever the stage", "leave it out; `ni train --resume` goes on from them"
)
_ADAM = _useless("it needs DeepSpeed's own Adam, and the optimizer is PyTorch's AdamW")
_PARALLEL = _useless("processes share the batch, and what `engine.stage` divides")
_DATA = _ours("data are read by the recipe's own components", "use `data`")

TOP: dict[str, Refusal] = {
    "train_batch_size": _set_by("`train.batch`"),
    "train_micro_batch_size_per_gpu": _set_by(_BATCH),
    "gradient_accumulation_steps": _set_by(_BATCH),
    "managed_gradient_accumulation": _set_by(_BATCH),
    "bf16": _PRECISION,
    "bfloat16": _PRECISION,
    "fp16": _PRECISION,
    "torch_autocast": _PRECISION,
    "data_types": _PRECISION,
    "gradient_clipping": _set_by("`train.clip`"),
    "optimizer": _set_by("`train.optimizer`"),
    "zero_allow_untested_optimizer": _set_by("`train.optimizer`"),
    "zero_force_ds_cpu_optimizer": _set_by("`train.optimizer` and `engine.offload`"),
    "scheduler": _set_by("`train.schedule`"),
    "activation_checkpointing": _set_by("`train.recompute`"),
    "compile": _set_by("`engine.compile`"),
    "steps_per_print": _LOGS,
    "tensorboard": _LOGS,
    "wandb": _LOGS,
    "csv_monitor": _LOGS,
    "comet": _LOGS,
    "log_level": _ours("its log goes to the run folder, whole", _LEAVE),
    "checkpoint": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "load_universal": _CHECKPOINTS,
    "load_universal_checkpoint": _CHECKPOINTS,
    "data_efficiency": _DATA,
    "dataloader_drop_last": _DATA,
    "gradient_allreduce_op": _ours("gradients are averaged over the batch, so that the loss means the same", _LEAVE),
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
    "disable_allgather": _IDLE,
    "amp": ("was removed from DeepSpeed", "use `train.precision`"),
    "elasticity": ("was removed from DeepSpeed", "a run goes on with any number of processes: `ni train --resume`"),
    "nebula": ("was removed from DeepSpeed", "leave it out; checkpoints are our own"),
    "curriculum_learning": _GONE,
    "compression_training": _GONE,
    "quantize_training": _GONE,
    "sparse_gradients": _GONE,
    "eigenvalue": _GONE,
    "sparse_attention": _GONE,
    "graph_harvesting": _GONE,
    "progressive_layer_drop": _GONE,
}

_LEAVES = _ours("each script is one leaf", _LEAVE)
_WEIGHTS = _ours("initial values depend on the seed and a parameter's name", _LEAVE)

ZERO: dict[str, Refusal] = {
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
    "compute_grad_norm": _ours("the norm tells a step that does harm", "see `train.skip`"),
    "override_module_apply": _WEIGHTS,
    "zero_quantized_nontrainable_weights": _useless("all weights are trained"),
    "save_muon_momentum_buffer_in_memory": _useless("it is for Muon, and the optimizer is AdamW"),
    "zenflow": _useless("it applies gradients late, and a resumed run would differ"),
    "legacy_stage1": _GONE,
    "allgather_partitions": _IDLE,
    "mics_shard_size": ("was removed from DeepSpeed", "use `zero_hpz_partition_size`"),
    "mics_hierarchical_params_gather": ("was removed from DeepSpeed", "use `zero_hpz_partition_size`"),
    "zeropp_loco_param": _GONE,
} | {
    # DeepSpeed takes these with and without their `stage3_`; a recipe has one name for one thing.
    name: ("is called otherwise", f"write `stage3_{name}`")
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

_PLACE: dict[str, Refusal] = {"device": _set_by("`engine.offload`"), "nvme_path": _set_by("`engine.nvme`")}

OFFLOAD_PARAM: dict[str, Refusal] = _PLACE
OFFLOAD_OPTIMIZER: dict[str, Refusal] = _PLACE | {
    "ratio": _ADAM,
    "super_offload": _ADAM,
    "cpuadam_cores_perc": _ADAM,
}
FLOPS_PROFILER: dict[str, Refusal] = {
    "output_file": _ours("the profile is `flops.txt` in the run folder", _LEAVE),
}
