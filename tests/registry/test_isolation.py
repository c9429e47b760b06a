"""Ten broken distributions, all installed at once: other runs work, and a recipe that names one of them gets an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.small_recipe import SMALL_RECIPE_YAML
from tests.helpers.wheels import Wheel, pip_install

pytestmark = pytest.mark.slow

VALID_SOURCE = """
from torch import nn
from ni_framework.contracts import Body
class Odd(Body):
    '''Each function adds its own shift: [B, V, D] -> [R, D].'''
    def __init__(self, config, sizes, build):
        super().__init__()
        self.shift = nn.Linear(sizes.code, sizes.width)
    def prepare(self, code_UC, num_elements):
        return self.shift(code_UC)
    def forward(self, x_BVD, shift_UD, pairs):
        return pairs.dispatch(x_BVD) + pairs.expand(shift_UD)
"""
UPGRADE = "upgrade or repair it: pip install --upgrade ni-{0}"


class BrokenDistribution(NamedTuple):
    """The module of a distribution, and the error for a recipe that names its body."""

    source: str
    message: str
    help: str = UPGRADE


BROKEN_DISTRIBUTIONS = {
    "raising": BrokenDistribution("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "needy": BrokenDistribution(
        "import ni_absent", "cannot be imported: ModuleNotFoundError: No module named 'ni_absent'"
    ),
    "exiting": BrokenDistribution("import sys; sys.exit(0)", "cannot be imported: SystemExit: 0"),
    "patching": BrokenDistribution(
        f"{VALID_SOURCE}\nnn.functional.softmax = None",
        "changes global state when it is imported: torch.nn.functional.softmax (restored)",
    ),
    "newer": BrokenDistribution(
        f"{VALID_SOURCE}\nOdd.api = 3",
        "is written for plugin API 3, this ni_framework has 2",
        "upgrade ni_framework: pip install --upgrade ni-framework",
    ),
    "mistaken": BrokenDistribution("class Odd: pass", "is not a subclass of contracts.Body"),
}
BROKEN_LISTENER = """
from ni_framework.contracts import hookimpl
class Listener:
    @hookimpl
    def run_stop(self, step): pass
odd = Listener()
"""
WHEELS = [
    *(Wheel(f"ni-{name}", case.source, {"body": {name: "Odd"}}) for name, case in BROKEN_DISTRIBUTIONS.items()),
    Wheel(
        "ni-printing",
        f"import os\nprint('here I am'); os.write(1, b'still here')\n{VALID_SOURCE}",
        {"body": {"printing": "Odd"}},
    ),
    Wheel("ni-double", VALID_SOURCE, {"body": {"double": "Odd"}}),
    Wheel("ni-twice", VALID_SOURCE, {"body": {"double": "Odd"}}),
    Wheel(
        "ni-reserved",
        "1 / 0",
        {"body": {"lines_of_code": "Odd"}, "router": {"kernel": "Odd"}, "data": {"digits": "Odd"}},
    ),
    Wheel("ni-misspelt", BROKEN_LISTENER, {"hooks": {"misspelt": "odd"}}),
]
NI_PATH = Path(sys.executable).with_name("ni")


class CommandResult(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class NiCommand:
    """Runs the command `ni` in a process, with the ten distributions installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, pip_install(WHEELS, folder)
        (folder / "small.yaml").write_text(SMALL_RECIPE_YAML)

    def __call__(self, *arguments: str, **environment: str) -> CommandResult:
        settings = {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [str(NI_PATH), *arguments],
            cwd=self.folder,
            env=os.environ | settings | environment,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        return CommandResult(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def ni(tmp_path_factory: pytest.TempPathFactory) -> NiCommand:
    return NiCommand(tmp_path_factory.mktemp("ten"))


def test_ls_lists_broken_distributions_without_importing_them(ni: NiCommand) -> None:
    done = ni("ls")
    assert done.code == 0
    assert done.err == ""
    rows = {tuple(line.split()[:3]): line for line in done.out.splitlines()}
    assert rows["body", "lines_of_code", "ni-reserved"].endswith("0.1      reserved")
    assert rows["body", "double", "ni-double"].endswith("also provided by ni-twice 0.1")
    assert rows["hooks", "misspelt", "ni-misspelt"].endswith("0.1")
    assert rows["body", "lines_of_code", "ni-framework"].endswith("0.1.0")
    assert {name for _, name, distribution in rows if distribution.startswith("ni-")} >= {
        *BROKEN_DISTRIBUTIONS,
        "printing",
    }


def test_ls_load_reports_the_status_of_broken_distributions(ni: NiCommand) -> None:
    """What a plugin prints while it is imported goes to stderr and not into the listing."""
    done = ni("ls", "--load", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    status: dict[tuple[str, str], Any] = {(row["distribution"], row["name"]): row["status"] for row in rows}
    for name, case in BROKEN_DISTRIBUTIONS.items():
        assert status[f"ni-{name}", name] == f"broken: {case.message}"
    assert status["ni-printing", "printing"] == status["ni-framework", "kernel"] == "ok"
    assert status["ni-reserved", "kernel"].startswith("is never used: ni-framework itself provides router `kernel`")
    assert status["ni-misspelt", "misspelt"].startswith("broken: is not a listener: unknown hook 'run_stop'")
    assert "here I am" in done.err
    own = [row["conformance"] for row in rows if row["distribution"] == "ni-framework" and row["kind"] != "hooks"]
    assert len(own) > 30
    assert all("passed" in result and "failed" not in result for result in own)


def test_check_names_every_broken_component_of_a_recipe(ni: NiCommand) -> None:
    """Each with its distribution, version, cause and remedy. One recipe is enough, since all problems are reported together."""
    override = f"model.scripts=[{', '.join(f'{{body: {name}}}' for name in BROKEN_DISTRIBUTIONS)}]"
    done = ni("check", "small.yaml", override, "--json")
    problems = json.loads(done.out)["error"]["problems"]
    assert done.code == 4
    assert [(problem["message"], problem["hint"]) for problem in problems] == [
        (
            f"model.scripts.{number}.body: body `{name}` of ni-{name} 0.1 (ni_{name}:Odd) {case.message}",
            case.help.format(name),
        )
        for number, (name, case) in enumerate(BROKEN_DISTRIBUTIONS.items())
    ]


def test_check_rejects_a_name_that_two_distributions_provide(ni: NiCommand) -> None:
    """Unless one of them is blocked."""
    done = ni("check", "small.yaml", "model.body=double", "--json")
    (problem,) = json.loads(done.out)["error"]["problems"]
    assert done.code == 4
    assert problem["message"] == (
        "model.body: body `double` is provided more than once, by ni-double 0.1 and ni-twice 0.1"
    )
    assert problem["hint"] == ("uninstall one of them: pip uninstall ni-twice; or block one: NI_PLUGINS=-ni-twice")
    assert ni("check", "small.yaml", "model.body=double", NI_PLUGINS="-ni-twice").code == 0


def test_recipes_without_broken_components_are_trained(ni: NiCommand) -> None:
    """A recipe that names no broken component, or one that only prints: stdout has one JSON document in both cases."""
    assert ni("check", "small.yaml").code == 0
    for name in ("lines_of_code", "printing"):
        done = ni("train", "small.yaml", f"model.body={name}", "train.steps=2", "--output", name, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["metrics"]["test/accuracy"] > 0
        warning = "warning: skipped: listener `misspelt` of ni-misspelt 0.1 (ni_misspelt:odd) is not a listener: "
        assert done.err.count(warning) == 1
        assert done.err.count("here I am") == (name == "printing")
    lock = json.loads((ni.folder / "lines_of_code" / "lock.json").read_text())
    assert {component["distribution"] for component in lock["components"].values()} == {"ni-framework"}


def test_the_current_folder_is_not_imported_from(ni: NiCommand, tmp_path: Path) -> None:
    """The current folder is not on the path of the command, nor on that of the processes that it starts.

    Those are started with `python -P -m ni_framework`; without -P Python would look in the current folder first.
    """
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE_YAML)
    for name in ("torch", "ni_standard", "ni_framework", "attrs", "click", "yaml", "sitecustomize", "ni_printing"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ([str(NI_PATH)], [sys.executable, "-P", "-m", "ni_framework"]):
        done = subprocess.run(
            [*command, "check", "small.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0
        assert done.stderr == ""
        assert not (tmp_path / "imported").exists()
    # The files would be noticed if they were imported.
    subprocess.run([sys.executable, "-c", "import ni_printing"], cwd=tmp_path, check=True)
    assert (tmp_path / "imported").read_text() == "ni_printing"
