"""A recipe cannot name code: none of a hundred attempts runs anything or imports a module."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.registry import load_recipe
from tests.helpers.small_recipe import SMALL_RECIPE_YAML

CALLABLES = (
    "os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "torch.load", "booby.run",
    "importlib.import_module", "ni_standard.routers.kernels.Kernel",
)  # fmt: skip
# Spellings of a dotted path that a program might import.
SPELLINGS = (
    "{0}", "{1}:{2}", "{0}()", "{0}('touch ran')", "{1}/{2}", "../{1}", "./{1}.py", "{1}.py", "__import__('{1}').{2}",
    "{{{0}}}", "${{{0}}}", "!{0}", "entry_point:{0}",
)  # fmt: skip
PAYLOADS = [spelling.format(name, *name.rsplit(".", 1)) for name, spelling in product(CALLABLES, SPELLINGS)]
COMPONENT_KEYS = ("router", "body", "type_inference", "embedding", "input", "head", "body.linear")


def test_names_of_code_are_recipe_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the recipe and on the command line, as a bare name and as `use`; the exit code is 3."""
    (tmp_path / "booby.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = Path("small.yaml")
    recipe.write_text(SMALL_RECIPE_YAML)
    load_recipe("small.yaml")  # Imports the modules that the recipe itself needs.
    modules_before = set(sys.modules)
    assert len(set(PAYLOADS)) >= 100
    for number, payload in enumerate(PAYLOADS):
        quoted = "'" + payload.replace("'", "''") + "'"
        key = COMPONENT_KEYS[number % len(COMPONENT_KEYS)]
        for override in (f"model.{key}={quoted}", f"model.{key}={{use: {quoted}}}", f"data={quoted}"):
            with pytest.raises(RecipeError) as caught:
                load_recipe("small.yaml", [override])
            assert caught.value.exit_code == 3
            assert "cannot be the name of a component" in str(caught.value), payload
        recipe.write_text(SMALL_RECIPE_YAML.replace("use: classify", f"use: {quoted}"))
        with pytest.raises(RecipeError, match="a recipe cannot name code"):
            load_recipe("small.yaml")
        recipe.write_text(SMALL_RECIPE_YAML)
    assert set(sys.modules) == modules_before
    assert not Path("ran").exists()
    # The name of a module without dots is an unknown component like any other.
    with pytest.raises(RecipeError, match="there is no body `booby`"):
        load_recipe("small.yaml", ["model.body=booby"])
    assert not Path("ran").exists()
    # An import of the module would have been noticed.
    import booby  # noqa: F401  # pyright: ignore[reportMissingImports]

    assert Path("ran").exists()
    del sys.modules["booby"]
