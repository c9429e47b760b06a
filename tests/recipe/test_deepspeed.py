"""`engine.deepspeed`: what is passed on, what does not suit, and how it is written. Refused keys are among the cases."""

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
    given,
)
from ni_framework.recipe.schema import Engine
from ni_framework.recipe.validate.fields import Passed, fields_of
from tests.helpers.recipe_components import VALID, resolve

ZERO = "deepspeed.zero_optimization"


def read(block: str, *overrides: str) -> Recipe:
    """The valid recipe with an `engine.deepspeed`."""
    return loads(VALID + f"engine: {{use: zero, deepspeed: {block}}}\n", overrides, resolve=resolve)


def objections(
    stage: int, offload: Literal["none", "cpu", "nvme"] = "none", block: str = "{}", zero: str = "{}"
) -> list[str]:
    """What the rules say of a block in a stage, as `key: message (hint)`."""
    inside = load_options(DeepSpeed, block, resolve=resolve)
    if zero != "{}":
        inside = DeepSpeed(
            **{name: getattr(inside, name) for name in ("prescale_gradients", "gradient_predivide_factor")},
            zero_optimization=load_options(ZeroOptimization, zero, resolve=resolve),
        )
    nvme = "/fast" if offload == "nvme" else None
    try:
        Engine(use="zero", stage=stage, offload=offload, nvme=nvme, deepspeed=inside)
    except OptionError as error:
        return [f"{fault.option}: {fault.message} ({fault.hint})" for fault in (error, *error.also)]
    return []


def test_only_what_is_given_is_written() -> None:
    """And read again it is the same, an empty block too."""
    recipe = read("{zero_optimization: {reduce_bucket_size: 1000, overlap_comm: false}, communication_data_type: bf16}")
    text = dump(recipe)
    assert text.endswith(
        "  deepspeed:\n    zero_optimization:\n      reduce_bucket_size: 1000\n      overlap_comm: false\n"
        "    communication_data_type: bf16\n"
    )
    assert loads(text, resolve=resolve) == recipe
    for block, written in (("{}", "  deepspeed: {}\n"), ("null", "  deepspeed: null\n")):
        assert dump(read(block)).endswith(written)
        assert loads(dump(read(block)), resolve=resolve) == read(block)
    assert read("{}") != read("null")


def test_overrides() -> None:
    """One by one, whether the file gives the block or not; null takes a key back."""
    place = "engine.deepspeed.zero_optimization"
    changed = read(
        "{zero_optimization: {reduce_bucket_size: 5, overlap_comm: true}}", f"{place}.reduce_bucket_size=1000"
    )
    assert given(changed.engine.deepspeed, "") == {
        "zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": True}
    }
    new = loads(
        VALID, ["engine.use=zero", f"{place}.offload_optimizer.pin_memory=false", "engine.offload=cpu"], resolve=resolve
    )
    assert given(new.engine.deepspeed, "") == {"zero_optimization": {"offload_optimizer": {"pin_memory": False}}}
    assert given(read("{dump_state: true}", "engine.deepspeed.dump_state=null").engine.deepspeed, "") == {}


def test_another_engine_takes_the_block_with_it() -> None:
    """As it does with the options of any choice."""
    assert read("{dump_state: true}", "engine=local").engine.deepspeed is None


def test_given() -> None:
    """Nothing where nothing is, lists as lists, and the profile into the run's folder."""
    assert given(None, "") == given(DeepSpeed(), "") == {}
    block = DeepSpeed(
        comms_logger=CommsLogger(enabled=True, verbose=True, prof_all=False, prof_ops=("all_reduce",)),
        flops_profiler=FlopsProfiler(enabled=True),
        zero_optimization=ZeroOptimization(offload_param=OffloadParam()),
    )
    assert given(block, "runs/one") == {
        "comms_logger": {"enabled": True, "verbose": True, "prof_all": False, "prof_ops": ["all_reduce"]},
        "flops_profiler": {"enabled": True, "output_file": "runs/one/flops.txt"},
        "zero_optimization": {"offload_param": {}},
    }
    assert given(DeepSpeed(flops_profiler=FlopsProfiler(enabled=False, top_modules=3)), "") == {}


def test_a_value_that_is_no_value_anywhere_says_how_to_leave_it() -> None:
    """DeepSpeed drops `auto` without a word, below the top."""
    with pytest.raises(RecipeError, match=r"'auto'\n.*\n.*\n  help: leave the key out"):
        read("{zero_optimization: {overlap_comm: auto}}")


STAGES: dict[str, list[int]] = {
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


@pytest.mark.parametrize("line", STAGES)
def test_each_key_is_for_its_stages(line: str) -> None:
    """And the others, which would pass over it, refuse it."""
    name, words = line.partition(":")[0], {1: "3", 2: "1 or 2", 3: "1, 2 or 3"}[len(STAGES[line])]
    for stage in range(4):
        refused = [f"{ZERO}.{name}: is for stage {words}, and this is stage {stage} (leave it out)"]
        assert objections(stage, zero=f"{{{line}}}") == ([] if stage in STAGES[line] else refused)


RULES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an odd bucket": (
        {"stage": 2, "zero": "{allgather_bucket_size: 1001}"},
        [f"{ZERO}.allgather_bucket_size: must be even, and 1001 is odd (use 1002)"],
    ),
    "one operation for nothing": (
        {"stage": 2, "zero": "{use_multi_rank_bucket_allreduce: true, reduce_scatter: false}"},
        [f"{ZERO}.use_multi_rank_bucket_allreduce: is passed over with `reduce_scatter: false` (leave it out)"],
    ),
    "4 bits without parts": (
        {"stage": 3, "zero": "{zero_quantized_gradients: true, reduce_scatter: false}"},
        [f"{ZERO}.zero_quantized_gradients: needs `reduce_scatter: true` (leave one of them out)"],
    ),
    "one by one, and ahead": (
        {"stage": 3, "zero": "{stage3_allgather_sequential: true, stage3_prefetch_bucket_size: 8}"},
        [
            f"{ZERO}.stage3_prefetch_bucket_size: is passed over with `stage3_allgather_sequential` "
            "(leave one of them out)"
        ],
    ),
    "a sum of 8 bits": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_quantized_weights: true}"},
        [
            f"{ZERO}.stage3_use_all_reduce_for_fetch_params: is passed over with `zero_quantized_weights` "
            "(leave one of them out)"
        ],
    ),
    "a sum, and a copy that is none": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_hpz_partition_size: 1}"},
        [],
    ),
    "a sum over a copy": (
        {"stage": 3, "zero": "{stage3_use_all_reduce_for_fetch_params: true, zero_hpz_partition_size: 2}"},
        [
            f"{ZERO}.stage3_use_all_reduce_for_fetch_params: is passed over with `zero_hpz_partition_size` "
            "(leave one of them out)"
        ],
    ),
    "how, and nothing is": (
        {"stage": 3, "zero": "{offload_param: {}, offload_optimizer: {}}"},
        [
            f"{ZERO}.{name}: says how, and nothing is put elsewhere (set `engine.offload`, or leave it out)"
            for name in ("offload_optimizer", "offload_param")
        ],
    ),
    "weights elsewhere": (
        {"stage": 2, "offload": "cpu", "zero": "{offload_param: {}}"},
        [f"{ZERO}.offload_param: is for stage 3, and this is stage 2 (leave it out)"],
    ),
    "a disk's keys in memory": (
        {"stage": 3, "offload": "cpu", "zero": "{offload_optimizer: {fast_init: true, pin_memory: true}}"},
        [f"{ZERO}.offload_optimizer.fast_init: is for a disk (use `offload: nvme`, or leave it out)"],
    ),
    "a disk's keys on a disk": (
        {
            "stage": 3,
            "offload": "nvme",
            "zero": "{offload_optimizer: {fast_init: true}, offload_param: {max_in_cpu: 0}}",
        },
        [],
    ),
    "a disk's settings in memory": (
        {"stage": 3, "offload": "cpu", "block": "{aio: {queue_depth: 8}}"},
        ["deepspeed.aio: is for a disk (use `offload: nvme`, or leave it out)"],
    ),
    "a disk's settings on a disk": ({"stage": 3, "offload": "nvme", "block": "{aio: {queue_depth: 8}}"}, []),
    "what offloading decides": (
        {"stage": 2, "offload": "cpu", "zero": "{contiguous_gradients: false}"},
        [f"{ZERO}.contiguous_gradients: must be true in stage 2 with `offload`, and is made so (leave it out)"],
    ),
    "what stage 3 lets be": ({"stage": 3, "offload": "cpu", "zero": "{contiguous_gradients: false}"}, []),
    "unused weights that nobody looks for": (
        {"stage": 2, "zero": "{ignore_unused_parameters: false}"},
        [f"{ZERO}.ignore_unused_parameters: is looked at with `offload` alone (leave it out)"],
    ),
    "unused weights": ({"stage": 2, "offload": "cpu", "zero": "{ignore_unused_parameters: false}"}, []),
    "divided before, in no stage": ({"stage": 0, "block": "{gradient_predivide_factor: 2.0}"}, []),
    "divided before, with whole sums": (
        {"stage": 1, "block": "{prescale_gradients: true}", "zero": "{reduce_scatter: false}"},
        [],
    ),
    "divided before, in pieces": (
        {
            "stage": 1,
            "block": "{prescale_gradients: true}",
            "zero": "{reduce_scatter: false, contiguous_gradients: false}",
        },
        [
            "deepspeed.prescale_gradients: is not done in stage 1 while each process is sent its own part alone (leave it "
            "out, or set `zero_optimization.reduce_scatter: false` and keep `contiguous_gradients`)"
        ],
    ),
    "divided before, in stage 3": (
        {"stage": 3, "block": "{gradient_predivide_factor: 2}", "zero": "{reduce_scatter: false}"},
        [
            "deepspeed.gradient_predivide_factor: is not for stage 3, which always divides before it adds up (leave it out)"
        ],
    ),
    "divided before, twice": (
        {"stage": 0, "block": "{prescale_gradients: true, gradient_predivide_factor: 2.0}"},
        ["deepspeed.gradient_predivide_factor: is passed over with `prescale_gradients` (leave one of them out)"],
    ),
    "a log without words": (
        {"stage": 0, "block": "{comms_logger: {enabled: true}}"},
        ["deepspeed.comms_logger: tells nothing unless it tells each operation (add `verbose: true`)"],
    ),
    "a log of some, and of all": (
        {"stage": 0, "block": "{comms_logger: {enabled: true, verbose: true, prof_ops: [all_reduce]}}"},
        ["deepspeed.comms_logger.prof_ops: is passed over while all operations are told (add `prof_all: false`)"],
    ),
    "a log that is off": ({"stage": 0, "block": "{comms_logger: {enabled: false}}"}, []),
}


@pytest.mark.parametrize("name", RULES)
def test_what_does_not_suit(name: str) -> None:
    """What DeepSpeed would assert after all processes have started, or pass over, is said before."""
    arguments, expected = RULES[name]
    assert objections(**arguments) == expected


BLOCKS: dict[str, tuple[type[Passed], str]] = {
    "{}": (DeepSpeed, ""),
    "{{zero_optimization: {}}}": (ZeroOptimization, "zero_optimization."),
    "{{zero_optimization: {{offload_optimizer: {}}}}}": (OffloadOptimizer, "zero_optimization.offload_optimizer."),
    "{{zero_optimization: {{offload_param: {}}}}}": (OffloadParam, "zero_optimization.offload_param."),
    "{{flops_profiler: {}}}": (FlopsProfiler, "flops_profiler."),
    "{{comms_logger: {}}}": (CommsLogger, "comms_logger."),
    "{{timers: {{throughput: {}}}}}": (Throughput, "timers.throughput."),
    "{{aio: {}}}": (Aio, "aio."),
}


def problems(around: str, inside: str) -> dict[str, tuple[str, int, str | None]]:
    """Key path to what is said of it, in which line, and the hint."""
    lines = "\n".join(f"   {part}" for part in inside.split("\n"))
    with pytest.raises(RecipeError) as caught:
        read(around.format("{\n" + lines + "\n  }"))
    said = {}
    for problem in caught.value.problems:
        path, _, message = problem.message.partition(": ")
        assert problem.mark is not None
        said[path.removeprefix("engine.deepspeed.")] = (message, problem.mark.line, problem.hint)
    return said


@pytest.mark.parametrize("around", [around for around, (cls, _) in BLOCKS.items() if cls.REFUSED])
def test_every_refused_key_is_told_at_its_line(around: str) -> None:
    """All at once, each with what to do instead; the reason is a sentence's end, the hint another."""
    cls, path = BLOCKS[around]
    said = problems(around, ",\n".join(f"{key}: {{}}" for key in cls.REFUSED))
    for number, (key, (message, hint)) in enumerate(cls.REFUSED.items()):
        assert said[path + key] == (message, VALID.count("\n") + 2 + number, hint)
        assert hint.strip()


@pytest.mark.parametrize("around", BLOCKS)
def test_auto_is_no_value_of_any_key(around: str) -> None:
    """Which DeepSpeed would drop, so that nobody learns what is used."""
    cls, path = BLOCKS[around]
    said = problems(around, ",\n".join(f"{key}: auto" for key in fields_of(cls)))
    for key in fields_of(cls):
        assert said[path + key][0].startswith("must be ")
        assert said[path + key][0].endswith("not 'auto'")


@pytest.mark.parametrize("around", BLOCKS)
def test_every_typo_is_told_with_what_was_meant(around: str) -> None:
    """A letter too few in a key that is passed on, or in one that is refused, is told with that key's name."""
    cls, path = BLOCKS[around]
    names = [name for name in {**fields_of(cls), **cls.REFUSED} if len(name) > 4]
    typos = {name[:-2] + name[-1]: name for name in names}
    typos = {typo: name for typo, name in typos.items() if typo not in (*fields_of(cls), *cls.REFUSED)}
    said = problems(around, ",\n".join(f"{typo}: 1" for typo in typos))
    for typo, name in typos.items():
        message, _, hint = said[path + typo]
        assert message == "unknown key"
        assert hint is not None
        assert hint.startswith(f"did you mean `{name}`?")
