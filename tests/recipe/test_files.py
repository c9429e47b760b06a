"""Reading recipes from all kinds of paths, and the name of a recipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.recipe import load
from ni_framework.recipe.parsing.source import read_bytes
from tests.helpers.recipe_components import VALID_RECIPE, resolve_component


def load_error_text(path: str) -> str:
    """The error for a path."""
    with pytest.raises(RecipeError) as caught:
        load(path, resolve=resolve_component)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def test_paths_that_are_not_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error shows the path as it was given; reading does not wait for a FIFO."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.yaml")
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    assert load_error_text("absent.yaml") == "absent.yaml: error: there is no such file"
    assert load_error_text("absent/recipe.yaml") == "absent/recipe.yaml: error: there is no such file"
    assert load_error_text("folder.yaml") == "folder.yaml: error: is a folder, not a file"
    assert load_error_text("fifo.yaml") == "fifo.yaml: error: is not a regular file"
    assert load_error_text("/dev/zero") == "/dev/zero: error: is not a regular file"
    assert load_error_text("loop.yaml") == "loop.yaml: error: cannot be read (too many levels of symbolic links)"
    assert load_error_text("x" * 300) == f"{'x' * 300}: error: cannot be read (file name too long)"
    assert load_error_text("a\0b") == "a\\u0000b: error: is not the path of a file"
    assert load_error_text("\udcff\x1b.yaml") == "\\udcff\\u001b.yaml: error: there is no such file"


def test_a_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error is simulated, since the tests may run as a user who can read every file."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=r"cannot be read \(permission denied\)"):
        read_bytes(str(tmp_path / "recipe.yaml"))


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    """Files of other editors give the same recipe with the same places."""
    path = tmp_path / "recipe.yaml"
    path.write_text(VALID_RECIPE)
    expected = load(path, resolve=resolve_component)
    for content in (
        VALID_RECIPE.replace("\n", "\r\n"),
        VALID_RECIPE.replace("\n", "\r"),
        VALID_RECIPE.rstrip("\n"),
        f"\ufeff---\n{VALID_RECIPE}...\n",
    ):
        path.write_bytes(content.encode())
        recipe = load(path, resolve=resolve_component)
        assert recipe == expected
        line = expected.marks["model.code"].line + content.startswith("\ufeff")
        assert (recipe.marks["model.code"].line, recipe.marks["model.code"].column) == (line, 9)
        assert recipe.marks["model.code"].text == "  code: 64"


def test_characters_beyond_ascii(tmp_path: Path) -> None:
    """Comments and text may contain any visible character, and the column of a problem is still right."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# \U0001f9e0 caf\xe9\n{VALID_RECIPE}".replace("digits", "'\U0001f9e0'"))
    assert f"{path}:13:7: error: data.use: '\U0001f9e0' cannot be the name of a component" in load_error_text(str(path))


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
def test_the_name_of_a_recipe_comes_from_its_file(file: str, name: str, tmp_path: Path) -> None:
    """Without characters that the name of a run folder should not contain."""
    (tmp_path / file).write_text(VALID_RECIPE)
    assert load(tmp_path / file, resolve=resolve_component).name == name
