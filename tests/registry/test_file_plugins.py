"""Single-file plugins: available to one command, under names made from their classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ni_framework.errors import PluginError
from ni_framework.registry import installed_catalog
from ni_framework.registry.file_plugins import add_plugin_file, clear_plugin_files, entries_in_file
from ni_framework.registry.resolve import reset_registry, resolve_component
from tests.cli.conftest import RunNi, ni  # noqa: F401  a fixture

FILE_SOURCE = '''
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
    """An abstract class without subclasses."""

class _Hidden(SoftChoice):
    """Not meant for recipes."""

@elementwise
def shift(x, step, *, size: float = 1.0):
    """Moves each element: [..., D] -> [..., D]."""
    return x + size * step
'''
FILE_PLUGIN_RECIPE = """
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
def _reset_registry() -> Iterator[None]:
    reset_registry()
    yield
    clear_plugin_files()
    reset_registry()


@pytest.fixture
def swirl_file(tmp_path: Path) -> Path:
    path = tmp_path / "swirl.py"
    path.write_text(FILE_SOURCE)
    (tmp_path / "recipe.yaml").write_text(FILE_PLUGIN_RECIPE)
    return path


def test_names_are_made_from_class_names(swirl_file: Path) -> None:
    """Abstract classes and classes whose name begins with _ are not components."""
    assert {(entry.kind, entry.name, entry.source) for entry in entries_in_file(swirl_file)} == {
        ("router", "soft_choice", "swirl.py"),
        ("body", "shift", "swirl.py"),
    }


@pytest.mark.slow
def test_plugin_option(swirl_file: Path, tmp_path: Path, ni: RunNi, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """`ni train`, `eval`, `ls`, `show` and `plugin test` accept `--plugin`."""
    monkeypatch.chdir(tmp_path)
    plugin_option = ("--plugin", "swirl.py")
    done = ni("train", "recipe.yaml", *plugin_option, "--output", "run")
    assert done.code == 0, done.err
    assert done.err.endswith("next: ni eval run --plugin swirl.py\n")
    clear_plugin_files()
    reset_registry()
    assert ni("eval", "run", *plugin_option).code == 0
    assert "swirl.py" in ni("ls", *plugin_option).out
    assert "Moves each element" in ni("show", "shift", *plugin_option).out
    tested = ni("plugin", "test", "body/shift", *plugin_option)
    assert tested.code == 0, tested.out
    assert tested.out.startswith("body/shift of swirl.py: ")


def test_a_plugin_file_is_always_allowed(swirl_file: Path, ni: RunNi) -> None:  # noqa: F811
    """`--plugin` allows the file also with `--no-plugins`."""
    assert ni("ls", "--no-plugins", "--plugin", swirl_file).code == 0
    assert ni("check", swirl_file.parent / "recipe.yaml", "--no-plugins", "--plugin", swirl_file).code == 0


def test_a_plugin_file_named_torch_does_not_hide_torch(tmp_path: Path) -> None:
    path = tmp_path / "torch.py"
    path.write_text(FILE_SOURCE)
    add_plugin_file(str(path))
    reset_registry()
    assert resolve_component("router", "soft_choice").__module__ == "ni_one_file_torch"
    assert "soft_choice" in installed_catalog().names("router")


BROKEN_FILE_CASES = {
    "1 / 0": "{path}:1: cannot be imported: ZeroDivisionError: division by zero\n  help: fix the file",
    "class": "{path}:1: cannot be imported: SyntaxError: invalid syntax (swirl.py, line 1)\n  help: fix the file",
    "import sys\nsys.exit(3)": "{path}:2: cannot be imported: SystemExit: 3\n  help: fix the file",
    "x = 1": "{path}: contains no component\n  help: a component is a subclass of one of the base classes in "
    "ni_framework.contracts, or made with @elementwise",
    "import torch\ntorch.nn.functional.gelu = None": "{path}: changes global state when it is imported: "
    "torch.nn.functional.gelu (restored)\n  help: fix the file",
}


@pytest.mark.parametrize("source", BROKEN_FILE_CASES)
def test_broken_plugin_file(source: str, tmp_path: Path) -> None:
    path = tmp_path / "swirl.py"
    path.write_text(source)
    add_plugin_file(str(path))
    with pytest.raises(PluginError) as caught:
        installed_catalog()
    assert str(caught.value) == "error: " + BROKEN_FILE_CASES[source].format(path=path)


def test_absent_plugin_file(tmp_path: Path, ni: RunNi) -> None:  # noqa: F811
    done = ni("ls", "--plugin", tmp_path / "absent.py")
    assert done.code == 4
    assert done.err == f"error: {tmp_path}/absent.py: is not a Python file; name one with --plugin\n"


def test_a_plugin_file_cannot_replace_a_builtin_component(tmp_path: Path) -> None:
    path = tmp_path / "swirl.py"
    path.write_text(FILE_SOURCE.replace("SoftChoice", "Kernel"))
    add_plugin_file(str(path))
    reset_registry()
    assert resolve_component("router", "kernel").__module__ == "ni_standard.routers.kernels"


def test_a_checkpoint_names_its_plugin_file(swirl_file: Path, ni: RunNi, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Without the file the error shows the option; with a changed file it shows what changed."""
    monkeypatch.chdir(swirl_file.parent)
    assert ni("train", "recipe.yaml", "--plugin", "swirl.py", "--output", "run").code == 0
    clear_plugin_files()
    reset_registry()
    absent = ni("eval", "run")
    assert absent.code == 4
    assert "model.router: router `soft_choice` came from swirl.py, a file that is not given\n" in absent.err
    assert absent.err.endswith("  help: --plugin swirl.py\n")
    swirl_file.write_text(FILE_SOURCE.replace("x + size * step", "x + 9 * size * step"))
    reset_registry()
    changed = ni("eval", "run", "--plugin", "swirl.py")
    assert changed.code == 6
    assert "model.body: body `shift` came from swirl.py, whose source code has changed\n" in changed.err
    assert "help: install what it was saved with: --plugin swirl.py, as it was then; or start a new run" in changed.err


API_1_FILE_CASES = {
    "from ni_framework.options import Choice": (
        "swirl.py:1: cannot be imported: ImportError: ni_framework.options.Choice is now ComponentSpec (plugin API 2)"
    ),
    "from ni_framework.options import component, config": (
        "swirl.py:1: cannot be imported: ImportError: ni_framework.options.component is now component_option (plugin API 2)"
    ),
    "import torch\nfrom ni_framework.contracts import Answer, Body": (
        "swirl.py:2: cannot be imported: ImportError: ni_framework.contracts.Answer is now Output (plugin API 2)"
    ),
    FILE_SOURCE.replace('"""Opens everything."""', "api = 1"): (
        "model.router: router `soft_choice` of swirl.py (ni_one_file_swirl:SoftChoice) is written for plugin API 1, this "
        'ni_framework has 2; the changes are listed in CHANGELOG.md, section "Plugin API 2"'
    ),
}


@pytest.mark.parametrize("source", API_1_FILE_CASES, ids=["Choice", "component", "Answer", "api"])
def test_check_explains_a_plugin_of_api_1(
    source: str,
    swirl_file: Path,
    ni: RunNi,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old names and an old `api` are plugin errors (exit code 4), each with one line that shows what changed."""
    monkeypatch.chdir(swirl_file.parent)
    swirl_file.write_text(source)
    done = ni("check", "recipe.yaml", "--plugin", "swirl.py")
    assert done.code == 4
    assert done.err.count("error: ") == 1
    assert f"error: {API_1_FILE_CASES[source]}\n" in done.err
    assert done.err.endswith("  help: fix the file\n")


def test_the_changelog_has_the_section_that_the_error_names() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^#+ Plugin API 2\b", changelog, re.M)
