"""The cache of `ni check`: an unchanged recipe is not checked again, and any change is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ni_framework.registry import check_cache
from tests.cli.conftest import RunNi
from tests.cli.test_commands import imported_packages

pytestmark = pytest.mark.slow

CHECK_OUTPUT = "small.yaml: ok, 1,806 parameters, 5 elements, 3 functions x 2 iterations\n"


@pytest.fixture
def cache_dir(small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets the folder of the cache."""
    monkeypatch.setenv("NI_CACHE_DIR", str(small_recipe_dir / "cache"))
    return small_recipe_dir / "cache"


@pytest.fixture
def count_checks(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns a function that counts the checks that were not answered from the cache."""
    written: list[str] = []
    write = check_cache.write_cached_check

    def count(key: str, document: dict[str, object]) -> None:
        written.append(key)
        write(key, document)

    monkeypatch.setattr(check_cache, "write_cached_check", count)
    return lambda: len(written)


def test_second_check_imports_no_torch(cache_dir: Path) -> None:
    assert "torch" in imported_packages("check", "small.yaml")
    assert len(list(cache_dir.glob("*.json"))) == 1
    assert not {"torch", "ni_standard", "numpy"} & imported_packages("check", "small.yaml")


def test_second_check_has_same_output(ni: RunNi, cache_dir: Path, count_checks: Callable[[], int]) -> None:
    first, second = (ni("check", "small.yaml", "--json") for _ in range(2))
    assert first == second
    assert ni("check", "small.yaml").out == CHECK_OUTPUT
    assert count_checks() == 1


def test_changes_are_checked(
    ni: RunNi, cache_dir: Path, count_checks: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed override, recipe, extended recipe, or source file of the framework is checked again."""
    assert ni("check", "small.yaml").code == 0
    assert ni("check", "small.yaml", "model.scripts=2").code == 0
    assert count_checks() == 2, "an override"
    Path("base.yaml").write_text(Path("small.yaml").read_text())
    Path("small.yaml").write_text("ni: 1\nextends: base.yaml\n")
    assert ni("check", "small.yaml").out == CHECK_OUTPUT
    assert count_checks() == 3, "the recipe"
    Path("base.yaml").write_text(Path("base.yaml").read_text().replace("functions: 3", "functions: 4"))
    assert "4 functions" in ni("check", "small.yaml").out
    assert count_checks() == 4, "a recipe that it extends"
    monkeypatch.setattr(check_cache, "_iter_sources", lambda package: iter([f"{package}/new.py 1 2"]))
    assert ni("check", "small.yaml").code == 0
    assert count_checks() == 5, "a source file"


def test_errors_are_not_cached(ni: RunNi, cache_dir: Path) -> None:
    for _ in range(2):
        result = ni("check", "small.yaml", "model.functions=0")
        assert result.code == 3
        assert "must be at least 1, not 0" in result.err
    assert not cache_dir.exists()


def test_requirements_are_not_cached(ni: RunNi, cache_dir: Path) -> None:
    """A recipe that requires a distribution without components is not cached: the key has no version of it."""
    assert ni("check", "small.yaml", "requires=[numpy>=1]").code == 0
    assert not cache_dir.exists()


def test_unusable_cache_is_ignored(ni: RunNi, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged cache files, and a folder that cannot be created, cause no error."""
    assert ni("check", "small.yaml").out == CHECK_OUTPUT
    for path in cache_dir.glob("*.json"):
        path.write_text("[")
    assert ni("check", "small.yaml").out == CHECK_OUTPUT
    monkeypatch.setenv("NI_CACHE_DIR", os.path.join(os.devnull, "cache"))
    assert ni("check", "small.yaml").out == CHECK_OUTPUT


def test_old_results_are_removed(ni: RunNi, cache_dir: Path) -> None:
    ni("check", "small.yaml")
    (old,) = cache_dir.glob("*.json")
    os.utime(old, (1, 1))
    ni("check", "small.yaml", "seed=1")
    assert [path.name for path in cache_dir.glob("*.json")] != [old.name]
    assert not old.exists()
