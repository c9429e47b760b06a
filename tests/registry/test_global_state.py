"""What the import of a plugin must leave as it was, and where what it prints goes."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap

import numpy
import pytest
import torch

from ni_framework.errors import PluginError
from ni_framework.registry.global_state import Shared
from ni_framework.registry.resolve import component
from tests.helpers.distributions import Install

BODY = """
import random, sys, os
import numpy, torch
from ni_framework.contracts import Body
class Odd(Body):
    def forward(self, *a): pass
"""
ENTRY = {"body": {"odd": "ni_odd:Odd"}}

CHANGES = {
    "torch.nn.functional.gelu = abs": "torch.nn.functional.gelu",
    "torch.matmul = abs": "torch.matmul",
    "torch.Tensor.softmax = abs": "torch.Tensor.softmax",  # which it inherits
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


@pytest.mark.parametrize("statement", CHANGES)
def test_what_is_changed_is_put_back(statement: str, install: Install) -> None:
    """And the component refused, at every attempt."""
    install("ni_odd", f"{BODY}\n{statement}\n", ENTRY)
    before = Shared()
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            component("body", "odd")
        start = "body `odd` of ni-odd 0.1 (ni_odd:Odd) changes what all share when it is imported: "
        message = caught.value.problems[0].message
        assert message.startswith(start)
        assert message.endswith(" (put back)")
        named = message.removeprefix(start).removesuffix(" (put back)")
        assert named == CHANGES[statement]
    assert before.put_back() == []
    assert component("body", "lines_of_code").__name__ == "LinesOfCode"


HARMLESS = {
    "a name that was not there": "torch.nn.functional.ours = abs",
    "a class of its own": "class Ours(torch.nn.Linear):\n    def forward(self, x): return x",
    "the same again": "torch.add = torch.add",
    "another part of torch": "import torch._dynamo, torch.fx, sklearn.datasets",
    "a setting for a while": "with torch.no_grad(), torch.device('meta'): torch.zeros(3)",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_accepted(name: str, install: Install) -> None:
    install("ni_odd", f"{BODY}\n{HARMLESS[name]}\n", ENTRY)
    assert component("body", "odd").__name__ == "Odd"


def test_parts_of_torch_that_wrap_its_own_are_accepted() -> None:
    """Its compiler wraps `torch.manual_seed` when it is first imported, and scikit-learn draws from `random`."""
    code = """
        import torch
        from ni_framework.registry.global_state import Shared
        shared, before = Shared(), torch.manual_seed
        import torch._dynamo, sklearn.datasets
        assert torch.manual_seed is not before
        assert shared.put_back() == []
        torch.manual_seed = before.__wrapped__ if hasattr(before, "__wrapped__") else abs
        assert shared.put_back() == ["torch.manual_seed"]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_random_numbers_are_put_back(install: Install) -> None:
    """Drawn or seeded, without a word: nothing is left of it."""
    install("ni_odd", f"{BODY}\ntorch.manual_seed(0); numpy.random.seed(0); random.seed(0)", ENTRY)
    expected = []
    for _ in range(2):
        torch.manual_seed(5)
        numpy.random.seed(5)
        random.seed(5)
        if expected:
            component("body", "odd")
        expected.append((torch.rand(1).item(), numpy.random.rand(), random.random()))
    assert expected[0] == expected[1]


def test_what_is_printed_is_no_result(install: Install, capfd: pytest.CaptureFixture[str]) -> None:
    """By Python, past Python, or by another process."""
    lines = (
        "print('one')",
        "os.write(1, b'two\\n')",
        "sys.__stdout__.write('three\\n')",
        "import subprocess; subprocess.run(['echo', 'four'])",
    )
    install("ni_odd", BODY + "\n".join(lines), ENTRY)
    print("before")
    component("body", "odd")
    print("after")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert out.split() == ["before", "after"]
    assert {"one", "two", "four"} <= set(err.split())
