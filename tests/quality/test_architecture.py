"""The structure of the code: import order and its picture, no circles, small files, small functions, small folders."""

from __future__ import annotations

import ast
import os
import re
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE_FILES = sorted(ROOT.glob("ni_framework/**/*.py"))
FILES = sorted(path for folder in ("ni_framework", "plugins", "tests") for path in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES, MAX_MEDIAN_LINES, MAX_FUNCTION_LINES, MAX_FOLDER_FILES = 400, 130, 60, 15

pytestmark = pytest.mark.quality


def draw_layers(layers: Iterable[str]) -> str:
    """The layers of import-linter, high to low, as a Mermaid picture. Packages in one box do not import each other."""
    lines = ["```mermaid", "flowchart TB"]
    previous = None
    for number, layer in enumerate(layers):
        lines.append(f'    L{number}["{layer.replace(" | ", " · ")}"]')
        if previous is not None:
            lines.append(f"    {previous} --> L{number}")
        previous = f"L{number}"
    return "\n".join([*lines, "```"])


def test_the_picture_is_the_import_order() -> None:
    """CONTRIBUTING.md shows the layers that import-linter checks; `NI_REWRITE=1` redraws them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    path = ROOT / "CONTRIBUTING.md"
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- architecture -->\n).*?(<!-- /architecture -->)", re.S)
    redrawn = pattern.sub(lambda match: f"{match[1]}{draw_layers(layers)}\n{match[2]}", text)
    if os.environ.get("NI_REWRITE"):
        path.write_text(redrawn, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == redrawn, (
        "the picture is not the import order; redraw it with NI_REWRITE=1"
    )


def test_no_import_circles() -> None:
    """No module imports itself through others, neither in a function nor for types alone."""
    graph = grimp.build_graph("ni_framework", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # The root package exports names on first use; nothing inside imports them from there.
    imports["ni_framework"] = set()
    assert find_circle(imports) is None


def find_circle(imports: Mapping[str, set[str]]) -> list[str] | None:
    """A circle of imports as the modules on it, None if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return None
        for imported in sorted(imports.get(module, ())):
            if circle := visit(imported, [*path, module]):
                return circle
        done.add(module)
        return None

    return next((circle for module in sorted(imports) if (circle := visit(module, []))), None)


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_small(path: Path) -> None:
    """A file can be read in one sitting, and a function held in mind. Ruff limits the complexity of functions."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


def test_the_median_file_is_small() -> None:
    assert statistics.median(len(path.read_text().splitlines()) for path in PACKAGE_FILES) <= MAX_MEDIAN_LINES


def test_folders_are_small() -> None:
    """A folder can be taken in at a glance; `cli` has one file for each command."""
    counts: dict[str, int] = defaultdict(int)
    for path in FILES:
        folder = path.relative_to(ROOT).parent
        if "tests" not in folder.parts and folder.name != "cli":
            counts[str(folder)] += path.name != "__init__.py"
    assert not {folder: count for folder, count in counts.items() if count > MAX_FOLDER_FILES}
