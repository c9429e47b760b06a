"""Conformance checks: components without faults pass, and every check detects the faults that are planted for it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ni_framework.contracts import Body
from ni_framework.registry.file_plugins import add_plugin_file, clear_plugin_files
from ni_framework.registry.resolve import reset_registry
from ni_framework.testing.checks import checks_for_kind
from ni_framework.testing.checks.check import CHECKS
from ni_framework.testing.conform import run_checks
from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.sandbox.imports import check_imports, find_import_faults
from ni_framework.testing.selection import load_case, select_entries
from ni_framework.testing.workers import zero_pair
from tests.helpers import planted_faults_more, planted_zero_faults  # noqa: F401  importing these modules adds to PLANTED_FAULTS
from tests.helpers.planted_faults import PLANTED_FAULTS
from tests.helpers.sound_components import SOUND_COMPONENTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cls", SOUND_COMPONENTS, ids=lambda cls: cls.__name__)
def test_sound_component_passes(cls: type) -> None:
    """The components that the faults are planted in have no fault themselves."""
    failed = [outcome.text for outcome in run_checks(Case(cls)) if outcome.verdict == "failed"]
    assert failed == []


@pytest.mark.parametrize(
    ("check", "cls", "message"), PLANTED_FAULTS, ids=lambda value: getattr(value, "__name__", None)
)
def test_planted_fault(check: str, cls: type, message: str) -> None:
    """Each fault is detected by its check, and the report explains why it matters and how to fix it."""
    case = Case(cls)
    outcome = checks_for_kind(case.kind)[check].run(case)
    assert outcome.verdict == "failed", outcome
    assert message in outcome.message
    assert outcome.text.startswith(f"{check}: ")
    assert "\n  why: " in outcome.text
    assert "\n  fix: " in outcome.text


@pytest.mark.parametrize("name", ["Misshapen", "Unbuildable"])
def test_exception_fails_one_check(name: str) -> None:
    """A component that raises fails only the check `runs`, with the line of the exception; other checks are excused."""
    (cls,) = [cls for _, cls, _ in PLANTED_FAULTS if cls.__name__ == name]
    outcomes = list(run_checks(Case(cls)))
    (failed,) = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    assert failed.check.name == "runs"
    excused = {outcome.message for outcome in outcomes if outcome.verdict == "excused"}
    assert excused == {"not checked, because the component cannot be built or called"}
    if name == "Misshapen":
        assert re.search(r" \(planted_faults.py, line \d+\)$", failed.message)


@pytest.mark.parametrize("name", ["RankDependentBody", "OpaqueInput", "LossWithParameter"])
def test_fault_in_two_processes_only(name: str) -> None:
    """Components that fail only in two processes pass all other checks."""
    (cls,) = [cls for _, cls, _ in PLANTED_FAULTS if cls.__name__ == name]
    case = Case(cls)
    outcomes = [check.run(case) for check in checks_for_kind(case.kind).values() if check.name != "zero_parity"]
    assert [outcome.text for outcome in outcomes if outcome.verdict == "failed"] == []


def test_zero_parity_of_local_class() -> None:
    """A class that other processes cannot import is excused with a reason; the check does not pass."""

    class Local(SOUND_COMPONENTS[1]):
        """Defined in a function."""

    outcome = checks_for_kind("body")["zero_parity"].run(Case(Local))
    assert outcome.verdict == "excused"
    assert outcome.message == (
        "other processes cannot find it as tests.testing.test_conformance_checks."
        "test_zero_parity_of_local_class.<locals>.Local: define it at the top level of a module"
    )


def test_zero_parity_without_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without deepspeed the check is excused, with the command that installs it."""
    monkeypatch.setattr(zero_pair, "find_spec", lambda name: None)
    zero_pair.unavailable_reason.cache_clear()
    outcome = checks_for_kind("body")["zero_parity"].run(Case(SOUND_COMPONENTS[1]))
    zero_pair.unavailable_reason.cache_clear()
    assert outcome.verdict == "excused"
    assert outcome.message == (
        "deepspeed is not installed, which training in two processes needs: pip install deepspeed"
    )


def test_zero_parity_of_plugin_file(tmp_path: Path) -> None:
    """Other processes load the current content of a plugin file, also after it has changed."""
    path = tmp_path / "odd.py"
    try:
        for factor, verdict in (("1", "passed"), ("(1 + int(os.environ.get('RANK', '0')))", "failed")):
            path.write_text(FILE_COMPONENT.format(factor=factor))
            clear_plugin_files()
            add_plugin_file(str(path))
            reset_registry()
            (entry,) = select_entries("odd")
            assert checks_for_kind("type_inference")["zero_parity"].run(load_case(entry)).verdict == verdict
    finally:
        clear_plugin_files()
        reset_registry()


FILE_COMPONENT = """
import os
from torch import nn
from ni_framework.contracts import TypeInference

class Odd(TypeInference):
    "A linear map."

    def __init__(self, config, sizes, build):
        super().__init__()
        self.linear = nn.Linear(sizes.width, sizes.type)

    def forward(self, x_BVD, context):
        return self.linear(x_BVD) + {factor} * self.linear.bias.roll(1)
"""


IMPORT_SIDE_EFFECTS = {
    "print('hello')": "prints 'hello'",
    "import os; os.environ['NI_ODD'] = '1'": "changes os.environ",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(1,), daemon=True).start()": "starts threads",
    "open('odd.txt', 'w').close()": "writes files into the current folder",
    "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)": "changes signal handlers",
    "import warnings; warnings.simplefilter('ignore')": "changes filters of warnings",
    "import torch; torch.nn.functional.gelu = torch.nn.functional.relu": "changes torch.nn.functional.gelu",
    "import sys; sys.exit(3)": "raises SystemExit: 3",
    "import os; os._exit(3)": "ends the process with exit code 3",
    "import os; os.chdir('/')": "changes the current folder",
    "import sys; sys.path.append('/odd')": "changes sys.path",
    "import logging; logging.basicConfig()": "changes the root logger",
    "input()": "raises EOFError: EOF when reading a line",
    "import atexit; atexit.register(print, 'bye')": None,
    "": None,
}


def test_imports_with_side_effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side effects are reported for the module that has them, even if one module ends the process that imports all."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"odd_{number}" for number in range(len(IMPORT_SIDE_EFFECTS))]
    for name, source in zip(names, IMPORT_SIDE_EFFECTS, strict=True):
        (tmp_path / f"{name}.py").write_text(source)
    check_imports(names)
    for name, (source, fault) in zip(names, IMPORT_SIDE_EFFECTS.items(), strict=True):
        assert find_import_faults(name) == ((fault,) if fault else ()), source


def test_imports_check_uses_module_of_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check `imports` imports the module in which the class is defined."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_steps.py").write_text("print('hello')")
    cls = type("Odd", (SOUND_COMPONENTS[1],), {"__module__": "odd_steps"})
    outcome = checks_for_kind("body")["imports"].run(Case(cls))
    assert outcome.verdict == "failed"
    assert outcome.message == "importing odd_steps prints 'hello'"


def test_every_check_has_planted_fault_and_explanation() -> None:
    """Each check has a fault that it detects (`imports` is tested above), a reason, a fix and a docstring."""
    assert {check for check, _, _ in PLANTED_FAULTS} | {"imports"} == set(CHECKS)
    for check in CHECKS.values():
        assert len(check.why) > 20, check.name
        assert len(check.fix) > 20, check.name
        assert inspect.getdoc(check.implementation), check.name


def test_class_that_is_not_a_component() -> None:
    with pytest.raises(Failure) as caught:
        Case(int).kind  # noqa: B018
    assert str(caught.value) == (
        "<class 'int'> is not a component; make it a subclass of one of contracts.{Embedding, TypeInference, Router, Body, "
        "Halting, Linear, Input, Head, Data}"
    )

    class Abstract(Body):
        pass

    with pytest.raises(Failure) as caught:
        Case(Abstract).kind  # noqa: B018
    assert str(caught.value) == "Abstract does not define forward"


def test_invalid_options() -> None:
    from ni_standard.routers.kernels import NormalisedKernel

    with pytest.raises(Failure) as caught:
        Case(NormalisedKernel, {"truncation": 3.0}).config  # noqa: B018
    assert str(caught.value) == "its options are invalid: truncation: must be at most 2, not 3.0"


PLUGIN_TEST = """
import sys
sys.path[:0] = [{root!r}]
from ni_framework.testing import conformance
from tests.helpers.planted_faults_more import IgnoresCode
from tests.helpers.sound_components import CodeShift

test_code_shift = conformance(CodeShift)
test_ignores_code = conformance(IgnoresCode)
"""


def test_conformance_function(tmp_path: Path, run_pytest: Callable[..., tuple[int, str]]) -> None:
    """`conformance` makes one test for each check; a failure is reported by its message, without a traceback."""
    (tmp_path / "test_odd.py").write_text(textwrap.dedent(PLUGIN_TEST.format(root=str(Path(__file__).parents[2]))))
    code, output = run_pytest(tmp_path)
    assert code == 1
    assert f"1 failed, {2 * len(checks_for_kind('body')) - 3} passed, 2 skipped" in output
    assert "gradient: the code gets no gradient\n  why: a parameter without a gradient is never trained" in output
    assert "Traceback" not in output
    assert "def test" not in output


def test_conformance_option(tmp_path: Path, run_pytest: Callable[..., tuple[int, str]]) -> None:
    """`--conformance NAME` checks a component without a test file; an unknown name is a usage error."""
    code, output = run_pytest(tmp_path, "--conformance", "type_inference/mlp")
    assert code == 0, output
    assert f"{len(checks_for_kind('type_inference')) - 1} passed, 1 skipped" in output
    code, output = run_pytest(tmp_path, "--conformance", "mlq")
    assert code == 4
    assert "there is no component or distribution `mlq`" in output
