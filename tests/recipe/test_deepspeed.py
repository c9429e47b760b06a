"""`engine.deepspeed`: accepted keys, conflicts, rejected keys, and writing.

The complete reports of some mistakes are in `tests/error_texts/recipe.txt`.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ni_framework.errors import OptionError, RecipeError
from ni_framework.recipe import Recipe, dump, load_options, loads
from ni_framework.recipe.deepspeed.settings import (
    Aio,
    CommsLogger,
    DeepSpeed,
    FlopsProfiler,
    OffloadOptimizer,
    OffloadParam,
    Throughput,
    ZeroOptimization,
    to_deepspeed_config,
)
from ni_framework.recipe.schema import EngineConfig
from ni_framework.recipe.validate.fields import PassThroughConfig, fields_of
from tests.helpers.recipe_components import VALID_RECIPE, resolve_component

ZERO_KEY = "deepspeed.zero_optimization"


def load_deepspeed_block(block: str, *overrides: str) -> Recipe:
    """The valid recipe with this `engine.deepspeed`."""
    return loads(VALID_RECIPE + f"engine: {{use: zero, deepspeed: {block}}}\n", overrides, resolve=resolve_component)


def stage_problems(
    stage: int, offload: Literal["none", "cpu", "nvme"] = "none", block: str = "{}", zero: str = "{}"
) -> list[str]:
    """The conflicts of a block in a stage, as `key: message (hint)`."""
    settings = load_options(DeepSpeed, block, resolve=resolve_component)
    if zero != "{}":
        settings = DeepSpeed(
            **{name: getattr(settings, name) for name in ("prescale_gradients", "gradient_predivide_factor")},
            zero_optimization=load_options(ZeroOptimization, zero, resolve=resolve_component),
        )
    nvme = "/fast" if offload == "nvme" else None
    try:
        EngineConfig(use="zero", stage=stage, offload=offload, nvme_dir=nvme, deepspeed=settings)
    except OptionError as error:
        return [f"{fault.option}: {fault.message} ({fault.hint})" for fault in (error, *error.others)]
    return []


def test_only_keys_with_values_are_written() -> None:
    """Reading the text gives the same settings, also for an empty block."""
    recipe = load_deepspeed_block(
        "{zero_optimization: {reduce_bucket_size: 1000, overlap_comm: false}, communication_data_type: bf16}"
    )
    text = dump(recipe)
    assert text.endswith(
        "  deepspeed:\n    zero_optimization:\n      reduce_bucket_size: 1000\n      overlap_comm: false\n"
        "    communication_data_type: bf16\n"
    )
    assert loads(text, resolve=resolve_component) == recipe
    for block, written in (("{}", "  deepspeed: {}\n"), ("null", "  deepspeed: null\n")):
        assert dump(load_deepspeed_block(block)).endswith(written)
        assert loads(dump(load_deepspeed_block(block)), resolve=resolve_component) == load_deepspeed_block(block)
    assert load_deepspeed_block("{}") != load_deepspeed_block("null")


def test_overrides() -> None:
    """Of single keys, with or without a block in the file; null resets a key."""
    zero_path = "engine.deepspeed.zero_optimization"
    changed = load_deepspeed_block(
        "{zero_optimization: {reduce_bucket_size: 5, overlap_comm: true}}", f"{zero_path}.reduce_bucket_size=1000"
    )
    assert to_deepspeed_config(changed.engine.deepspeed, "") == {
        "zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": True}
    }
    new = loads(
        VALID_RECIPE,
        ["engine.use=zero", f"{zero_path}.offload_optimizer.pin_memory=false", "engine.offload=cpu"],
        resolve=resolve_component,
    )
    assert to_deepspeed_config(new.engine.deepspeed, "") == {
        "zero_optimization": {"offload_optimizer": {"pin_memory": False}}
    }
    reset = load_deepspeed_block("{dump_state: true}", "engine.deepspeed.dump_state=null")
    assert to_deepspeed_config(reset.engine.deepspeed, "") == {}


def test_the_block_is_dropped_with_its_engine() -> None:
    """Like the options of a component whose name changes."""
    assert load_deepspeed_block("{dump_state: true}", "engine=local").engine.deepspeed is None


def test_conversion_to_the_configuration_of_deepspeed() -> None:
    """Keys without values are absent, lists stay lists, and the profile is written to the run folder."""
    assert to_deepspeed_config(None, "") == {}
    assert to_deepspeed_config(DeepSpeed(), "") == {}
    block = DeepSpeed(
        comms_logger=CommsLogger(enabled=True, verbose=True, prof_all=False, prof_ops=("all_reduce",)),
        flops_profiler=FlopsProfiler(enabled=True),
        zero_optimization=ZeroOptimization(offload_param=OffloadParam()),
    )
    assert to_deepspeed_config(block, "runs/one") == {
        "comms_logger": {"enabled": True, "verbose": True, "prof_all": False, "prof_ops": ["all_reduce"]},
        "flops_profiler": {"enabled": True, "output_file": "runs/one/flops.txt"},
        "zero_optimization": {"offload_param": {}},
    }
    assert to_deepspeed_config(DeepSpeed(flops_profiler=FlopsProfiler(enabled=False, top_modules=3)), "") == {}


def test_the_hint_for_auto_is_to_remove_the_key() -> None:
    """DeepSpeed silently drops `auto` below the top level."""
    with pytest.raises(RecipeError, match=r"'auto'\n.*\n.*\n  help: remove the key"):
        load_deepspeed_block("{zero_optimization: {overlap_comm: auto}}")


KEY_STAGES: dict[str, list[int]] = {
    "contiguous_gradients: true": [1, 2, 3],
    "reduce_scatter: true": [1, 2, 3],
    "reduce_bucket_size: 8": [1, 2, 3],
    "overlap_comm: true": [1, 2, 3],
    "use_multi_rank_bucket_allreduce: false": [1, 2],
    "allgather_bucket_size: 8": [1, 2],
    "round_robin_gradients: true": [1, 2],
    "parameter_alignment: true": [1, 2],
    "sub_group_size: 8": [3],
    "stage3_prefetch_bucket_size: 0": [3],
    "stage3_param_persistence_threshold: 0": [3],
    "stage3_model_persistence_threshold: 0": [3],
    "stage3_max_live_parameters: 0": [3],
    "stage3_max_reuse_distance: 0": [3],
    "stage3_use_all_reduce_for_fetch_params: true": [3],
    "stage3_allgather_sequential: true": [3],
    "zero_hpz_partition_size: 2": [3],
    "zero_quantized_weights: true": [3],
    "zero_quantized_gradients: true": [3],
    "memory_efficient_linear: false": [3],
    "log_trace_cache_warnings: true": [3],
    "enable_sanity_checks: true": [3],
}


@pytest.mark.parametrize("line", KEY_STAGES)
def test_keys_are_rejected_in_other_stages(line: str) -> None:
    """DeepSpeed would silently ignore them."""
    name, stages = line.partition(":")[0], {1: "3", 2: "1 or 2", 3: "1, 2 or 3"}[len(KEY_STAGES[line])]
    for stage in range(4):
        rejected = [f"{ZERO_KEY}.{name}: is for stage {stages}, and this is stage {stage} (remove it)"]
        assert stage_problems(stage, zero=f"{{{line}}}") == ([] if stage in KEY_STAGES[line] else rejected)


RULE_CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an odd bucket": (
        {"stage": 2, "zero": "{allgather_bucket_size: 1001}"},
        [f"{ZERO_KEY}.allgather_bucket_size: must be even, which 1001 is not (use 1002)"],
    ),
    "a reduction in one operation without reduce-scatter": (
        {"stage": 2, "zero": "{use_multi_rank_bucket_allreduce: true, reduce_scatter: false}"},
        [f"{ZERO_KEY}.use_multi_rank_bucket_allreduce: is ignored with `reduce_scatter: false` (remove it)"],
    ),
    "quantized gradients without reduce-scatter": (
        {"stage": 3, "zero": "{zero_quantized_gradients: true, reduce_scatter: false}"},
        [f"{ZERO_KEY}.zero_quantized_gradients: needs `reduce_scatter: true` (remove one of them)"],
    ),
    "sequential gathering and prefetching": (
        {"stage": 3, "zero": "{stage3_allgather_sequential: true, stage3_prefetch_bucket_size: 8}"},
        [f"{ZERO_KEY}.stage3_prefetch_bucket_size: is ignored with `stage3_allgather_sequential` (remove one of them)"],
    ),
    "an all-reduce of quantized weights": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_quantized_weights: true}"},
        [
            f"{ZERO_KEY}.stage3_use_all_reduce_for_fetch_params: is ignored with `zero_quantized_weights` "
            "(remove one of them)"
        ],
    ),
    "an all-reduce and a copy over one process": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_hpz_partition_size: 1}"},
        [],
    ),
    "an all-reduce and a second copy": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_hpz_partition_size: 2}"},
        [
            f"{ZERO_KEY}.stage3_use_all_reduce_for_fetch_params: is ignored with `zero_hpz_partition_size` "
            "(remove one of them)"
        ],
    ),
    "offloading settings without offloading": (
        {"stage": 3, "zero": "{offload_param: {}, offload_optimizer: {}}"},
        [
            f"{ZERO_KEY}.{name}: has no effect without offloading (set `engine.offload`, or remove it)"
            for name in ("offload_optimizer", "offload_param")
        ],
    ),
    "offloaded weights in stage 2": (
        {"stage": 2, "offload": "cpu", "zero": "{offload_param: {}}"},
        [f"{ZERO_KEY}.offload_param: is for stage 3, and this is stage 2 (remove it)"],
    ),
    "disk keys with offloading to memory": (
        {"stage": 3, "offload": "cpu", "zero": "{offload_optimizer: {fast_init: true, pin_memory: true}}"},
        [
            f"{ZERO_KEY}.offload_optimizer.fast_init: is only for offloading to a disk (use `offload: nvme`, or remove it)"
        ],
    ),
    "disk keys with offloading to a disk": (
        {
            "stage": 3,
            "offload": "nvme",
            "zero": "{offload_optimizer: {fast_init: true}, offload_param: {max_in_cpu: 0}}",
        },
        [],
    ),
    "aio with offloading to memory": (
        {"stage": 3, "offload": "cpu", "block": "{aio: {queue_depth: 8}}"},
        ["deepspeed.aio: is only for offloading to a disk (use `offload: nvme`, or remove it)"],
    ),
    "aio with offloading to a disk": ({"stage": 3, "offload": "nvme", "block": "{aio: {queue_depth: 8}}"}, []),
    "a value that offloading overrides": (
        {"stage": 2, "offload": "cpu", "zero": "{contiguous_gradients: false}"},
        [f"{ZERO_KEY}.contiguous_gradients: must be true in stage 2 with `offload`, and is set to true (remove it)"],
    ),
    "the same value in stage 3": ({"stage": 3, "offload": "cpu", "zero": "{contiguous_gradients: false}"}, []),
    "unused weights without offloading": (
        {"stage": 2, "zero": "{ignore_unused_parameters: false}"},
        [f"{ZERO_KEY}.ignore_unused_parameters: is only read with `offload` (remove it)"],
    ),
    "unused weights with offloading": ({"stage": 2, "offload": "cpu", "zero": "{ignore_unused_parameters: false}"}, []),
    "predivision in stage 0": ({"stage": 0, "block": "{gradient_predivide_factor: 2.0}"}, []),
    "prescaling without reduce-scatter": (
        {"stage": 1, "block": "{prescale_gradients: true}", "zero": "{reduce_scatter: false}"},
        [],
    ),
    "prescaling without contiguous gradients": (
        {
            "stage": 1,
            "block": "{prescale_gradients: true}",
            "zero": "{reduce_scatter: false, contiguous_gradients: false}",
        },
        [
            "deepspeed.prescale_gradients: has no effect in stage 1 while each process receives only its own shard (remove "
            "it, or set `zero_optimization.reduce_scatter: false` and keep `contiguous_gradients`)"
        ],
    ),
    "predivision in stage 3": (
        {"stage": 3, "block": "{gradient_predivide_factor: 2}", "zero": "{reduce_scatter: false}"},
        ["deepspeed.gradient_predivide_factor: is not for stage 3, which always divides before it sums (remove it)"],
    ),
    "prescaling and predivision": (
        {"stage": 0, "block": "{prescale_gradients: true, gradient_predivide_factor: 2.0}"},
        ["deepspeed.gradient_predivide_factor: is ignored with `prescale_gradients` (remove one of them)"],
    ),
    "a log that is not verbose": (
        {"stage": 0, "block": "{comms_logger: {enabled: true}}"},
        ["deepspeed.comms_logger: logs nothing unless it logs each operation (add `verbose: true`)"],
    ),
    "a log of some operations and of all": (
        {"stage": 0, "block": "{comms_logger: {enabled: true, verbose: true, prof_ops: [all_reduce]}}"},
        ["deepspeed.comms_logger.prof_ops: is ignored while all operations are logged (add `prof_all: false`)"],
    ),
    "a log that is off": ({"stage": 0, "block": "{comms_logger: {enabled: false}}"}, []),
}


@pytest.mark.parametrize("name", RULE_CASES)
def test_conflicts(name: str) -> None:
    """Conflicts that DeepSpeed asserts only after all processes have started, or ignores, are reported by the loader."""
    arguments, expected = RULE_CASES[name]
    assert stage_problems(**arguments) == expected


SETTINGS_BLOCKS: dict[str, tuple[type[PassThroughConfig], str]] = {
    "{}": (DeepSpeed, ""),
    "{{zero_optimization: {}}}": (ZeroOptimization, "zero_optimization."),
    "{{zero_optimization: {{offload_optimizer: {}}}}}": (OffloadOptimizer, "zero_optimization.offload_optimizer."),
    "{{zero_optimization: {{offload_param: {}}}}}": (OffloadParam, "zero_optimization.offload_param."),
    "{{flops_profiler: {}}}": (FlopsProfiler, "flops_profiler."),
    "{{comms_logger: {}}}": (CommsLogger, "comms_logger."),
    "{{timers: {{throughput: {}}}}}": (Throughput, "timers.throughput."),
    "{{aio: {}}}": (Aio, "aio."),
}


def problems_by_key(template: str, entries: str) -> dict[str, tuple[str, int, str | None]]:
    """Key path -> message, line and hint of its problem, for entries in one of the blocks above."""
    lines = "\n".join(f"   {entry}" for entry in entries.split("\n"))
    with pytest.raises(RecipeError) as caught:
        load_deepspeed_block(template.format("{\n" + lines + "\n  }"))
    problems = {}
    for problem in caught.value.problems:
        path, _, message = problem.message.partition(": ")
        assert problem.mark is not None
        problems[path.removeprefix("engine.deepspeed.")] = (message, problem.mark.line, problem.hint)
    return problems


@pytest.mark.parametrize("template", [template for template, (cls, _) in SETTINGS_BLOCKS.items() if cls.REJECTED])
def test_every_rejected_key_is_reported_at_its_line(template: str) -> None:
    """All of them together, each with the reason and what to do instead."""
    cls, path = SETTINGS_BLOCKS[template]
    problems = problems_by_key(template, ",\n".join(f"{key}: {{}}" for key in cls.REJECTED))
    for number, (key, (message, hint)) in enumerate(cls.REJECTED.items()):
        assert problems[path + key] == (message, VALID_RECIPE.count("\n") + 2 + number, hint)
        assert hint.strip()


@pytest.mark.parametrize("template", SETTINGS_BLOCKS)
def test_auto_is_rejected_for_every_key(template: str) -> None:
    """DeepSpeed would silently use its default."""
    cls, path = SETTINGS_BLOCKS[template]
    problems = problems_by_key(template, ",\n".join(f"{key}: auto" for key in fields_of(cls)))
    for key in fields_of(cls):
        assert problems[path + key][0].startswith("must be ")
        assert problems[path + key][0].endswith("not 'auto'")


@pytest.mark.parametrize("template", SETTINGS_BLOCKS)
def test_the_hint_for_a_misspelt_key_is_the_key(template: str) -> None:
    """For a missing letter in an accepted or in a rejected key."""
    cls, path = SETTINGS_BLOCKS[template]
    names = [name for name in {**fields_of(cls), **cls.REJECTED} if len(name) > 4]
    typos = {name[:-2] + name[-1]: name for name in names}
    typos = {typo: name for typo, name in typos.items() if typo not in (*fields_of(cls), *cls.REJECTED)}
    problems = problems_by_key(template, ",\n".join(f"{typo}: 1" for typo in typos))
    for typo, name in typos.items():
        message, _, hint = problems[path + typo]
        assert message == "unknown key"
        assert hint is not None
        assert hint.startswith(f"did you mean `{name}`?")
