"""The kit passes what is sound, and every check finds a fault that is planted for it."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest

from ni_framework.contracts import Body
from ni_framework.registry.file_plugins import forget_files, use_file
from ni_framework.registry.resolve import forget
from ni_framework.testing.checks import checks_of
from ni_framework.testing.checks.check import CHECKS
from ni_framework.testing.conform import outcomes
from ni_framework.testing.failures import Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.sandbox.imports import import_faults, watch_imports
from ni_framework.testing.selection import case_of, selected
from ni_framework.testing.workers import zero_pair
from tests.helpers import planted_faults_more, planted_zero_faults  # noqa: F401  add to the list
from tests.helpers.planted_faults import PLANTED
from tests.helpers.sound_components import SOUND


@pytest.mark.parametrize("cls", SOUND, ids=lambda cls: cls.__name__)
def test_what_is_sound_passes(cls: type) -> None:
    """The classes that the faults are planted in."""
    failed = [outcome.text for outcome in outcomes(Case(cls)) if outcome.verdict == "failed"]
    assert failed == []


@pytest.mark.parametrize(("check", "cls", "said"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_planted_fault(check: str, cls: type, said: str) -> None:
    """Found by its check, told with why it matters and what mends it."""
    case = Case(cls)
    outcome = checks_of(case.kind)[check].run(case)
    assert outcome.verdict == "failed", outcome
    assert said in outcome.message
    assert outcome.text.startswith(f"{check}: ")
    assert "\n  why: " in outcome.text
    assert "\n  fix: " in outcome.text


@pytest.mark.parametrize("name", ["Misshapen", "Unbuildable"])
def test_one_exception_is_one_failure(name: str) -> None:
    """Told with its line; what could not be tried says so instead of giving other advice."""
    (cls,) = [cls for _, cls, _ in PLANTED if cls.__name__ == name]
    found = list(outcomes(Case(cls)))
    (failed,) = [outcome for outcome in found if outcome.verdict == "failed"]
    assert failed.check.name == "runs"
    excused = {outcome.message for outcome in found if outcome.verdict == "excused"}
    assert excused == {"not tried, because the component cannot be built or called"}
    if name == "Misshapen":
        assert re.search(r" \(planted_faults.py, line \d+\)$", failed.message)


@pytest.mark.parametrize("name", ["Ranked", "Wrapped", "Tempered"])
def test_what_only_two_processes_show(name: str) -> None:
    """Nothing else is wrong with it, so that no other check finds it."""
    (cls,) = [cls for _, cls, _ in PLANTED if cls.__name__ == name]
    case = Case(cls)
    found = [check.run(case) for check in checks_of(case.kind).values() if check.name != "together"]
    assert [outcome.text for outcome in found if outcome.verdict == "failed"] == []


def test_what_other_processes_cannot_find() -> None:
    """Told, not passed."""

    class Local(SOUND[1]):
        """Defined in a function."""

    outcome = checks_of("body")["together"].run(Case(Local))
    assert outcome.verdict == "excused"
    assert outcome.message == (
        "other processes cannot find it as tests.testing.test_conformance_checks."
        "test_what_other_processes_cannot_find.<locals>.Local: define it at the top level of a module"
    )


def test_without_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told, with the line that installs it."""
    monkeypatch.setattr(zero_pair, "find_spec", lambda name: None)
    zero_pair.absent.cache_clear()
    outcome = checks_of("body")["together"].run(Case(SOUND[1]))
    zero_pair.absent.cache_clear()
    assert (outcome.verdict, outcome.message) == (
        "excused",
        "deepspeed is not installed, with which two processes train: pip install deepspeed",
    )


def test_a_component_in_a_file(tmp_path: Path) -> None:
    """Found by other processes as it is now, also after it has changed."""
    path = tmp_path / "odd.py"
    try:
        for factor, verdict in (("1", "passed"), ("(1 + int(os.environ.get('RANK', '0')))", "failed")):
            path.write_text(ONE_FILE.format(factor=factor))
            forget_files()
            use_file(str(path))
            forget()
            (entry,) = selected("odd")
            assert checks_of("type_inference")["together"].run(case_of(entry)).verdict == verdict
    finally:
        forget_files()
        forget()


ONE_FILE = """
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


FAULTS = {
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
    """Each is told of its own module, also where one of them ends the process for all."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"odd_{number}" for number in range(len(FAULTS))]
    for name, source in zip(names, FAULTS, strict=True):
        (tmp_path / f"{name}.py").write_text(source)
    watch_imports(names)
    for name, said in zip(names, FAULTS.values(), strict=True):
        assert import_faults(name) == ((said,) if said else ())


def test_the_check_of_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at the module that holds the class."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_steps.py").write_text("print('hello')")
    cls = type("Odd", (SOUND[1],), {"__module__": "odd_steps"})
    outcome = checks_of("body")["imports"].run(Case(cls))
    assert (outcome.verdict, outcome.message) == ("failed", "importing odd_steps prints 'hello'")


def test_every_check_has_a_planted_fault_and_is_explained() -> None:
    checks_of("body")
    assert {check for check, _, _ in PLANTED} | {"imports"} == set(CHECKS)
    for check in CHECKS.values():
        assert len(check.why) > 20
        assert len(check.fix) > 20
        assert inspect.getdoc(check.look)


def test_what_is_no_component() -> None:
    with pytest.raises(Failure) as caught:
        Case(int).kind  # noqa: B018
    assert str(caught.value) == (
        "<class 'int'> is no component; make it a subclass of one of contracts.{Embedding, TypeInference, Router, Body, "
        "Halting, Linear, Input, Head, Data}"
    )

    class Abstract(Body):
        pass

    with pytest.raises(Failure) as caught:
        Case(Abstract).kind  # noqa: B018
    assert str(caught.value) == "Abstract does not define forward"


def test_options_that_are_refused() -> None:
    from ni_standard.routers.kernels import Kernel

    with pytest.raises(Failure) as caught:
        Case(Kernel, {"truncation": 3.0}).config  # noqa: B018
    assert str(caught.value) == "its options are refused: truncation: must be at most 2, not 3.0"


TEST = """
import sys
sys.path[:0] = [{root!r}]
from ni_framework.testing import conformance
from tests.helpers.planted_faults_more import Deaf
from tests.helpers.sound_components import Steps

test_steps = conformance(Steps)
test_deaf = conformance(Deaf)
"""


def test_as_tests_of_a_plugin(tmp_path: Path, run_pytest: object) -> None:
    """One test a check; a failure is told in words, without a traceback."""
    (tmp_path / "test_odd.py").write_text(textwrap.dedent(TEST.format(root=str(Path(__file__).parents[2]))))
    code, said = run_pytest(tmp_path)  # pyright: ignore[reportCallIssue]
    assert code == 1
    assert f"1 failed, {2 * len(checks_of('body')) - 3} passed, 2 skipped" in said
    assert "gradient: the code gets no gradient\n  why: a parameter without gradient never learns" in said
    assert "Traceback" not in said
    assert "def test" not in said


def test_as_an_option_of_pytest(tmp_path: Path, run_pytest: object) -> None:
    """Without a test file, by a component's name; an unknown one is an error of usage."""
    code, said = run_pytest(tmp_path, "--conformance", "type_inference/mlp")  # pyright: ignore[reportCallIssue]
    assert code == 0, said
    assert f"{len(checks_of('type_inference')) - 1} passed, 1 skipped" in said
    code, said = run_pytest(tmp_path, "--conformance", "mlq")  # pyright: ignore[reportCallIssue]
    assert code == 4
    assert "there is no component or distribution `mlq`" in said
