"""The import of a plugin must not change the global state, and its output goes to stderr."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap

import numpy
import pytest
import torch

from ni_framework.errors import PluginError
from ni_framework.registry.global_state import GlobalState
from ni_framework.registry.resolve import resolve_component
from tests.helpers.distributions import InstallDistribution

CHANGING_BODY = """
import random, sys, os
import numpy, torch
from ni_framework.contracts import Body
class Odd(Body):
    def forward(self, *a): pass
"""
CHANGING_ENTRY = {"body": {"odd": "ni_odd:Odd"}}

GLOBAL_CHANGES = {
    "torch.nn.functional.gelu = abs": "torch.nn.functional.gelu",
    "torch.matmul = abs": "torch.matmul",
    "torch.Tensor.softmax = abs": "torch.Tensor.softmax",  # an inherited method
    "torch.nn.Module.__call__ = abs": "torch.nn.Module.__call__",
    "torch.nn.Linear.forward = abs": "torch.nn.Linear.forward",
    "torch.optim.AdamW.step = abs": "torch.optim.AdamW.step",
    "del torch.nn.init.normal_": "torch.nn.init.normal_",
    "random.random = abs": "random.random",
    "import builtins; builtins.print = abs": "builtins.print",
    "numpy.random.seed = abs": "numpy.random.seed",
    "torch.set_default_dtype(torch.float64)": "the default dtype",
    "torch.set_default_device('meta')": "the default device",
    "torch.set_grad_enabled(False)": "the gradient mode",
    "torch.use_deterministic_algorithms(True)": "whether algorithms are deterministic",
    "torch.set_num_threads(torch.get_num_threads() + 1)": "the number of threads",
    "torch.set_float32_matmul_precision('medium')": "the precision of float32 products",
    "torch.set_grad_enabled(False); torch.add = torch.sub = abs": "the gradient mode, torch.add, torch.sub",
    "for name in ('abs', 'add', 'sub', 'mul', 'div', 'exp'): setattr(torch, name, len)": (
        "torch.abs, torch.add, torch.div, torch.exp, torch.mul and 1 more"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("statement", GLOBAL_CHANGES)
def test_changes_are_undone_and_the_component_is_rejected(statement: str, install: InstallDistribution) -> None:
    """At every attempt to use it."""
    install("ni_odd", f"{CHANGING_BODY}\n{statement}\n", CHANGING_ENTRY)
    before = GlobalState()
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            resolve_component("body", "odd")
        start = "body `odd` of ni-odd 0.1 (ni_odd:Odd) changes global state when it is imported: "
        message = caught.value.problems[0].message
        assert message == f"{start}{GLOBAL_CHANGES[statement]} (restored)"
    assert before.restore() == []
    assert resolve_component("body", "lines_of_code").__name__ == "LinesOfCode"


HARMLESS_CHANGES = {
    "a new name": "torch.nn.functional.ours = abs",
    "a new subclass": "class Ours(torch.nn.Linear):\n    def forward(self, x): return x",
    "the same value again": "torch.add = torch.add",
    "an import of another part of torch": "import torch._dynamo, torch.fx, sklearn.datasets",
    "a setting that is restored": "with torch.no_grad(), torch.device('meta'): torch.zeros(3)",
}


@pytest.mark.parametrize("name", HARMLESS_CHANGES)
def test_harmless_changes_are_accepted(name: str, install: InstallDistribution) -> None:
    install("ni_odd", f"{CHANGING_BODY}\n{HARMLESS_CHANGES[name]}\n", CHANGING_ENTRY)
    assert resolve_component("body", "odd").__name__ == "Odd"


@pytest.mark.slow
def test_parts_of_torch_that_wrap_its_own_are_accepted() -> None:
    """torch's compiler wraps `torch.manual_seed` when it is first imported, and scikit-learn draws from `random`."""
    code = """
        import torch
        from ni_framework.registry.global_state import GlobalState
        state, before = GlobalState(), torch.manual_seed
        import torch._dynamo, sklearn.datasets
        assert torch.manual_seed is not before
        assert state.restore() == []
        torch.manual_seed = before.__wrapped__ if hasattr(before, "__wrapped__") else abs
        assert state.restore() == ["torch.manual_seed"]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_random_states_are_restored_silently(install: InstallDistribution) -> None:
    """After the import the generators continue as if it had drawn or seeded nothing."""
    install("ni_odd", f"{CHANGING_BODY}\ntorch.manual_seed(0); numpy.random.seed(0); random.seed(0)", CHANGING_ENTRY)
    expected = []
    for _ in range(2):
        torch.manual_seed(5)
        numpy.random.seed(5)
        random.seed(5)
        if expected:
            resolve_component("body", "odd")
        expected.append((torch.rand(1).item(), numpy.random.rand(), random.random()))
    assert expected[0] == expected[1]


def test_import_output_does_not_reach_stdout(install: InstallDistribution, capfd: pytest.CaptureFixture[str]) -> None:
    """Output of Python, of the file descriptor, and of a subprocess."""
    lines = (
        "print('one')",
        "os.write(1, b'two\\n')",
        "sys.__stdout__.write('three\\n')",
        "import subprocess; subprocess.run(['echo', 'four'])",
    )
    install("ni_odd", CHANGING_BODY + "\n".join(lines), CHANGING_ENTRY)
    print("before")
    resolve_component("body", "odd")
    print("after")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert out.split() == ["before", "after"]
    assert {"one", "two", "four"} <= set(err.split())
