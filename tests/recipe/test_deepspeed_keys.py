"""What the recipe layer says of DeepSpeed's configuration, which it may not import, against DeepSpeed itself.

An upgrade of DeepSpeed that brings, takes or changes a key fails here, before a user meets it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest

from ni_framework.recipe.deepspeed import rejected as refused
from ni_framework.recipe.deepspeed import settings as ours
from ni_framework.recipe.deepspeed.rules import DISK, STAGES
from ni_framework.recipe.validate.fields import Field, fields_of, is_config, members

pytestmark = pytest.mark.filterwarnings("ignore")  # DeepSpeed's own

ZERO_CLASSES = {
    ours.ZeroOptimization: ("deepspeed.runtime.zero.config", "DeepSpeedZeroConfig"),
    ours.OffloadOptimizer: ("deepspeed.runtime.zero.offload_config", "DeepSpeedZeroOffloadOptimizerConfig"),
    ours.OffloadParam: ("deepspeed.runtime.zero.offload_config", "DeepSpeedZeroOffloadParamConfig"),
    ours.CommsLogger: ("deepspeed.comm.config", "CommsLoggerConfig"),
    ours.Throughput: ("deepspeed.utils.config", "DeepSpeedThroughputTimerConfig"),
}
"""Ours, and DeepSpeed's pydantic class for the same."""

OUTSIDE = {"data_parallel_size", "sequence_parallel_size", "load_universal", "load_universal_checkpoint"}
"""Keys that `DeepSpeedConfig` does not ask for: `initialize` asks for two, two are what people write for `checkpoint`."""


class Asked(dict[str, Any]):
    """A configuration that notes every key it is asked for."""

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self.names = names

    def __copy__(self) -> Asked:
        return Asked(self, self.names)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def keys(self) -> Any:  # DeepSpeed looks for `key in config.keys()`
        return self


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """DeepSpeed on the CPU, and silent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", os.environ.get("DS_ACCELERATOR", "cpu"))
        logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
        yield


def configured(values: Mapping[str, Any], names: set[str] | None = None) -> Any:
    """DeepSpeed's own reading of a configuration."""
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig(Asked({"train_batch_size": 1, **values}, set() if names is None else names))


def known_at_the_top() -> set[str]:
    """The keys that DeepSpeed asks its configuration for, or refuses by name."""
    names: set[str] = set()
    configured({}, names)
    return names


def theirs(cls: type) -> Any:
    """DeepSpeed's class for one of ours."""
    module, name = ZERO_CLASSES[cls]
    return getattr(__import__(module, fromlist=[name]), name)


def names_of(model: Any) -> set[str]:
    """Every name that a pydantic class takes a value by."""
    return {name for key, field in model.model_fields.items() for name in (key, field.alias) if name}


def test_every_key_at_the_top_is_passed_on_or_refused() -> None:
    """And none that DeepSpeed does not know."""
    known = known_at_the_top()
    assert len(known) > 50, "DeepSpeed asks for its keys in another way"
    mine = set(fields_of(ours.DeepSpeed)) | set(refused.TOP)
    assert known - mine == set(), "keys that DeepSpeed knows and we say nothing of"
    assert mine - known == OUTSIDE, "keys that we speak of and DeepSpeed does not know"


@pytest.mark.parametrize("cls", ZERO_CLASSES)
def test_every_key_below_is_passed_on_or_refused(cls: type) -> None:
    """In each of DeepSpeed's pydantic classes."""
    from deepspeed.runtime.config import _REMOVED_ZERO_CONFIG_KEYS

    known = names_of(theirs(cls)) | (set(_REMOVED_ZERO_CONFIG_KEYS) if cls is ours.ZeroOptimization else set())
    assert known == set(fields_of(cls)) | set(cls.REFUSED)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("key", "cls"), [("aio", ours.Aio), ("flops_profiler", ours.FlopsProfiler)])
def test_every_key_of_a_plain_block_is_passed_on_or_refused(key: str, cls: type) -> None:
    """In the blocks that DeepSpeed reads without a class of pydantic's."""
    names: set[str] = set()
    configured({key: Asked({}, names)})
    assert names == set(fields_of(cls)) | set(cls.REFUSED)  # type: ignore[attr-defined]


def test_timers_are_all() -> None:
    """DeepSpeed has one timer to configure."""
    names: set[str] = set()
    configured({"timers": Asked({}, names)})
    assert names == set(fields_of(ours.Timers))


def sample(field: Field) -> Any:
    """A value that our own checks take."""
    for member in members(field.annotation):
        if get_origin(member) is Literal:
            return get_args(member)[0]
        if get_origin(member) is tuple:
            return ["all_reduce"]
        if member is bool:
            return True
        if member in (int, float):
            return member(max(8, field.attribute.metadata["bounds"].get("ge", 8)))
    raise AssertionError(f"no sample for {field}")


def least(field: Field) -> Any:
    """The smallest number that our own checks take, None for what is no number."""
    numeric = int in members(field.annotation) or float in members(field.annotation)
    return field.attribute.metadata["bounds"].get("ge") if numeric else None


@pytest.mark.parametrize("cls", ZERO_CLASSES)
def test_values_are_taken(cls: type) -> None:
    """As they are, and DeepSpeed has no stricter type or bound."""
    for name, field in fields_of(cls).items():
        if any(is_config(member) for member in members(field.annotation)):
            continue
        for value in filter(lambda value: value is not None, (sample(field), least(field))):
            stage = {"stage": 2} if cls is ours.ZeroOptimization else {}
            read = theirs(cls)(**stage, **{name: value})
            key = next(key for key, known in type(read).model_fields.items() if name in (key, known.alias))
            assert getattr(read, key) == value
            assert type(getattr(read, key)) is type(value)


def test_defaults_of_ours_suit_theirs() -> None:
    """Our bounds do not shut out what DeepSpeed itself takes where a key is not given."""
    for cls in ZERO_CLASSES:
        for name, field in fields_of(cls).items():
            known = theirs(cls).model_fields
            key = next(key for key, value in known.items() if name in (key, value.alias))
            default = known[key].get_default(call_default_factory=True)
            low = field.attribute.metadata["bounds"].get("ge")
            assert low is None or default is None or default >= low, name


def test_a_whole_block_arrives() -> None:
    """What `given` makes of a recipe's block is what DeepSpeed then holds."""
    block = ours.DeepSpeed(
        communication_data_type="bf16", prescale_gradients=True, wall_clock_breakdown=True, dump_state=True,
        memory_breakdown=True, disable_python_gc=True,
        zero_optimization=ours.ZeroOptimization(
            stage3_max_reuse_distance=7, offload_optimizer=ours.OffloadOptimizer(pin_memory=False)
        ),
        aio=ours.Aio(queue_depth=3), timers=ours.Timers(throughput=ours.Throughput(enabled=False)),
        comms_logger=ours.CommsLogger(enabled=True, verbose=True, prof_all=False, prof_ops=("broadcast",)),
        flops_profiler=ours.FlopsProfiler(enabled=True, profile_step=5),
    )  # fmt: skip
    read = configured(ours.given(block, "runs/one"))
    assert str(read.communication_data_type) == "torch.bfloat16"
    assert read.prescale_gradients and read.wall_clock_breakdown and read.dump_state  # noqa: PT018
    assert read.memory_breakdown and read.disable_python_gc  # noqa: PT018
    assert read.zero_config.max_reuse_distance == 7
    assert read.zero_config.offload_optimizer.pin_memory is False
    assert read.aio_config["queue_depth"] == 3
    assert read.timers_config.enabled is False
    assert read.comms_config.comms_logger.prof_ops == ["broadcast"]
    assert (read.flops_profiler_config.profile_step, read.flops_profiler_config.output_file) == (
        5,
        "runs/one/flops.txt",
    )


def test_comms_logger_that_is_off_is_off() -> None:
    """DeepSpeed takes the presence of the block for the switch, which is why `given` leaves it out."""
    off = ours.DeepSpeed(comms_logger=ours.CommsLogger(enabled=False, verbose=True))
    assert configured(attrs.asdict(off, filter=lambda _, value: value is not None)).comms_config.comms_logger_enabled
    assert not configured(ours.given(off, "")).comms_config.comms_logger_enabled


def test_what_was_removed_is_refused_there_too() -> None:
    """Every key that we call removed, and no key that DeepSpeed calls so under another reason."""
    from deepspeed.runtime import config

    for table, removed, within in (
        (refused.TOP, config._REMOVED_TOP_LEVEL_CONFIG_KEYS, None),
        (refused.ZERO, config._REMOVED_ZERO_CONFIG_KEYS, "zero_optimization"),
    ):
        gone = {key for key, (message, _) in table.items() if "was removed" in message} - {"legacy_stage1"}
        assert gone == set(removed)
        for key in gone:
            with pytest.raises(config.DeepSpeedConfigError):
                configured({within: {key: {}}} if within else {key: {}})


def test_what_changes_nothing_is_used_nowhere() -> None:
    """DeepSpeed's engine has an accessor for them, or not even that."""
    from deepspeed import __path__ as paths

    root = Path(paths[0])
    idle = [
        key for table in (refused.TOP, refused.ZERO) for key, (text, _) in table.items() if "changes nothing" in text
    ]
    assert sorted(idle) == ["allgather_partitions", "disable_allgather"]
    for key in idle:
        users = [
            f"{path.relative_to(root)}: {line.strip()}"
            for path in (root / "runtime").rglob("*.py")
            if path.name not in ("config.py", "constants.py")
            for line in path.read_text(encoding="utf-8").splitlines()
            if key in line
        ]
        assert all(f"def zero_{key}" in line or f"return self._config.zero_config.{key}" in line for line in users), (
            users
        )


def test_every_key_has_its_stages() -> None:
    """The rules leave none out, and name none that is not there."""
    assert set(STAGES) == set(fields_of(ours.ZeroOptimization))
    assert set(DISK["offload_optimizer"]) <= set(fields_of(ours.OffloadOptimizer))
    assert set(DISK["offload_param"]) <= set(fields_of(ours.OffloadParam))
