"""What a path can lead to, and what a recipe is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.recipe import load
from ni_framework.recipe.parsing.source import read_bytes
from tests.helpers.recipe_components import VALID, resolve


def report(path: str) -> str:
    """What is said about a path."""
    with pytest.raises(RecipeError) as caught:
        load(path, resolve=resolve)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the path as it was given; a FIFO is not waited for."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.yaml")
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    assert report("absent.yaml") == "absent.yaml: error: there is no such file"
    assert report("absent/recipe.yaml") == "absent/recipe.yaml: error: there is no such file"
    assert report("folder.yaml") == "folder.yaml: error: is a folder, not a file"
    assert report("fifo.yaml") == "fifo.yaml: error: is not a regular file"
    assert report("/dev/zero") == "/dev/zero: error: is not a regular file"
    assert report("loop.yaml") == "loop.yaml: error: cannot be read (too many levels of symbolic links)"
    assert report("x" * 300) == f"{'x' * 300}: error: cannot be read (file name too long)"
    assert report("a\0b") == "a\\u0000b: error: is not the path of a file"
    assert report("\udcff\x1b.yaml") == "\\udcff\\u001b.yaml: error: there is no such file"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own refusal; simulated, since the tests may run as a user who may read everything."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(permission denied\)"):
        read_bytes(str(tmp_path / "recipe.yaml"))


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    """What other editors write is the same recipe, and has the same places."""
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID)
    expected = load(path, resolve=resolve)
    for content in (
        VALID.replace("\n", "\r\n"),
        VALID.replace("\n", "\r"),
        VALID.rstrip("\n"),
        f"\ufeff---\n{VALID}...\n",
    ):
        path.write_bytes(content.encode())
        recipe = load(path, resolve=resolve)
        assert recipe == expected
        line = expected.marks["model.code"].line + content.startswith("\ufeff")
        assert (recipe.marks["model.code"].line, recipe.marks["model.code"].column) == (line, 9)
        assert recipe.marks["model.code"].text == "  code: 64"


def test_signs_beyond_ascii(tmp_path: Path) -> None:
    """Comments and text may hold any visible character, and the caret still stands below the right one."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# \U0001f9e0 caf\xe9\n{VALID}".replace("digits", "'\U0001f9e0'"))
    assert f"{path}:13:7: error: data.use: '\U0001f9e0' cannot be the name of a component" in report(str(path))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("swirl.yaml", "swirl"),
        ("a.b.yaml", "a.b"),
        ("my recipe.yml", "my recipe"),
        ("\x1b[31m.yaml", "_[31m"),
        ("..yaml", "recipe"),
    ],
)
def test_a_recipe_is_called_after_its_file(file: str, name: str, tmp_path: Path) -> None:
    """Without what a run folder should not be called."""
    (tmp_path / file).write_text(VALID)
    assert load(tmp_path / file, resolve=resolve).name == name
