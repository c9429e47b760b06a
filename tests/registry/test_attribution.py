"""An error in a plugin's code names the component, its distribution and version; the trained weights are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ni_framework.checkpoint.run_dir import list_checkpoints
from ni_framework.contracts import hookimpl
from ni_framework.errors import FitError, PluginError, RunError
from ni_framework.training.train import train
from tests.cli.conftest import RunNi, ni, small_recipe_dir  # noqa: F401  fixtures
from tests.helpers.distributions import InstallDistribution
from tests.helpers.small_recipe import load_small_recipe

RAISING_SOURCE = """
import sys
import torch
from torch import nn
from ni_framework.contracts import Output, Batch, Body, Data, Halting
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
            return Output(pairs.dispatch(x_BVD) + pairs.expand(shift_UD), {}, {"seen": torch.ones(())})
        FORWARD
        return Output(pairs.dispatch(x_BVD) + pairs.expand(shift_UD), {}, {"seen": torch.ones(())})
    def update_buffers(self, statistics):
        calls.append("update_buffers")
        UPDATE
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
RAISING_ENTRIES = {
    "body": {"odd": "ni_odd:Odd", "another": "ni_odd_elsewhere:Other"},
    "data": {"odd_digits": "ni_odd:OddDigits"},
}
PLACEHOLDERS = ("FORWARD", "UPDATE", "RESET", "HELPER", "BATCH")


def fill_in_source(**statements: str) -> str:
    """The source with statements in the place of some placeholders, and `pass` in the place of the others."""
    source = RAISING_SOURCE
    for placeholder in PLACEHOLDERS:
        source = source.replace(placeholder, statements.get(placeholder, "pass"))
    return source


def train_small_run(folder: Path, *overrides: str) -> Any:
    recipe = load_small_recipe(folder, "model.body=odd", "data=odd_digits", "train.steps=12", *overrides)
    return train(recipe, folder / "run")


RAISE_STATEMENT = "raise ValueError('oh\\nno')"
ATTRIBUTION_CASES = {
    "FORWARD": "step 3: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in forward (ni_odd.py, line 19): ValueError: oh no",
    "UPDATE": "step 1: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in update_buffers (ni_odd.py, line 23): ValueError: oh no",
    "HELPER": "step 4: body `odd` of ni-odd 0.1 (ni_odd:Odd) failed in forward (ni_odd.py, line 30): ValueError: oh no",
    "RESET": "body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in reset_parameters (ni_odd.py, line 27): "
    "ValueError: oh no",
    "BATCH": "body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in batch (ni_odd.py, line 36): ValueError: oh no",
}


@pytest.mark.slow
@pytest.mark.parametrize("placeholder", ATTRIBUTION_CASES)
def test_a_component_that_raises_is_named(placeholder: str, install: InstallDistribution, tmp_path: Path) -> None:
    # Initial values are computed after the model was built on the meta device; the error should come from there.
    condition = "if not self.weight.is_meta: " if placeholder == "RESET" else ""
    install("ni_odd", fill_in_source(**{placeholder: condition + RAISE_STATEMENT}), RAISING_ENTRIES)
    with pytest.raises(PluginError) as caught:
        train_small_run(tmp_path)
    (problem,) = caught.value.problems
    assert problem.message == ATTRIBUTION_CASES[placeholder]
    hint = "report it to ni-odd, or upgrade it: pip install --upgrade ni-odd; NI_DEBUG=1 shows the traceback"
    assert (problem.hint or "").startswith(hint)
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_plugin_of_these_tests_trains_without_an_error(install: InstallDistribution, tmp_path: Path) -> None:
    """The control of the other tests."""
    install("ni_odd", fill_in_source(), RAISING_ENTRIES)
    assert train_small_run(tmp_path)["metrics"]["test/accuracy"] > 0


def test_the_last_step_before_an_error_is_saved(
    ni: RunNi,  # noqa: F811
    small_recipe_dir: Path,  # noqa: F811
    install: InstallDistribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message shows how to resume, and NI_DEBUG=1 shows the traceback."""
    install("ni_odd", fill_in_source(FORWARD=RAISE_STATEMENT), RAISING_ENTRIES)
    done = ni("train", "small.yaml", "model.body=odd", "train.steps=12", "--output", "run")
    assert done.code == 4
    (checkpoint,) = list_checkpoints(small_recipe_dir / "run")
    assert checkpoint.name == "step-02"
    assert done.err.endswith(
        f"error: {ATTRIBUTION_CASES['FORWARD']}\n"
        "  help: report it to ni-odd, or upgrade it: pip install --upgrade ni-odd; NI_DEBUG=1 shows the traceback; "
        "the last checkpoint is run/checkpoints/step-02; fix this and continue with ni train --resume run\n"
    )
    monkeypatch.setenv("NI_DEBUG", "1")
    with pytest.raises(PluginError) as caught:
        ni("train", "small.yaml", "model.body=odd", "train.steps=12", "--output", "again")
    assert isinstance(caught.value.__cause__, ValueError)


def test_sys_exit_in_a_component_is_attributed(install: InstallDistribution, tmp_path: Path) -> None:
    install("ni_odd", fill_in_source(FORWARD="sys.exit(0)"), RAISING_ENTRIES)
    with pytest.raises(PluginError, match=r"failed in forward \(ni_odd.py, line 19\): SystemExit: 0"):
        train_small_run(tmp_path)


def test_an_error_in_a_data_worker_is_attributed(install: InstallDistribution, tmp_path: Path) -> None:
    source = fill_in_source(BATCH="torch.utils.data.get_worker_info() and 1 / 0")
    install("ni_odd", source, RAISING_ENTRIES)
    with pytest.raises(PluginError) as caught:
        train_small_run(tmp_path, "train.workers=1")
    assert str(caught.value).startswith(
        "error: step 1: body `odd` or data `odd_digits` of ni-odd 0.1 (ni_odd) failed in batch (ni_odd.py, line 36): "
        "ZeroDivisionError"
    )


SELF_EXPLAINING_ERRORS = {
    "the framework's own": ("raise RunError('data/x is absent')", RunError, "^data/x is absent$"),
    "out of memory": ("torch.empty(2**60)", FitError, "^step 3: does not fit this machine: "),
    "a file": (
        "open('/nowhere')",
        RunError,
        r"^step 2: No such file or directory \(/nowhere\); the last checkpoint is ",
    ),
}


@pytest.mark.parametrize("name", SELF_EXPLAINING_ERRORS)
def test_self_explaining_errors_are_not_attributed(name: str, install: InstallDistribution, tmp_path: Path) -> None:
    statement, kind, message = SELF_EXPLAINING_ERRORS[name]
    install("ni_odd", fill_in_source(FORWARD=statement), RAISING_ENTRIES)
    with pytest.raises(kind, match=message):
        train_small_run(tmp_path)


class RaisingListener:
    """A listener that the caller passes."""

    @hookimpl
    def run_step(self, step: int) -> None:
        raise ValueError("mine")


def test_listener_errors_are_not_attributed(install: InstallDistribution, tmp_path: Path) -> None:
    """A plugin takes part in the run, but its code did not raise the error."""
    install("ni_odd", fill_in_source(), RAISING_ENTRIES)
    with pytest.raises(ValueError, match="mine"):
        train(load_small_recipe(tmp_path, "model.body=odd"), tmp_path / "run", listeners=[RaisingListener()])
