"""Our own distributions are examples for third parties: complete, documented, and with a recipe for each idea."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ni_framework.registry import load_recipe
from ni_framework.registry.catalog import installed_catalog

ROOT = Path(__file__).parents[2]
PLUGIN_DIRS = sorted((ROOT / "plugins").glob("ni-*"))
each_plugin = pytest.mark.parametrize("folder", PLUGIN_DIRS, ids=lambda path: path.name)


def test_all_plugins_are_installed() -> None:
    """`pip install -r plugins/requirements.txt` installs every distribution, editable."""
    lines = (ROOT / "plugins" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"-e ./plugins/{path.name}" for path in PLUGIN_DIRS]
    assert [path.name for path in PLUGIN_DIRS] == [
        "ni-additive",
        "ni-discrete-types",
        "ni-expert-bodies",
        "ni-halting",
        "ni-sparse-routers",
        "ni-undirected",
    ]


@each_plugin
def test_plugin_is_complete(folder: Path) -> None:
    """Metadata, licence, tests that try the conformance of every component, and a README that names each."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == folder.name
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    readme = (folder / "README.md").read_text()
    tests = "\n".join(path.read_text() for path in (folder / "tests").glob("test_*.py"))
    announced = {
        (group.removeprefix("ni_framework."), name): value
        for group, named in project["entry-points"].items()
        for name, value in named.items()
    }
    assert announced
    for (kind, name), value in announced.items():
        assert installed_catalog().find(kind, name).distribution == folder.name
        assert f"`{name}`" in readme
        assert re.search(rf"= conformance\({value.rpartition(':')[2]}\b", tests), value


@each_plugin
def test_has_recipes(folder: Path) -> None:
    """Recipes are valid, require the distribution, name their command and are in the table; each component is in one."""
    table = (ROOT / "recipes" / "README.md").read_text()
    texts = []
    for path in (folder / "recipes").glob("*.yaml"):
        assert load_recipe(path).requires == (f"{folder.name}>=0.1",)
        texts.append(path.read_text())
        assert f"recipes/{path.name}" in texts[-1].partition("\nni:")[0]
        assert f"(../plugins/{folder.name}/recipes/{path.name})" in table
    entries = [entry for entry in installed_catalog().entries if entry.distribution == folder.name]
    assert all(any(re.search(rf"\b{entry.name}\b", text) for text in texts) for entry in entries)
