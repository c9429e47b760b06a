"""Ten distributions that misbehave, all installed at once: nobody else's run breaks, and a recipe that names one is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.small_recipe import TEXT
from tests.helpers.wheels import Wheel, pip_install

GOOD = """
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
        return pairs.share(x_BVD) + pairs.spread(shift_UD)
"""
UPGRADE = "upgrade or repair it: pip install --upgrade ni-{0}"


class Case(NamedTuple):
    """A distribution's module, and what is said of its body where a recipe names it."""

    source: str
    said: str
    help: str = UPGRADE


CASES = {
    "raising": Case("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "needy": Case("import ni_absent", "cannot be imported: ModuleNotFoundError: No module named 'ni_absent'"),
    "exiting": Case("import sys; sys.exit(0)", "cannot be imported: SystemExit: 0"),
    "patching": Case(
        f"{GOOD}\nnn.functional.softmax = None",
        "changes what all share when it is imported: torch.nn.functional.softmax (put back)",
    ),
    "newer": Case(
        f"{GOOD}\nOdd.api = 2",
        "is written for plugin API 2, this ni_framework offers 1",
        "upgrade ni_framework: pip install --upgrade ni-framework",
    ),
    "mistaken": Case("class Odd: pass", "is no subclass of contracts.Body"),
}
LISTENER = """
from ni_framework.contracts import hookimpl
class Listener:
    @hookimpl
    def run_stop(self, step): pass
odd = Listener()
"""
WHEELS = [
    *(Wheel(f"ni-{name}", case.source, {"body": {name: "Odd"}}) for name, case in CASES.items()),
    Wheel(
        "ni-printing",
        f"import os\nprint('here I am'); os.write(1, b'still here')\n{GOOD}",
        {"body": {"printing": "Odd"}},
    ),
    Wheel("ni-double", GOOD, {"body": {"double": "Odd"}}),
    Wheel("ni-twice", GOOD, {"body": {"double": "Odd"}}),
    Wheel(
        "ni-reserved",
        "1 / 0",
        {"body": {"lines_of_code": "Odd"}, "router": {"kernel": "Odd"}, "data": {"digits": "Odd"}},
    ),
    Wheel("ni-misspelt", LISTENER, {"hooks": {"misspelt": "odd"}}),
]
NI = Path(sys.executable).with_name("ni")


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


class Ni:
    """Runs the command `ni` itself, with the ten installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, pip_install(WHEELS, folder)
        (folder / "small.yaml").write_text(TEXT)

    def __call__(self, *arguments: str, **environment: str) -> Done:
        own = {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [str(NI), *arguments],
            cwd=self.folder,
            env=os.environ | own | environment,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def ni(tmp_path_factory: pytest.TempPathFactory) -> Ni:
    return Ni(tmp_path_factory.mktemp("ten"))


def test_a_listing_goes_on(ni: Ni) -> None:
    """It names all of them, and imports none."""
    done = ni("ls")
    assert (done.code, done.err) == (0, "")
    rows = {tuple(line.split()[:3]): line for line in done.out.splitlines()}
    assert rows["body", "lines_of_code", "ni-reserved"].endswith("0.1      reserved")
    assert rows["body", "double", "ni-double"].endswith("also provided by ni-twice 0.1")
    assert rows["hooks", "misspelt", "ni-misspelt"].endswith("0.1")
    assert rows["body", "lines_of_code", "ni-framework"].endswith("0.1.0")
    assert {name for _, name, distribution in rows if distribution.startswith("ni-")} >= {*CASES, "printing"}


def test_a_listing_that_imports_goes_on(ni: Ni) -> None:
    """What is printed meanwhile is not in it."""
    done = ni("ls", "--load", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    status: dict[tuple[str, str], Any] = {(row["distribution"], row["name"]): row["status"] for row in rows}
    for name, case in CASES.items():
        assert status[f"ni-{name}", name] == f"broken: {case.said}"
    assert status["ni-printing", "printing"] == status["ni-framework", "kernel"] == "ok"
    assert status["ni-reserved", "kernel"].startswith("is never used: ni-framework itself provides router `kernel`")
    assert status["ni-misspelt", "misspelt"].startswith("broken: cannot listen: unknown hook 'run_stop'")
    assert "here I am" in done.err
    ours = [row["conformance"] for row in rows if row["distribution"] == "ni-framework" and row["kind"] != "hooks"]
    assert len(ours) > 30
    assert all("passed" in told and "failed" not in told for told in ours)


def test_a_recipe_that_names_them_stops(ni: Ni) -> None:
    """With the distribution, version, cause and remedy of each; here in one recipe, for all problems are told at once."""
    override = f"model.scripts=[{', '.join(f'{{body: {name}}}' for name in CASES)}]"
    done = ni("check", "small.yaml", override, "--json")
    problems = json.loads(done.out)["error"]["problems"]
    assert done.code == 4
    assert [(problem["message"], problem["hint"]) for problem in problems] == [
        (
            f"model.scripts.{number}.body: body `{name}` of ni-{name} 0.1 (ni_{name}:Odd) {case.said}",
            case.help.format(name),
        )
        for number, (name, case) in enumerate(CASES.items())
    ]


def test_a_recipe_that_names_two_with_one_name_stops(ni: Ni) -> None:
    """Unless one of them is left out."""
    done = ni("check", "small.yaml", "model.body=double", "--json")
    (problem,) = json.loads(done.out)["error"]["problems"]
    assert (done.code, problem["message"], problem["hint"]) == (
        4,
        "model.body: body `double` is provided more than once, by ni-double 0.1 and ni-twice 0.1",
        "uninstall one of them: pip uninstall ni-twice; or leave one out: NI_PLUGINS=-ni-twice",
    )
    assert ni("check", "small.yaml", "model.body=double", NI_PLUGINS="-ni-twice").code == 0


def test_others_go_on(ni: Ni) -> None:
    """A check and a run of a recipe that names none of them, or the one that only prints: one document on stdout each."""
    assert ni("check", "small.yaml").code == 0
    for name in ("lines_of_code", "printing"):
        done = ni("train", "small.yaml", f"model.body={name}", "train.steps=2", "--output", name, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["metrics"]["test/accuracy"] > 0
        warning = "warning: left out: listener `misspelt` of ni-misspelt 0.1 (ni_misspelt:odd) cannot listen: "
        assert done.err.count(warning) == 1
        assert done.err.count("here I am") == (name == "printing")
    lock = json.loads((ni.folder / "lines_of_code" / "lock.json").read_text())
    assert {part["distribution"] for part in lock["components"].values()} == {"ni-framework"}


def test_the_current_folder_is_not_imported_from(ni: Ni, tmp_path: Path) -> None:
    """Whatever lies in it: the command has no folder of the caller's on its path, nor have the processes that it starts.

    They are started with `python -P -m ni_framework`; without -P it is Python itself that looks in the current folder first.
    """
    (tmp_path / "small.yaml").write_text(TEXT)
    for name in ("torch", "ni_standard", "ni_framework", "attrs", "click", "yaml", "sitecustomize", "ni_printing"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__)\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in ([str(NI)], [sys.executable, "-P", "-m", "ni_framework"]):
        done = subprocess.run(
            [*command, "check", "small.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert not (tmp_path / "imported").exists()
    # What the test would see otherwise.
    subprocess.run([sys.executable, "-c", "import ni_printing"], cwd=tmp_path, check=True)
    assert (tmp_path / "imported").read_text() == "ni_printing"
