"""Plugins of one file: there for one command, under names that follow from their classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.errors import PluginError
from ni_framework.registry import installed
from ni_framework.registry.file_plugins import entries_in, forget_files, use_file
from ni_framework.registry.resolve import component, forget
from tests.cli.conftest import Ni, ni  # noqa: F401  a fixture

SOURCE = '''
"""Several components in one file."""
import torch
from ni_framework.contracts import Body, Router
from ni_framework.elementwise import elementwise

class SoftChoice(Router):
    """Opens everything."""
    def __init__(self, config, sizes, build):
        super().__init__()
    def forward(self, type_BVT, signature_UT, context):
        c_BUV = torch.einsum("ut,bvt->buv", signature_UT, type_BVT)
        return torch.full_like(c_BUV, 1 / len(signature_UT))

class MLPBody(Body):
    """Base of nothing."""

class _Hidden(SoftChoice):
    """Not meant for recipes."""

@elementwise
def shift(x, step, *, size: float = 1.0):
    """Moves each element: [..., D] -> [..., D]."""
    return x + size * step
'''
RECIPE = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 3
  functions: 5
  code: 7
  type: 6
  router: soft_choice
  body: {use: shift, size: 2.0}
data: {use: digits}
train: {steps: 2, batch: 9}
"""


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    forget()
    yield
    forget_files()
    forget()


@pytest.fixture
def swirl(tmp_path: Path) -> Path:
    path = tmp_path / "swirl.py"
    path.write_text(SOURCE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return path


def test_names_follow_from_classes(swirl: Path) -> None:
    """Base classes and hidden ones are no components."""
    assert {(entry.kind, entry.name, entry.source) for entry in entries_in(swirl)} == {
        ("router", "soft_choice", "swirl.py"),
        ("body", "shift", "swirl.py"),
    }


def test_used_at_once(swirl: Path, tmp_path: Path, ni: Ni, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Trained, evaluated, listed, shown and tried by one option; without it, told which file is missing."""
    monkeypatch.chdir(tmp_path)
    given = ("--plugin", "swirl.py")
    done = ni("train", "recipe.yaml", *given, "--output", "run")
    assert done.code == 0, done.err
    assert done.err.endswith("next: ni eval run --plugin swirl.py\n")
    forget_files()
    forget()
    assert ni("eval", "run", *given).code == 0
    assert "swirl.py" in ni("ls", *given).out
    assert "Moves each element" in ni("show", "shift", *given).out
    tried = ni("plugin", "test", "body/shift", *given)
    assert tried.code == 0, tried.out
    assert tried.out.startswith("body/shift of swirl.py: ")


def test_allowed_whatever_is_installed(swirl: Path, ni: Ni) -> None:  # noqa: F811
    """To give it is to allow it."""
    assert ni("ls", "--no-plugins", "--plugin", swirl).code == 0
    assert ni("check", swirl.parent / "recipe.yaml", "--no-plugins", "--plugin", swirl).code == 0


def test_a_file_hides_no_module(tmp_path: Path) -> None:
    path = tmp_path / "torch.py"
    path.write_text(SOURCE)
    use_file(str(path))
    forget()
    assert component("router", "soft_choice").__module__ == "ni_one_file_torch"
    assert "soft_choice" in installed().names("router")


FAULTS = {
    "1 / 0": "{path}:1: cannot be imported: ZeroDivisionError: division by zero\n  help: mend the file",
    "class": "{path}:1: cannot be imported: SyntaxError: invalid syntax (swirl.py, line 1)\n  help: mend the file",
    "import sys\nsys.exit(3)": "{path}:2: cannot be imported: SystemExit: 3\n  help: mend the file",
    "x = 1": "{path}: holds no component\n  help: a component is a subclass of one of the base classes in "
    "ni_framework.contracts, or made with @elementwise",
    "import torch\ntorch.nn.functional.gelu = None": "{path}: changes what all share when it is imported: "
    "torch.nn.functional.gelu (put back)\n  help: mend the file",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_file_at_fault(source: str, tmp_path: Path) -> None:
    path = tmp_path / "swirl.py"
    path.write_text(source)
    use_file(str(path))
    with pytest.raises(PluginError) as caught:
        installed()
    assert str(caught.value) == "error: " + FAULTS[source].format(path=path)


def test_no_file(tmp_path: Path, ni: Ni) -> None:  # noqa: F811
    done = ni("ls", "--plugin", tmp_path / "absent.py")
    assert done.code == 4
    assert done.err == f"error: {tmp_path}/absent.py: is no Python file; name one with --plugin\n"


def test_a_reserved_name(tmp_path: Path, ni: Ni) -> None:  # noqa: F811
    """A file cannot take the place of a component of ours."""
    path = tmp_path / "swirl.py"
    path.write_text(SOURCE.replace("SoftChoice", "Kernel"))
    use_file(str(path))
    forget()
    assert component("router", "kernel").__module__ == "ni_standard.routers.kernels"


def test_a_checkpoint_asks_for_its_file(swirl: Path, ni: Ni, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Without the file it says how to give it; with another one of the same name, what changed."""
    monkeypatch.chdir(swirl.parent)
    assert ni("train", "recipe.yaml", "--plugin", "swirl.py", "--output", "run").code == 0
    forget_files()
    forget()
    absent = ni("eval", "run")
    assert absent.code == 4
    assert "model.router: router `soft_choice` came from swirl.py, a file that is not given\n" in absent.err
    assert absent.err.endswith("  help: --plugin swirl.py\n")
    swirl.write_text(SOURCE.replace("x + size * step", "x + 9 * size * step"))
    forget()
    changed = ni("eval", "run", "--plugin", "swirl.py")
    assert changed.code == 6
    assert "model.body: body `shift` was of swirl.py, and is still, with other source\n" in changed.err
    assert "help: use what it was saved with: --plugin swirl.py, as it was then; or take its weights" in changed.err
