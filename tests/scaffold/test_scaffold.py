"""`ni plugin new`: whole distributions that install with pip and pass their own tests as they are written."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ni_framework.errors import UsageError
from ni_framework.options import KINDS
from ni_framework.scaffold.write import write_plugin
from tests.cli.conftest import Ni, ni  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]
FILE = '''\
"""Two components in one file."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from ni_framework.elementwise import elementwise
from ni_framework.options import config, option
from ni_framework.scaffold.components.router import Example


class Softly(Example):
    """A router that is like the example: types and signatures -> [B, U, V]."""

    @config
    class Config:
        temperature: float = option(example=0.7, gt=0, help="how softly")
        floor: float = option(default=0.1, ge=0, lt=1, help="compatibility below which a pair is closed")


@elementwise
def film(x: Tensor, mean: Tensor, scale: Tensor, *, size: Annotated[float, "of the step"] = 1.0) -> Tensor:
    """Moves each element by the mean, scaled: [..., D] -> [..., D]."""
    return x + size * scale * mean
'''


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution of each kind, and one from a file."""
    place = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        write_plugin(f"my-{kind}".replace("_", "-"), kind, None, place)
    (place / "both.py").write_text(FILE)
    write_plugin("both", None, place / "both.py", place)
    return place


def run(*command: str, where: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=where, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_installs_with_pip_and_passes_its_own_tests(written: Path) -> None:
    """All of them in one environment; nothing is touched between writing and testing."""
    folders = [str(path) for path in sorted(written.glob("ni-*"))]
    assert len(folders) == len(KINDS) + 1
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--target", "site", *folders, where=written)
    here = {
        "PYTHONPATH": str(written / "site"),
        "OMP_NUM_THREADS": "1",
        "NI_PLUGINS": ",".join(Path(of).name for of in folders),
    }
    said = run(
        sys.executable, "-m", "pytest", "-q", "-W", "error", *(f"{of}/tests" for of in folders), where=written, **here
    )
    assert "failed" not in said
    assert int(said.split(" passed")[0].split()[-1]) > 12 * len(folders)


def test_is_written_as_we_write(written: Path) -> None:
    """Ruff's rules and format, as pyproject.toml sets them; which imports are its own, a folder among others cannot tell."""
    config = ("--config", str(ROOT / "pyproject.toml"), "--no-cache")
    run(
        sys.executable,
        "-m",
        "ruff",
        "check",
        *config,
        "--ignore",
        "I001",
        *map(str, written.glob("ni-*")),
        where=written,
    )
    run(sys.executable, "-m", "ruff", "format", "--check", *config, *map(str, written.glob("ni-*")), where=written)


def test_what_a_package_needs(written: Path) -> None:
    folder = written / "ni-both"
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
    assert (folder / "ni_both/both.py").read_text() == FILE
    recipe = yaml.safe_load((folder / "recipes/both.yaml").read_text())
    assert recipe["requires"] == ["ni-both>=0.1"]
    assert recipe["model"]["router"] == {"use": "softly", "temperature": 0.7}
    assert recipe["model"]["body"] == {"use": "film"}


REFUSED = {
    ("Swirl!", "body", None): "Swirl!: is no name for a plugin; use lower-case words such as swirl or top-k",
    ("swirl", None, None): f"say what kind of component it is, --kind {'|'.join(KINDS)}, or where it is, --from FILE",
    ("class", "body", None): "class: is no name for a plugin, as Python has a word of that name; choose another",
    ("on", "body", None): "on: is no name for a plugin, as YAML reads it as a value; choose another",
    (
        "framework",
        "router",
        None,
    ): "framework: is no name for a plugin, as ni_framework is a package of ours; choose another",
    ("halting", "body", None): "ni-halting: is installed already; choose another name, or uninstall it first",
    ("kernel", "router", None): "router `kernel`: ni-framework has one of this name; choose another",
    ("swirl", "head", "both.py"): "both.py: holds no head, but router softly, body film; leave --kind out",
}


@pytest.mark.parametrize(("name", "kind", "source"), REFUSED)
def test_refused(
    name: str, kind: str | None, source: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both.py").write_text(FILE)
    with pytest.raises(UsageError) as caught:
        write_plugin(name, kind, Path(source) if source else None, Path())
    assert str(caught.value) == REFUSED[name, kind, source]
    assert [path.name for path in tmp_path.iterdir()] == ["both.py"]


def test_what_the_template_has_is_not_hidden(tmp_path: Path) -> None:
    """A class that would be called like something that its module uses is called by its kind too."""
    folder = write_plugin("batch", "data", None, tmp_path)
    assert "class BatchData(Data):" in (folder / "ni_batch/batch.py").read_text()
    assert 'batch = "ni_batch.batch:BatchData"' in (folder / "pyproject.toml").read_text()


def test_docstrings_with_anything_in_them(tmp_path: Path) -> None:
    """Quotes, backslashes, pipes and umlauts end up in valid TOML, Markdown and Python."""
    path = tmp_path / "odd.py"
    doc = 'Says "x | y" \\\\ \u00fc and more'
    path.write_text(
        FILE.replace("A router that is like the example: types and signatures -> [B, U, V].", doc), encoding="utf-8"
    )
    folder = write_plugin("odd-words", None, path, tmp_path)
    assert "\u00fc" in tomllib.loads((folder / "pyproject.toml").read_text())["project"]["description"]
    compile((folder / "ni_odd_words/__init__.py").read_text(), "__init__.py", "exec")
    (row,) = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("| `router`")]
    assert row.replace("\\|", "").count("|") == 4


def test_on_the_command_line(tmp_path: Path, ni: Ni, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Names the folder and what to do next; never writes over anything."""
    monkeypatch.chdir(tmp_path)
    done = ni("plugin", "new", "top-q", "--kind", "router")
    assert (done.code, done.out) == (0, "ni-top-q\n")
    assert (
        done.err
        == "next: pip install -e ./ni-top-q, then ni plugin test ni-top-q and ni train ni-top-q/recipes/*.yaml\n"
    )
    again = ni("plugin", "new", "top-q", "--kind", "router")
    assert again.code == 2
    assert again.err == "error: ni-top-q: exists already and is left as it is; choose another name\n"
