"""A recipe cannot name code: a hundred attempts, none of which runs anything or even imports a module."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest

from ni_framework.errors import RecipeError
from ni_framework.registry import load_recipe
from tests.helpers.small_recipe import TEXT

CALLABLES = (
    "os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "torch.load", "booby.run",
    "importlib.import_module", "ni_standard.routers.kernels.Kernel",
)  # fmt: skip
# How a dotted path might be written so that something imports it.
WAYS = (
    "{0}", "{1}:{2}", "{0}()", "{0}('touch ran')", "{1}/{2}", "../{1}", "./{1}.py", "{1}.py", "__import__('{1}').{2}",
    "{{{0}}}", "${{{0}}}", "!{0}", "entry_point:{0}",
)  # fmt: skip
PAYLOADS = [way.format(name, *name.rsplit(".", 1)) for name, way in product(CALLABLES, WAYS)]
KEYS = ("router", "body", "type_inference", "embedding", "input", "head", "body.linear")


def test_a_hundred_payloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the recipe and on the command line, as a name and as `use`: all are mistakes in the recipe (exit code 3)."""
    (tmp_path / "booby.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = Path("small.yaml")
    recipe.write_text(TEXT)
    load_recipe("small.yaml")  # so that what it needs itself is imported
    before = set(sys.modules)
    assert len(set(PAYLOADS)) >= 100
    for number, payload in enumerate(PAYLOADS):
        quoted = "'" + payload.replace("'", "''") + "'"
        key = KEYS[number % len(KEYS)]
        for override in (f"model.{key}={quoted}", f"model.{key}={{use: {quoted}}}", f"data={quoted}"):
            with pytest.raises(RecipeError) as caught:
                load_recipe("small.yaml", [override])
            assert caught.value.exit_code == 3
            assert "cannot be the name of a component" in str(caught.value), payload
        recipe.write_text(TEXT.replace("use: classify", f"use: {quoted}"))
        with pytest.raises(RecipeError, match="a recipe cannot name code"):
            load_recipe("small.yaml")
        recipe.write_text(TEXT)
    assert set(sys.modules) == before
    assert not Path("ran").exists()
    with pytest.raises(RecipeError, match="there is no body `booby`"):  # a name like any other, of no component
        load_recipe("small.yaml", ["model.body=booby"])
    assert not Path("ran").exists()
    import booby  # noqa: F401  # pyright: ignore[reportMissingImports]  what would have been seen

    assert Path("ran").exists()
    del sys.modules["booby"]
