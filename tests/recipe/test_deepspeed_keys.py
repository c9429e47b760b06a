"""Compares the recipe layer's tables of DeepSpeed's settings with DeepSpeed itself, which the recipe layer must not import.

If a new version of DeepSpeed adds, removes or changes a key, a test fails here before a user meets the change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest

from ni_framework.recipe.deepspeed import rejected, settings
from ni_framework.recipe.deepspeed.rules import NVME_ONLY_KEYS, STAGES_BY_KEY
from ni_framework.recipe.validate.fields import Field, fields_of, is_config_type, union_members

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of DeepSpeed itself

ZERO_CLASSES = {
    settings.ZeroOptimization: ("deepspeed.runtime.zero.config", "DeepSpeedZeroConfig"),
    settings.OffloadOptimizer: ("deepspeed.runtime.zero.offload_config", "DeepSpeedZeroOffloadOptimizerConfig"),
    settings.OffloadParam: ("deepspeed.runtime.zero.offload_config", "DeepSpeedZeroOffloadParamConfig"),
    settings.CommsLogger: ("deepspeed.comm.config", "CommsLoggerConfig"),
    settings.Throughput: ("deepspeed.utils.config", "DeepSpeedThroughputTimerConfig"),
}
"""Our config class -> the module and name of DeepSpeed's pydantic class for the same settings."""

IGNORED_TOP_LEVEL_KEYS = {"data_parallel_size", "sequence_parallel_size", "load_universal", "load_universal_checkpoint"}
"""Keys that `DeepSpeedConfig` does not read: `initialize` reads two, and two are commonly written instead of `checkpoint`."""


class RecordingConfig(dict[str, Any]):
    """A configuration that records the names of all keys that are read."""

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self.names = names

    def __copy__(self) -> RecordingConfig:
        return RecordingConfig(self, self.names)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)

    def keys(self) -> Any:  # DeepSpeed evaluates `key in config.keys()`.
        return self


@pytest.fixture(scope="module", autouse=True)
def quiet_deepspeed() -> Iterator[None]:
    """DeepSpeed on the CPU, without its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", os.environ.get("DS_ACCELERATOR", "cpu"))
        logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
        yield


def parse_with_deepspeed(values: Mapping[str, Any], names: set[str] | None = None) -> Any:
    """The configuration as DeepSpeed reads it; names of the keys that it reads are added to `names`."""
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig(RecordingConfig({"train_batch_size": 1, **values}, set() if names is None else names))


def top_level_keys() -> set[str]:
    """The top-level keys that DeepSpeed reads or rejects."""
    names: set[str] = set()
    parse_with_deepspeed({}, names)
    return names


def deepspeed_class(cls: type) -> Any:
    """DeepSpeed's class for one of our config classes."""
    module, name = ZERO_CLASSES[cls]
    return getattr(__import__(module, fromlist=[name]), name)


def field_names(model: Any) -> set[str]:
    """All names of the fields of a pydantic class, aliases included."""
    return {name for key, field in model.model_fields.items() for name in (key, field.alias) if name}


def test_every_top_level_key_is_accepted_or_rejected() -> None:
    """And there is no key that DeepSpeed does not have."""
    known = top_level_keys()
    assert len(known) > 50, "DeepSpeed reads its keys differently"
    ours = set(fields_of(settings.DeepSpeed)) | set(rejected.REJECTED_TOP_LEVEL)
    assert known - ours == set(), "keys of DeepSpeed that are missing in our tables"
    # DeepSpeed reads this one only where a process group is initialized, as another test of this process may have done.
    not_read = (ours - known) | {"sequence_parallel_size"}
    assert not_read == IGNORED_TOP_LEVEL_KEYS, "keys in our tables that DeepSpeed does not have"


@pytest.mark.parametrize("cls", ZERO_CLASSES)
def test_every_key_of_a_pydantic_class_is_accepted_or_rejected(cls: type) -> None:
    from deepspeed.runtime.config import _REMOVED_ZERO_CONFIG_KEYS

    known = field_names(deepspeed_class(cls)) | (
        set(_REMOVED_ZERO_CONFIG_KEYS) if cls is settings.ZeroOptimization else set()
    )
    assert known == set(fields_of(cls)) | set(cls.REJECTED)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("key", "cls"), [("aio", settings.Aio), ("flops_profiler", settings.FlopsProfiler)])
def test_every_key_of_a_plain_block_is_accepted_or_rejected(key: str, cls: type) -> None:
    """In the blocks that DeepSpeed reads without a pydantic class."""
    names: set[str] = set()
    parse_with_deepspeed({key: RecordingConfig({}, names)})
    assert names == set(fields_of(cls)) | set(cls.REJECTED)  # type: ignore[attr-defined]


def test_every_timer_is_accepted() -> None:
    names: set[str] = set()
    parse_with_deepspeed({"timers": RecordingConfig({}, names)})
    assert names == set(fields_of(settings.Timers))


def sample_value(field: Field) -> Any:
    """A value that our checks accept."""
    for member in union_members(field.annotation):
        if get_origin(member) is Literal:
            return get_args(member)[0]
        if get_origin(member) is tuple:
            return ["all_reduce"]
        if member is bool:
            return True
        if member in (int, float):
            return member(max(8, field.attribute.metadata["bounds"].get("ge", 8)))
    raise AssertionError(f"no sample for {field}")


def smallest_valid(field: Field) -> Any:
    """The smallest number that our checks accept; None for a key that is not a number."""
    numeric = int in union_members(field.annotation) or float in union_members(field.annotation)
    return field.attribute.metadata["bounds"].get("ge") if numeric else None


@pytest.mark.parametrize("cls", ZERO_CLASSES)
def test_accepted_values_are_valid_for_deepspeed(cls: type) -> None:
    """DeepSpeed uses them unchanged; it has no stricter types or bounds."""
    for name, field in fields_of(cls).items():
        if any(is_config_type(member) for member in union_members(field.annotation)):
            continue
        for value in filter(lambda value: value is not None, (sample_value(field), smallest_valid(field))):
            stage = {"stage": 2} if cls is settings.ZeroOptimization else {}
            read = deepspeed_class(cls)(**stage, **{name: value})
            key = next(key for key, known in type(read).model_fields.items() if name in (key, known.alias))
            assert getattr(read, key) == value
            assert type(getattr(read, key)) is type(value)


def test_defaults_of_deepspeed_are_within_our_bounds() -> None:
    for cls in ZERO_CLASSES:
        for name, field in fields_of(cls).items():
            known = deepspeed_class(cls).model_fields
            key = next(key for key, value in known.items() if name in (key, value.alias))
            default = known[key].get_default(call_default_factory=True)
            low = field.attribute.metadata["bounds"].get("ge")
            assert low is None or default is None or default >= low, name


def test_deepspeed_reads_the_values_of_a_block() -> None:
    """Of the configuration that `to_deepspeed_config` makes of a recipe's block."""
    block = settings.DeepSpeed(
        communication_data_type="bf16", prescale_gradients=True, wall_clock_breakdown=True, dump_state=True,
        memory_breakdown=True, disable_python_gc=True,
        zero_optimization=settings.ZeroOptimization(
            stage3_max_reuse_distance=7, offload_optimizer=settings.OffloadOptimizer(pin_memory=False)
        ),
        aio=settings.Aio(queue_depth=3), timers=settings.Timers(throughput=settings.Throughput(enabled=False)),
        comms_logger=settings.CommsLogger(enabled=True, verbose=True, prof_all=False, prof_ops=("broadcast",)),
        flops_profiler=settings.FlopsProfiler(enabled=True, profile_step=5),
    )  # fmt: skip
    read = parse_with_deepspeed(settings.to_deepspeed_config(block, "runs/one"))
    assert str(read.communication_data_type) == "torch.bfloat16"
    assert read.prescale_gradients and read.wall_clock_breakdown and read.dump_state  # noqa: PT018
    assert read.memory_breakdown and read.disable_python_gc  # noqa: PT018
    assert read.zero_config.max_reuse_distance == 7
    assert read.zero_config.offload_optimizer.pin_memory is False
    assert read.aio_config["queue_depth"] == 3
    assert read.timers_config.enabled is False
    assert read.comms_config.comms_logger.prof_ops == ["broadcast"]
    assert read.flops_profiler_config.profile_step == 5
    assert read.flops_profiler_config.output_file == "runs/one/flops.txt"


def test_comms_logger_that_is_off_is_off() -> None:
    """DeepSpeed treats the presence of the block as `enabled: true`, so `to_deepspeed_config` omits the block."""
    off = settings.DeepSpeed(comms_logger=settings.CommsLogger(enabled=False, verbose=True))
    assert parse_with_deepspeed(
        attrs.asdict(off, filter=lambda _, value: value is not None)
    ).comms_config.comms_logger_enabled
    assert not parse_with_deepspeed(settings.to_deepspeed_config(off, "")).comms_config.comms_logger_enabled


def test_removed_keys_are_those_of_deepspeed() -> None:
    """The keys that our tables call removed are exactly the ones that DeepSpeed rejects as removed."""
    from deepspeed.runtime import config

    for table, removed, block in (
        (rejected.REJECTED_TOP_LEVEL, config._REMOVED_TOP_LEVEL_CONFIG_KEYS, None),
        (rejected.REJECTED_ZERO, config._REMOVED_ZERO_CONFIG_KEYS, "zero_optimization"),
    ):
        called_removed = {key for key, (message, _) in table.items() if "was removed" in message} - {"legacy_stage1"}
        assert called_removed == set(removed)
        for key in called_removed:
            with pytest.raises(config.DeepSpeedConfigError):
                parse_with_deepspeed({block: {key: {}}} if block else {key: {}})


def test_keys_without_effect_are_not_used_by_deepspeed() -> None:
    """At most, DeepSpeed's engine has an accessor that returns the value."""
    from deepspeed import __path__ as paths

    root = Path(paths[0])
    unused = [
        key
        for table in (rejected.REJECTED_TOP_LEVEL, rejected.REJECTED_ZERO)
        for key, (text, _) in table.items()
        if "changes nothing" in text
    ]
    assert sorted(unused) == ["allgather_partitions", "disable_allgather"]
    for key in unused:
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


def test_every_key_has_a_list_of_stages() -> None:
    """The rules cover all keys, and no others."""
    assert set(STAGES_BY_KEY) == set(fields_of(settings.ZeroOptimization))
    assert set(NVME_ONLY_KEYS["offload_optimizer"]) <= set(fields_of(settings.OffloadOptimizer))
    assert set(NVME_ONLY_KEYS["offload_param"]) <= set(fields_of(settings.OffloadParam))
