"""The command `ni`, called in this process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ni_framework.cli import main
from tests.helpers.small_recipe import TEXT


class Result(NamedTuple):
    """What a command leaves behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


Ni = Callable[..., Result]


@pytest.fixture
def ni(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ni:
    """Runs `ni` with these arguments; a traceback is a failure of any test."""
    logging.captureWarnings(False)
    monkeypatch.setenv("NI_PLUGINS", "")  # so that it is taken back, whatever --no-plugins does to it
    monkeypatch.delenv("NI_PLUGINS")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["ni", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return run


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, which holds a small recipe called small.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(TEXT)
    return tmp_path
