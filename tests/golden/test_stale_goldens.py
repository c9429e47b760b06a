"""Texts and recipes belong together; the last file, since with `NI_REWRITE` those before it write the texts."""

from __future__ import annotations

from tests.golden.test_recipes import HERE, NAMES, REAL


def test_there_is_no_text_of_a_recipe_that_is_gone() -> None:
    texts = [path.relative_to(HERE).as_posix().removesuffix(".txt") for path in HERE.rglob("*.txt")]
    assert sorted(text for text in texts if not text.endswith(".losses")) == NAMES
    assert sorted(text.removesuffix(".losses") for text in texts if text.endswith(".losses")) == REAL
