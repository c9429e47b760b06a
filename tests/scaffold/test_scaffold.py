"""`ni plugin new`: the distributions install with pip and pass their own tests without changes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ni_framework.errors import UsageError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.scaffold.write import write_plugin
from tests.cli.conftest import RunNi, ni  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPONENT_FILE_SOURCE = '''\
"""Two components in one file."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from ni_framework.elementwise import elementwise
from ni_framework.options import config, option
from ni_framework.scaffold.components.router import Example


class Softly(Example):
    """A router like the example: types and signatures -> [B, U, V]."""

    @config
    class Config:
        temperature: float = option(example=0.7, gt=0, help="the temperature of the softmax")
        floor: float = option(default=0.1, ge=0, lt=1, help="compatibility below which a pair is closed")


@elementwise
def film(x: Tensor, mean: Tensor, scale: Tensor, *, size: Annotated[float, "the step size"] = 1.0) -> Tensor:
    """Adds the scaled mean to each element: [..., D] -> [..., D]."""
    return x + size * scale * mean
'''


@pytest.fixture(scope="module")
def scaffold_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a distribution for each kind of component, and one from a file."""
    folder = tmp_path_factory.mktemp("plugins")
    for kind in COMPONENT_KINDS:
        write_plugin(f"my-{kind}".replace("_", "-"), kind, None, folder)
    (folder / "both.py").write_text(COMPONENT_FILE_SOURCE)
    write_plugin("both", None, folder / "both.py", folder)
    return folder


def run_checked(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return result.stdout


def test_installs_with_pip_and_passes_its_own_tests(scaffold_dir: Path) -> None:
    """All distributions are installed in one environment, without any change after they were written."""
    folders = [str(path) for path in sorted(scaffold_dir.glob("ni-*"))]
    assert len(folders) == len(COMPONENT_KINDS) + 1
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation")
    run_checked(*pip, "--target", "site", *folders, cwd=scaffold_dir)
    environment = {
        "PYTHONPATH": str(scaffold_dir / "site"),
        "OMP_NUM_THREADS": "1",
        "NI_PLUGINS": ",".join(Path(folder).name for folder in folders),
    }
    output = run_checked(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        *(f"{folder}/tests" for folder in folders),
        cwd=scaffold_dir,
        **environment,
    )
    assert "failed" not in output
    assert int(output.split(" passed")[0].split()[-1]) > 12 * len(folders)


def test_code_style(scaffold_dir: Path) -> None:
    """The code follows the rules of ruff in our pyproject.toml.

    Import order is not checked, because ruff cannot see here which packages are first-party.
    """
    config = ("--config", str(ROOT / "pyproject.toml"), "--no-cache")
    run_checked(
        sys.executable,
        "-m",
        "ruff",
        "check",
        *config,
        "--ignore",
        "I001",
        *map(str, scaffold_dir.glob("ni-*")),
        cwd=scaffold_dir,
    )
    run_checked(
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--check",
        *config,
        *map(str, scaffold_dir.glob("ni-*")),
        cwd=scaffold_dir,
    )


def test_files_of_distribution(scaffold_dir: Path) -> None:
    folder = scaffold_dir / "ni-both"
    assert {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "cache" not in str(path)
    } == {
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "ni_both/__init__.py",
        "ni_both/both.py",
        "pyproject.toml",
        "recipes/both.yaml",
        "tests/test_both.py",
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "ni-both"
    assert project["entry-points"] == {
        "ni_framework.router": {"softly": "ni_both.both:Softly"},
        "ni_framework.body": {"film": "ni_both.both:film"},
    }
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert (folder / "ni_both/both.py").read_text() == COMPONENT_FILE_SOURCE
    recipe = yaml.safe_load((folder / "recipes/both.yaml").read_text())
    assert recipe["requires"] == ["ni-both>=0.1"]
    assert recipe["model"]["router"] == {"use": "softly", "temperature": 0.7}
    assert recipe["model"]["body"] == {"use": "film"}


INVALID_NAMES = {
    ("Swirl!", "body", None): "Swirl!: is not a valid plugin name; use lower-case words such as swirl or top-k",
    (
        "swirl",
        None,
        None,
    ): f"give the kind of the component with --kind {'|'.join(COMPONENT_KINDS)}, or its file with --from FILE",
    ("class", "body", None): "class: is not a valid plugin name, because it is a Python keyword; choose another name",
    ("on", "body", None): "on: is not a valid plugin name, because YAML reads it as a value; choose another name",
    (
        "framework",
        "router",
        None,
    ): "framework: is not a valid plugin name, because ni_framework is a package of the framework; choose another name",
    ("halting", "body", None): "ni-halting: is installed already; choose another name, or uninstall it first",
    ("kernel", "router", None): "router `kernel`: ni-framework has a component of this name; choose another name",
    ("swirl", "head", "both.py"): "both.py: contains no head, but router softly, body film; remove --kind",
}


@pytest.mark.parametrize(("name", "kind", "source"), INVALID_NAMES)
def test_invalid_names(
    name: str, kind: str | None, source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both.py").write_text(COMPONENT_FILE_SOURCE)
    with pytest.raises(UsageError) as caught:
        write_plugin(name, kind, Path(source) if source else None, Path())
    assert str(caught.value) == INVALID_NAMES[name, kind, source]
    assert [path.name for path in tmp_path.iterdir()] == ["both.py"]


def test_class_name_does_not_shadow(tmp_path: Path) -> None:
    """The kind is appended to a class name that the module uses already."""
    folder = write_plugin("batch", "data", None, tmp_path)
    assert "class BatchData(Data):" in (folder / "ni_batch/batch.py").read_text()
    assert 'batch = "ni_batch.batch:BatchData"' in (folder / "pyproject.toml").read_text()


def test_docstring_with_special_characters(tmp_path: Path) -> None:
    """Quotes, backslashes, pipes and umlauts are escaped in TOML, Markdown and Python."""
    path = tmp_path / "odd.py"
    doc = 'Computes "x | y" \\\\ \u00fc and more'
    path.write_text(
        COMPONENT_FILE_SOURCE.replace("A router like the example: types and signatures -> [B, U, V].", doc),
        encoding="utf-8",
    )
    folder = write_plugin("odd-words", None, path, tmp_path)
    assert "\u00fc" in tomllib.loads((folder / "pyproject.toml").read_text())["project"]["description"]
    compile((folder / "ni_odd_words/__init__.py").read_text(), "__init__.py", "exec")
    (row,) = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| `router`")]
    assert row.replace("\\|", "").count("|") == 4


def test_plugin_new_command(tmp_path: Path, ni: RunNi, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The command prints the folder and the next commands, and never overwrites anything."""
    monkeypatch.chdir(tmp_path)
    result = ni("plugin", "new", "top-q", "--kind", "router")
    assert (result.code, result.out) == (0, "ni-top-q\n")
    assert (
        result.err
        == "next: pip install -e ./ni-top-q, then ni plugin test ni-top-q and ni train ni-top-q/recipes/*.yaml\n"
    )
    again = ni("plugin", "new", "top-q", "--kind", "router")
    assert again.code == 2
    assert again.err == "error: ni-top-q: exists already and was not changed; choose another name\n"
