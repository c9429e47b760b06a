"""Random recipes for property tests: values first, from which `dump` makes the text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ni_framework.options import Choice
from ni_framework.recipe import Engine, Model, Optimizer, Recipe, Schedule, Script, Train
from ni_framework.recipe.deepspeed.settings import CommsLogger, DeepSpeed, ZeroOptimization
from tests.helpers.recipe_components import Empty, Everything, Kernel, Lines, Mlp, Patches, TopK

counts = st.integers(1, 10**12)
# Any text that a terminal can take, and text that looks like something else.
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
parts = st.floats(0, 1, exclude_max=True)


def choices(name: str, options: st.SearchStrategy[Any]) -> st.SearchStrategy[Choice]:
    """Components of one name."""
    return st.builds(Choice, st.just(name), options)


linears = choices("modlin", st.just(Empty())) | choices("lowrank", st.builds(Mlp, depth=counts))
everything = st.builds(
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
    nested=st.builds(Mlp, depth=counts),
    parts=st.lists(linears, max_size=3).map(tuple),
)
script: dict[str, st.SearchStrategy[Any]] = {
    "iterations": counts,
    "functions": counts,
    "code": counts,
    "type": counts,
    "embedding": choices("separate", st.just(Empty())),
    "type_inference": choices("mlp", st.builds(Mlp, depth=counts)),
    "router": choices("kernel", st.builds(Kernel, truncation=positive))
    | choices("top_k", st.builds(TopK, k=counts, hard=st.booleans())),
    "body": choices("lines_of_code", st.builds(Lines, lines=counts, heads=st.sampled_from([1, 2]), linear=linears)),
    "temporary": st.integers(0, 3),
    "pooling": st.sampled_from(["delta", "gating", "sum"]),
    "execution": st.sampled_from(["dense", "packed"]),
}
models = st.builds(
    Model,
    **script,
    width=counts,
    input=choices("patches", st.builds(Patches, image=st.tuples(counts, counts, counts), patch=counts))
    | choices("everything", everything),
    head=choices("classify", st.just(Empty())),
    scripts=st.integers(1, 5) | st.lists(st.builds(Script, **script), min_size=1, max_size=3).map(tuple),
)
flags = st.none() | st.booleans()
engines = st.builds(Engine, use=st.just("local")) | st.builds(
    Engine,
    use=st.just("zero"),
    stage=st.just(3),
    offload=st.sampled_from(["none", "cpu"]),
    deepspeed=st.none()
    | st.builds(
        DeepSpeed,
        zero_optimization=st.none()
        | st.builds(ZeroOptimization, reduce_bucket_size=st.none() | counts, overlap_comm=flags, sub_group_size=counts),
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
    data=choices("digits", st.just(Empty())) | choices("folder", everything),
    train=st.builds(
        Train,
        steps=counts,
        batch=counts.map(lambda count: 6 * count),
        accumulate=st.sampled_from([1, 2, 3, 6]),
        precision=st.sampled_from(["fp32", "bf16"]),
        clip=st.none() | positive,
        optimizer=st.builds(Optimizer, lr=positive, weight_decay=st.floats(0, 1), betas=st.tuples(parts, parts)),
        schedule=st.builds(Schedule, use=st.sampled_from(["one_cycle", "cosine", "constant"]), warmup=parts),
        log_every=counts,
        evaluate_every=st.none() | counts,
    ),
    engine=engines,
)
