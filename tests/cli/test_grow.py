"""`ni grow` and `ni export`: their documents and their errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from attrs import evolve

from ni_framework.growth.export import FunctionBundle, WeightDelta, load_export, save_export
from ni_framework.training.train import train
from tests.checkpoint.test_golden_check import SwirlDistribution, swirl_distribution  # noqa: F401  a fixture
from tests.cli.conftest import RunNi
from tests.helpers.distributions import InstallDistribution, install  # noqa: F401  a fixture
from tests.helpers.small_recipe import load_small_recipe

NOTHING_TO_DO = "nothing to do; give --add, --remove, --tasks, --iterations, --merge or --import"
FUNCTION_NAMES_HINT = "script 0 has the functions f0 to f2; name some of these"
MODEL_OVERRIDE_HINT = "growth changes the model; apart from that, only train, data and engine may change here"
NEW_TASK_HINT = "expected a new name and its number of classes, as in letters:26"
INIT_HINT = "expected random, near=F,... or mirror=F,..., as in near=f0,f1"
NO_CHECKPOINT_HINT = "there is no such checkpoint; name a checkpoint folder or a run folder"

RANK_ROUTER_SOURCE = """
from ni_framework.contracts import Router
class Ranks(Router):
    supports_growth = False
    def __init__(self, config, sizes, build):
        super().__init__()
    def forward(self, type_BVT, signature_UT, context):
        return (signature_UT @ type_BVT.transpose(1, 2)).softmax(dim=1)
"""

# Arguments after `ni grow run`, the exit code, and a part of the error message.
INVALID_GROW_OPTIONS: dict[str, tuple[tuple[object, ...], int, str]] = {
    "nothing": ((), 2, f"error: {NOTHING_TO_DO}"),
    "only a freeze": (("--freeze", "old"), 2, f"error: {NOTHING_TO_DO}"),
    "only a script": (("--script", 0), 2, f"error: {NOTHING_TO_DO}"),
    "only an init": (("--init", "near=f1"), 2, f"error: {NOTHING_TO_DO}"),
    "unchanged iterations": (("--iterations", 2), 2, f"error: {NOTHING_TO_DO}"),
    "an unknown function": (("--remove", "f9"), 2, f"error: f9: {FUNCTION_NAMES_HINT}"),
    "an invalid function name": (("--remove", "f1,two"), 2, f"error: two: {FUNCTION_NAMES_HINT}"),
    "the last function": (
        ("--remove", "f0,f1,f2"),
        2,
        "error: script 0 would lose f0 to f2, all that it began with; at least one has to stay",
    ),
    "near an unknown function": (("--add", 1, "--init", "near=f9"), 2, f"error: f9: {FUNCTION_NAMES_HINT}"),
    "near without a function": (("--add", 1, "--init", "near"), 2, f"error: --init near: {INIT_HINT}"),
    "near an empty name": (("--add", 1, "--init", "near="), 2, f"error: --init near=: {INIT_HINT}"),
    "an unknown init": (("--add", 1, "--init", "far=f1"), 2, f"error: --init far=f1: {INIT_HINT}"),
    "a script number too large": (
        ("--add", 1, "--script", 1),
        2,
        "error: --script 1: this model has 1 script, counted from 0",
    ),
    "a negative script number": (
        ("--add", 1, "--script", -1),
        2,
        "error: --script -1: this model has 1 script, counted from 0",
    ),
    "a task without a number": (("--tasks", "letters"), 2, f"error: --tasks letters: {NEW_TASK_HINT}"),
    "a task without classes": (("--tasks", "letters:0"), 2, f"error: --tasks letters:0: {NEW_TASK_HINT}"),
    "a task without a name": (("--tasks", ":3"), 2, f"error: --tasks :3: {NEW_TASK_HINT}"),
    "a task twice": (("--tasks", "a:2,a:3"), 2, f"error: --tasks a:3: {NEW_TASK_HINT}"),
    "an existing task": (("--tasks", "digits:3"), 2, "error: --tasks digits: the model has this task already"),
    "a task that the head rejects": (("--tasks", "a:1"), 3, "a has one class, so there is nothing to classify"),
    "an override of the model": (("model.width=8", "--add", 1), 2, f"error: model.width=8: {MODEL_OVERRIDE_HINT}"),
    "an override of the seed": (("seed=4", "--add", 1), 2, f"error: seed=4: {MODEL_OVERRIDE_HINT}"),
    "a wrong override": (("train.steps=x", "--add", 1), 3, "train.steps: must be a whole number, not 'x'"),
    "an unknown body": (("--add", 1, "--body", "nobody"), 3, "error: model.body: there is no body `nobody`"),
    "a wrong option of a body": (
        ("--add", 1, "--body", "{use: lines_of_code, lines: 0}"),
        3,
        "model.body.lines: must be at least 1, not 0",
    ),
    "no new functions": (("--add", 0), 2, "error: Invalid value for '--add': 0 is not in the range x>=1."),
    "no iterations": (("--iterations", 0), 2, "error: Invalid value for '--iterations': 0 is not in the range x>=1."),
    "an unknown freeze": (
        ("--add", 1, "--freeze", "new"),
        2,
        "error: Invalid value for '--freeze': 'new' is not one of 'old', 'none', 'all-but-routing'.",
    ),
    "a merge with an absent checkpoint": (("--merge", "none"), 6, f"error: none: {NO_CHECKPOINT_HINT}"),
    "a merge of an unknown function": (("--merge", "run:f9"), 2, f"error: f9: {FUNCTION_NAMES_HINT}"),
    "an absent file": (
        ("--import", "none.ni"),
        6,
        "error: none.ni: cannot be read: No such file or directory; name another file",
    ),
    "a folder": (("--import", "run"), 6, "error: run: cannot be read: Is a directory; name another file"),
    "a file of a different format": (
        ("--import", "small.yaml"),
        6,
        "error: small.yaml: is not a file of `ni export` (",
    ),
}


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run."""
    folder = tmp_path_factory.mktemp("trained")
    train(load_small_recipe(folder, "train.steps=2"), folder / "run")
    return folder / "run"


@pytest.fixture
def run_copy(trained_run: Path, small_recipe_dir: Path) -> Path:
    """Copies the trained run to the working folder."""
    return Path(shutil.copytree(trained_run, small_recipe_dir / "run"))


def read_all_files(folder: Path) -> dict[str, bytes]:
    """Reads all files in a folder and its subfolders."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", INVALID_GROW_OPTIONS)
def test_invalid_options(name: str, ni: RunNi, run_copy: Path) -> None:
    """Each error has an exit code and a message, and no file is written."""
    arguments, code, text = INVALID_GROW_OPTIONS[name]
    before = read_all_files(run_copy.parent)
    result = ni("grow", "run", *arguments, "-o", "out")
    assert (result.code, result.out) == (code, "")
    assert text in result.err
    assert read_all_files(run_copy.parent) == before
    assert {path.name for path in run_copy.parent.iterdir()} == {"run", "small.yaml"}


def test_output_must_not_exist(ni: RunNi, run_copy: Path) -> None:
    """Existing files are not changed, and --output is required."""
    before = read_all_files(run_copy.parent)
    for place in ("run", "small.yaml"):
        result = ni("grow", "run", "--add", 1, "-o", place)
        assert (result.code, result.err) == (2, f"error: {place}: exists already; name another folder with -o\n")
        result = ni("export", "run", "--functions", "f1", "-o", place)
        assert (result.code, result.err) == (2, f"error: {place}: exists already; name another file with -o\n")
    assert ni("grow", "run", "--add", 1).err.startswith("error: Missing option '-o' / '--output'.")
    assert ni("grow", "none", "--add", 1, "-o", "out")[::2] == (6, f"error: none: {NO_CHECKPOINT_HINT}\n")
    assert read_all_files(run_copy.parent) == before


def test_export_requirements(ni: RunNi, run_copy: Path) -> None:
    message = "error: give exactly one of --functions and --delta, which select what to export\n"
    for arguments in ((), ("--functions", "f1", "--delta", "run")):
        assert ni("export", "run", *arguments, "-o", "file")[::2] == (2, message)
    assert ni("export", "run", "--functions", "f9", "-o", "file").err == f"error: f9: {FUNCTION_NAMES_HINT}\n"
    assert ni("export", "run", "--delta", "none", "-o", "file").err == f"error: none: {NO_CHECKPOINT_HINT}\n"
    assert not Path("file").exists()


def test_documents(ni: RunNi, run_copy: Path) -> None:
    """The JSON documents of growth, of an export, and of an import."""
    document = ni("grow", "run", "--add", 2, "--init", "near=f1", "-o", "grown", "--json").json
    # Each function has a code, a signature and a gate.
    assert document["parameters"]["after"] - document["parameters"]["before"] == 2 * (5 + 4 + 1)
    assert document["run"] == "grown"
    assert document["checkpoint"] == "grown/checkpoints/step-2"
    assert document["functions"] == [[3, 5]]
    assert document["change"]["computed"] == 0
    assert [(added["script"], added["function"]) for added in document["added"]] == [(0, 3), (0, 4)]
    assert "held_out" not in document
    assert ni("verify", "grown").code == 0
    for name, arguments in {"f1.ni": ("run", "--functions", "f1"), "d.ni": ("grown", "--delta", "run")}.items():
        document = ni("export", *arguments, "-o", name, "--json").json
        assert document["file"] == name
        assert document["bytes"] == Path(name).stat().st_size
        assert document["tensors"] == len(load_export(Path(name)).tensors)
    assert ni("grow", "run", "--import", "f1.ni", "-o", "imported", "--json").json["functions"] == [[3, 4]]
    assert ni("grow", "run", "--import", "d.ni", "-o", "whole", "--json").json["functions"] == [[3, 5]]
    assert sorted(ni("grow", "run", "--remove", "f1", "-o", "less", "--json").json["held_out"]) == [
        "test/accuracy",
        "test/loss",
    ]


def test_router_without_growth(install: InstallDistribution, ni: RunNi, small_recipe_dir: Path) -> None:  # noqa: F811
    """A router that fixes the number of functions per element would take elements away from existing functions."""
    install("ni_ranks", RANK_ROUTER_SOURCE, {"router": {"ranks": "ni_ranks:Ranks"}})
    assert ni("train", "small.yaml", "model.router=ranks", "train.steps=1", "--output", "run").code == 0
    result = ni("grow", "run", "--add", 1, "-o", "out")
    assert result.code == 3
    assert "the router, ranks, fixes how many functions an element gets, so none can be added" in result.err
    assert result.err.endswith("  help: use a router whose compatibilities are free, as `kernel`\n")
    assert not Path("out").exists()


def test_files_that_do_not_fit(ni: RunNi, run_copy: Path) -> None:
    """Functions of a different width, a delta of a different base, and incomplete files end with exit code 6."""

    def import_error(base: str, file: str) -> str:
        result = ni("grow", base, "--import", file, "-o", "out")
        assert (result.code, result.out) == (6, "")
        assert not Path("out").exists()
        return result.err

    assert ni("train", "small.yaml", "model.width=14", "train.steps=1", "--output", "wide").code == 0
    for name, arguments in {
        "wide.ni": ("wide", "--functions", "f0"),
        "f1.ni": ("run", "--functions", "f1"),
        "d.ni": ("wide", "--delta", "run"),
    }.items():
        assert ni("export", *arguments, "-o", name).code == 0
    assert import_error("run", "wide.ni") == (
        "error: wide.ni: its functions have a width of 14, those of this model 12; only functions of equal sizes can be "
        "imported\n"
    )
    delta, functions = load_export(Path("d.ni")), load_export(Path("f1.ni"))
    assert isinstance(delta, WeightDelta)
    assert isinstance(functions, FunctionBundle)
    assert import_error("wide", "d.ni") == (
        f"error: d.ni: is a delta of another checkpoint, whose weights have the checksum {delta.base[:12]}..., not of "
        "wide/checkpoints/step-1; name that one\n"
    )
    key = next(iter(delta.rows))
    remaining = {name: value for name, value in delta.tensors.items() if name != key}
    save_export(Path("lacking.ni"), evolve(delta, tensors=remaining))
    assert import_error("run", "lacking.ni") == f"error: lacking.ni: lacks {key}; get the file again\n"
    save_export(Path("rows.ni"), evolve(delta, rows={**delta.rows, key: [99] * len(delta.rows[key])}))
    assert import_error("run", "rows.ni") == f"error: rows.ni: the rows of {key} do not fit it; get the file again\n"
    save_export(Path("large.ni"), evolve(delta, shapes={**delta.shapes, key: [2**50, 5]}))
    assert import_error("run", "large.ni") == (
        "error: large.ni: its tensors are not those of its own recipe's model; get the file again\n"
    )
    remaining = {name: value for name, value in functions.tensors.items() if name != "code"}
    save_export(Path("codeless.ni"), evolve(functions, tensors=remaining))
    assert import_error("run", "codeless.ni") == "error: codeless.ni: lacks its functions' code; get the file again\n"
    content = Path("d.ni").read_bytes()
    Path("half.ni").write_bytes(content[: len(content) // 2])
    assert import_error("run", "half.ni").startswith("error: half.ni: is not a file of `ni export` (")
    result = ni("grow", "run", "--import", "d.ni", "--add", 1, "-o", "out")
    assert result.code == 2
    assert "d.ni: is a delta, which makes a full model of its base; give no other option with it" in result.err


def test_absent_plugin(swirl_distribution: SwirlDistribution, ni: RunNi, small_recipe_dir: Path) -> None:  # noqa: F811
    """If a plugin of a file or a checkpoint is not installed, the error names the command that installs it."""
    swirl_distribution.reinstall()
    assert ni("train", "small.yaml", "train.steps=1", "--output", "run").code == 0
    assert ni("train", "small.yaml", "model.body=swirl", "train.steps=1", "--output", "swirled").code == 0
    assert ni("export", "swirled", "--functions", "f0", "-o", "f0.ni").code == 0
    swirl_distribution.uninstall()
    for arguments in (("run", "--import", "f0.ni"), ("swirled", "--add", 1), ("run", "--merge", "swirled")):
        result = ni("grow", *arguments, "-o", "out")
        assert result.code == 4
        assert not Path("out").exists()
        assert "body `swirl` came from ni-swirl 0.1, which is not installed here\n" in result.err
        assert result.err.endswith("  help: pip install 'ni-swirl==0.1'\n")


def test_damaged_checkpoint(ni: RunNi, run_copy: Path) -> None:
    """Damage to any file of the checkpoint is detected, and nothing is written."""
    for file in sorted((run_copy / "checkpoints" / "step-2").iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        result = ni("grow", "run", "--add", 1, "-o", "out")
        assert (result.code, result.out) == (6, "")
        assert f"{file.parent.relative_to(run_copy.parent)}" in result.err
        assert {path.name for path in run_copy.parent.iterdir()} == {"run", "small.yaml"}
        file.write_bytes(content)
    assert ni("grow", "run", "--add", 1, "-o", "out").code == 0
