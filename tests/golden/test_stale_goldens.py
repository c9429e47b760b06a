"""Every golden text belongs to a recipe. This file runs last, since with `NI_REWRITE` the others write the texts."""

from __future__ import annotations

from tests.golden.test_recipes import BUILDABLE_RECIPES, GOLDEN_DIR, RECIPE_NAMES


def test_no_golden_text_without_recipe() -> None:
    texts = [path.relative_to(GOLDEN_DIR).as_posix().removesuffix(".txt") for path in GOLDEN_DIR.rglob("*.txt")]
    assert sorted(text for text in texts if not text.endswith(".losses")) == RECIPE_NAMES
    assert sorted(text.removesuffix(".losses") for text in texts if text.endswith(".losses")) == BUILDABLE_RECIPES
