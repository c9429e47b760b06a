"""The documents are true: snippets run, links lead to files, quoted recipes are the shipped ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from ni_framework import build_model
from ni_framework.options import COMPONENT_KINDS
from tests.cli.conftest import RunNi, ni  # noqa: F401  a fixture

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in sorted(ROOT.rglob("*.md")) if not {".git", ".venv", "runs"} & set(path.parts)]


def read_snippets(path: Path, language: str) -> list[str]:
    """The code blocks of a language in a document, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def readme_snippets(language: str) -> list[str]:
    """The code blocks of a language in the README, in order."""
    return read_snippets(ROOT / "README.md", language)


@pytest.mark.slow
def test_readme_runs(ni: RunNi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Every `ni` command in order, training for three steps only, then the Python, in one folder as a reader would."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    lines = [
        line.partition(" #")[0] for block in readme_snippets("sh") for line in block.replace("\\\n", " ").splitlines()
    ]
    commands = [shlex.split(part) for line in lines for part in line.split("&&")]
    ran = [command for command in commands if command[:1] == ["ni"]]
    assert len(ran) >= 8
    for command in ran:
        shorter = [part for part in command[1:] if not part.startswith("train.steps=")]
        steps = 5 if "--resume" in command else 3
        done = ni(*shorter, *([f"train.steps={steps}"] if command[1] == "train" else []))
        assert done.code == 0, (command, done.err)
    (code,) = readme_snippets("python")
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_training_loop_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of docs/training_loop.md learns, and updates the buffers of its components."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (code,) = read_snippets(ROOT / "docs" / "training_loop.md", "python")
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(code, "training_loop.md", "exec"), names)
    losses = names["losses"]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses
    assert names["metrics"]["test/accuracy"] > 0.15
    fresh = dict(build_model(names["recipe"]).named_buffers())
    changed = [name for name, value in names["model"].named_buffers() if not torch.equal(value, fresh[name])]
    assert changed, "no component has taken the statistics of the steps"


def test_readme_quotes_the_recipe() -> None:
    """The recipe that it explains is the shipped one, but for the comments."""
    (quoted,) = readme_snippets("yaml")
    bare = [
        [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]
        for text in (quoted, read_recipe_text("digits.yaml"))
    ]
    assert bare[0] == [line for line in bare[1] if line and not line.startswith("#")]


def read_recipe_text(name: str) -> str:
    """A shipped recipe's text."""
    return (ROOT / "recipes" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files that exist."""
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_recipe_is_in_the_table() -> None:
    """With its question, hardware, time and figure; and it opens with what it is for and its command."""
    table = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "recipes").rglob("*.yaml"):
        name = str(path.relative_to(ROOT / "recipes"))
        assert f"({name})" in table
        assert f"ni train recipes/{name}" in path.read_text(encoding="utf-8").partition("\nni:")[0]


def test_every_kind_and_hook_is_explained() -> None:
    """Each has a base class in the contract, and each base class and hook has a docstring."""
    from ni_framework.contracts import COMPONENT_BASES, RunEvents

    assert tuple(COMPONENT_BASES) == COMPONENT_KINDS
    for base in COMPONENT_BASES.values():
        assert "Built as `cls(config" in (base.__doc__ or "")
    hooks = [value for name, value in vars(RunEvents).items() if name.startswith("run_")]
    assert len(hooks) == 7
    assert all(hook.__doc__ for hook in hooks)
