"""Strategies for random recipes in property tests; `dump` writes their text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ni_framework.options import ComponentSpec
from ni_framework.recipe import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ScriptConfig,
    TrainConfig,
)
from ni_framework.recipe.deepspeed.settings import CommsLogger, DeepSpeed, ZeroOptimization
from tests.helpers.recipe_components import Empty, Everything, Kernel, Lines, Mlp, Patches, TopK

positive_ints = st.integers(1, 10**12)
# Any text that a terminal can show, and text that YAML could read as another value.
texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20),
    st.sampled_from(
        ["1e-3", "no", "true", "null", "~", "", " ", "0777", ".5", "- a", "a: b", "#", "'", '"', "\\", "a\nb"]
    ),
    st.sampled_from(
        ["2001-01-01", "1:30", "0x1F", "+1", ".inf", ".nan", "<<", "*a", "&a", "!a", "@", "`", "%", "{", "\x85"]
    ),
)
keys = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8).filter(
    lambda text: text.isprintable() and text != "<<"
)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
unit_interval = st.floats(0, 1, exclude_max=True)


def specs(name: str, options: st.SearchStrategy[Any]) -> st.SearchStrategy[ComponentSpec]:
    """Component specs with one name."""
    return st.builds(ComponentSpec, st.just(name), options)


linears = specs("modlin", st.just(Empty())) | specs("lowrank", st.builds(Mlp, depth=positive_ints))
all_option_types = st.builds(
    Everything,
    flag=st.booleans(),
    word=texts,
    mode=st.sampled_from(["fast", "slow"]),
    maybe=st.none() | st.integers(-(2**63), 2**63),
    either=st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False),
    text_or_number=st.integers(-(10**9), 10**9) | texts,
    numbers=st.lists(st.floats(max_value=100, allow_nan=False, allow_infinity=False), max_size=40).map(tuple),
    pairs=st.lists(st.tuples(st.integers(-9, 9), texts), max_size=3).map(tuple),
    table=st.dictionaries(keys, st.floats(0, allow_infinity=False), max_size=3),
    nested=st.builds(Mlp, depth=positive_ints),
    parts=st.lists(linears, max_size=3).map(tuple),
)
script: dict[str, st.SearchStrategy[Any]] = {
    "iterations": positive_ints,
    "functions": positive_ints,
    "code": positive_ints,
    "type": positive_ints,
    "embedding": specs("separate", st.just(Empty())),
    "type_inference": specs("mlp", st.builds(Mlp, depth=positive_ints)),
    "router": specs("kernel", st.builds(Kernel, truncation=positive))
    | specs("top_k", st.builds(TopK, k=positive_ints, hard=st.booleans())),
    "body": specs(
        "lines_of_code", st.builds(Lines, lines=positive_ints, heads=st.sampled_from([1, 2]), linear=linears)
    ),
    "registers": st.integers(0, 3),
    "pooling": st.sampled_from(["delta", "gating", "sum"]),
    "execution": st.sampled_from(["dense", "packed"]),
}
models = st.builds(
    ModelConfig,
    **script,
    width=positive_ints,
    input=specs(
        "patches", st.builds(Patches, image=st.tuples(positive_ints, positive_ints, positive_ints), patch=positive_ints)
    )
    | specs("everything", all_option_types),
    head=specs("classify", st.just(Empty())),
    scripts=st.integers(1, 5) | st.lists(st.builds(ScriptConfig, **script), min_size=1, max_size=3).map(tuple),
)
flags = st.none() | st.booleans()
engines = st.builds(EngineConfig, use=st.just("local")) | st.builds(
    EngineConfig,
    use=st.just("zero"),
    stage=st.just(3),
    offload=st.sampled_from(["none", "cpu"]),
    deepspeed=st.none()
    | st.builds(
        DeepSpeed,
        zero_optimization=st.none()
        | st.builds(
            ZeroOptimization,
            reduce_bucket_size=st.none() | positive_ints,
            overlap_comm=flags,
            sub_group_size=positive_ints,
        ),
        communication_data_type=st.sampled_from([None, "fp32", "bf16"]),
        comms_logger=st.none()
        | st.builds(
            CommsLogger,
            enabled=st.booleans(),
            verbose=st.just(True),
            prof_all=st.just(False),
            prof_ops=st.tuples(texts),
        ),
    ),
)
recipes = st.builds(
    Recipe,
    ni=st.just(1),
    requires=st.lists(texts, max_size=2).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    model=models,
    data=specs("digits", st.just(Empty())) | specs("folder", all_option_types),
    train=st.builds(
        TrainConfig,
        steps=positive_ints,
        batch=positive_ints.map(lambda count: 6 * count),
        micro_batches=st.sampled_from([1, 2, 3, 6]),
        precision=st.sampled_from(["fp32", "bf16"]),
        max_grad_norm=st.none() | positive,
        optimizer=st.builds(
            OptimizerConfig, lr=positive, weight_decay=st.floats(0, 1), betas=st.tuples(unit_interval, unit_interval)
        ),
        schedule=st.builds(
            ScheduleConfig, use=st.sampled_from(["one_cycle", "cosine", "constant"]), warmup=unit_interval
        ),
        log_every=positive_ints,
        evaluate_every=st.none() | positive_ints,
    ),
    engine=engines,
)
