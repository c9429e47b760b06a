"""Fixtures that call the command `ni` in this process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ni_framework.cli import main
from tests.helpers.small_recipe import SMALL_RECIPE_YAML


class NiResult(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


RunNi = Callable[..., NiResult]


@pytest.fixture
def ni(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunNi:
    """Returns a function that runs `ni` with arguments; a traceback fails the test."""
    logging.captureWarnings(False)
    # Registers the variable with monkeypatch, which restores it after --no-plugins has changed it.
    monkeypatch.setenv("NI_PLUGINS", "")
    monkeypatch.delenv("NI_PLUGINS")

    def run(*arguments: object) -> NiResult:
        monkeypatch.setattr(sys, "argv", ["ni", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return NiResult(code, out, err)

    return run


@pytest.fixture
def small_recipe_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes to an empty folder that contains a small recipe, small.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL_RECIPE_YAML)
    return tmp_path
