"""Style, types, layers and sizes of the code itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON_FILES = sorted(path for folder in ("ni_framework", "plugins", "tests") for path in (ROOT / folder).rglob("*.py"))

pytestmark = pytest.mark.quality


def run_tool(*command: str) -> str:
    """The output of a tool; fails with it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_style() -> None:
    """Ruff's rules and format, as pyproject.toml sets them."""
    run_tool(sys.executable, "-m", "ruff", "check", "--no-cache", ".")
    run_tool(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_types() -> None:
    """Pyright over the package, the plugins and the tests."""
    run_tool(sys.executable, "-m", "pyright", "--pythonpath", sys.executable)


def test_layers() -> None:
    """Each layer imports only those below it; import-linter's contracts are in pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    assert "0 broken" in run_tool(sys.executable, "-c", code, "--no-cache")


FORBIDDEN_PATTERNS = {
    "unpickling": r"\bpickle\b|torch\.load\(|numpy\.load\([^)]*allow_pickle\s*=\s*True",
    "code from text": r"(?<![\w.])(eval|exec)\(",
    "loading of arbitrary YAML": r"yaml\.(unsafe_|full_)?load\b",
    "shell": r"shell\s*=\s*True|os\.system\(",
}


def violations(source: str) -> list[str]:
    """What a source has that nothing shipped may have."""
    return [name for name, pattern in FORBIDDEN_PATTERNS.items() if re.search(pattern, source)]


def test_nothing_shipped_runs_foreign_data() -> None:
    """No unpickling, no code from text, no shell; the check itself finds what it should."""
    for path in PYTHON_FILES:
        if "tests" not in path.relative_to(ROOT).parts:
            assert violations(path.read_text(encoding="utf-8")) == [], path
    planted = ["import pickle", "torch.load(f)", "eval(text)", "yaml.load(text)", "run(c, shell=True)", "os.system(c)"]
    assert all(violations(line) for line in planted)
    assert not violations("model.eval()")
