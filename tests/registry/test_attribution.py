"""An error in a plugin's code names the component, its distribution and version, and keeps what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ni_framework.checkpoint.run_dir import checkpoints_of
from ni_framework.contracts import hookimpl
from ni_framework.errors import FitError, PluginError, RunError
from ni_framework.training.train import train
from tests.cli.conftest import Ni, ni, small  # noqa: F401  fixtures
from tests.helpers.distributions import Install
from tests.helpers.small_recipe import small_recipe

SOURCE = """
import sys
import torch
from torch import nn
from ni_framework.contracts import Answer, Batch, Body, Data, Halting
from ni_framework.errors import RunError
from ni_standard.data.digits import Digits
calls = []
class Odd(Body):
    def __init__(self, config, sizes, build):
        super().__init__()
        self.shift = Shift(sizes.code, sizes.width)
    def prepare(self, code_UC, num_elements):
        return self.shift(code_UC)
    def forward(self, x_BVD, shift_UD, pairs):
        calls.append("forward")
        if not self.training or len(calls) < 9:
            return Answer(pairs.share(x_BVD) + pairs.spread(shift_UD), {}, {"seen": torch.ones(())})
        FORWARD
        return Answer(pairs.share(x_BVD) + pairs.spread(shift_UD), {}, {"seen": torch.ones(())})
    def absorb(self, statistics):
        calls.append("absorb")
        ABSORB
class Shift(nn.Linear):
    def reset_parameters(self):
        super().reset_parameters()
        RESET
    def forward(self, x):
        if len(calls) > 9:
            HELPER
        return super().forward(x)
class OddSplit:
    def __init__(self, split): self.split = split
    def __len__(self): return len(self.split)
    def batch(self, index_B, key_B):
        BATCH
        return self.split.batch(index_B, key_B)
class OddDigits(Digits):
    def open(self):
        return {name: OddSplit(split) for name, split in super().open().items()}
"""
ENTRIES = {
    "body": {"odd": "ni_odd:Odd", "another": "ni_odd_elsewhere:Other"},
    "data": {"odd_digits": "ni_odd:OddDigits"},
}
PARTS = ("FORWARD", "ABSORB", "RESET", "HELPER", "BATCH")


def plugin(**statements: str) -> str:
    source = SOURCE
    for part in PARTS:
        source = source.replace(part, statements.get(part, "pass"))
    return source


def run(folder: Path, *overrides: str) -> Any:
    recipe = small_recipe(folder, "model.body=odd", "data=odd_digits", "train.steps=12", *overrides)
    return train(recipe, folder / "run")


RAISE = "raise ValueError('oh\\nno')"
CASES = {
    "FORWARD": "step 3: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in forward (ni_odd.py, line 19): ValueError: oh no",
    "ABSORB": "step 1: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in absorb (ni_odd.py, line 23): ValueError: oh no",
    "HELPER": "step 4: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in forward (ni_odd.py, line 30): ValueError: oh no",
    "RESET": "body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in reset_parameters (ni_odd.py, line 27): "
    "ValueError: oh no",
    "BATCH": "body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in batch (ni_odd.py, line 36): ValueError: oh no",
}


@pytest.mark.parametrize("part", CASES)
def test_a_component_that_raises_is_named(part: str, install: Install, tmp_path: Path) -> None:
    late = "if not self.weight.is_meta: " if part == "RESET" else ""  # after the model is built
    install("ni_odd", plugin(**{part: late + RAISE}), ENTRIES)
    with pytest.raises(PluginError) as caught:
        run(tmp_path)
    (problem,) = caught.value.problems
    assert problem.message == CASES[part]
    hint = "report it to ni-odd, or upgrade it: pip install --upgrade ni-odd; NI_DEBUG=1 shows the traceback"
    assert (problem.hint or "").startswith(hint)
    assert isinstance(caught.value.__cause__, ValueError)


def test_without_a_fault(install: Install, tmp_path: Path) -> None:
    """What the others are compared with."""
    install("ni_odd", plugin(), ENTRIES)
    assert run(tmp_path)["metrics"]["test/accuracy"] > 0


def test_what_was_trained_is_saved(
    ni: Ni,  # noqa: F811
    small: Path,  # noqa: F811
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the way on is told; NI_DEBUG=1 shows where it happened."""
    install("ni_odd", plugin(FORWARD=RAISE), ENTRIES)
    done = ni("train", "small.yaml", "model.body=odd", "train.steps=12", "--output", "run")
    assert done.code == 4
    (checkpoint,) = checkpoints_of(small / "run")
    assert checkpoint.name == "step-02"
    assert done.err.endswith(
        f"error: {CASES['FORWARD']}\n"
        "  help: report it to ni-odd, or upgrade it: pip install --upgrade ni-odd; NI_DEBUG=1 shows the traceback; "
        "the last checkpoint is run/checkpoints/step-02; mend that and go on with ni train --resume run\n"
    )
    monkeypatch.setenv("NI_DEBUG", "1")
    with pytest.raises(PluginError) as caught:
        ni("train", "small.yaml", "model.body=odd", "train.steps=12", "--output", "again")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_component_that_exits_ends_no_run(install: Install, tmp_path: Path) -> None:
    install("ni_odd", plugin(FORWARD="sys.exit(0)"), ENTRIES)
    with pytest.raises(PluginError, match=r"failed in forward \(ni_odd.py, line 19\): SystemExit: 0"):
        run(tmp_path)


def test_in_another_process(install: Install, tmp_path: Path) -> None:
    """One that prepares batches."""
    source = plugin(BATCH="torch.utils.data.get_worker_info() and 1 / 0")
    install("ni_odd", source, ENTRIES)
    with pytest.raises(PluginError) as caught:
        run(tmp_path, "train.workers=1")
    assert str(caught.value).startswith(
        "error: step 1: body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in batch (ni_odd.py, line 36): "
        "ZeroDivisionError"
    )


SPEAKING = {
    "the framework's own": ("raise RunError('data/x is absent')", RunError, "^data/x is absent$"),
    "want of memory": ("torch.empty(2**60)", FitError, "^step 3: does not fit this machine: "),
    "a file": (
        "open('/nowhere')",
        RunError,
        r"^step 2: No such file or directory \(/nowhere\); the last checkpoint is ",
    ),
}


@pytest.mark.parametrize("name", SPEAKING)
def test_errors_that_speak_for_themselves_stay(name: str, install: Install, tmp_path: Path) -> None:
    statement, kind, said = SPEAKING[name]
    install("ni_odd", plugin(FORWARD=statement), ENTRIES)
    with pytest.raises(kind, match=said):
        run(tmp_path)


class Raising:
    """Listens, and is given by the caller."""

    @hookimpl
    def run_step(self, step: int) -> None:
        raise ValueError("mine")


def test_errors_of_nobody_elses_stay(install: Install, tmp_path: Path) -> None:
    """A plugin takes part in the run, but not in the error."""
    install("ni_odd", plugin(), ENTRIES)
    with pytest.raises(ValueError, match="mine"):
        train(small_recipe(tmp_path, "model.body=odd"), tmp_path / "run", listeners=[Raising()])
