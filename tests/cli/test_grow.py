"""`ni grow` and `ni export`: what they print, and what they say of each thing that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from attrs import evolve

from ni_framework.growth.export import Delta, Functions, read_parcel, write_parcel
from ni_framework.training.train import train
from tests.checkpoint.test_golden_check import Swirl, swirl  # noqa: F401  a fixture
from tests.cli.conftest import Ni
from tests.helpers.distributions import Install, install  # noqa: F401  a fixture
from tests.helpers.small_recipe import small_recipe

NOTHING = "nothing to do; say what: --add, --remove, --tasks, --iterations, --merge or --import"
NAMES = "script 0 has the functions f0 to f2; name some of these"
CHANGED = "growth changes the model; beside it only train, data and engine may change here"
NEW_TASK = "expected a new name and its number of classes, as in letters:26"
INIT = "expected random, near=F,... or mirror=F,..., as in near=f0,f1"
NONE = "there is no such checkpoint; name a checkpoint folder or a run folder"

RANKS = """
from ni_framework.contracts import Router
class Ranks(Router):
    grows = False
    def __init__(self, config, sizes, build):
        super().__init__()
    def forward(self, type_BVT, signature_UT, context):
        return (signature_UT @ type_BVT.transpose(1, 2)).softmax(dim=1)
"""

# Arguments after `ni grow run`, exit code, and what the error says.
REFUSED: dict[str, tuple[tuple[object, ...], int, str]] = {
    "nothing": ((), 2, f"error: {NOTHING}"),
    "only a freeze": (("--freeze", "old"), 2, f"error: {NOTHING}"),
    "only a script": (("--script", 0), 2, f"error: {NOTHING}"),
    "a beginning of nothing": (("--init", "near=f1"), 2, f"error: {NOTHING}"),
    "iterations as they are": (("--iterations", 2), 2, f"error: {NOTHING}"),
    "an unknown function": (("--remove", "f9"), 2, f"error: f9: {NAMES}"),
    "a name that is none": (("--remove", "f1,two"), 2, f"error: two: {NAMES}"),
    "the last function": (
        ("--remove", "f0,f1,f2"),
        2,
        "error: script 0 would lose f0 to f2, all that it began with; at least one has to stay",
    ),
    "near an unknown function": (("--add", 1, "--init", "near=f9"), 2, f"error: f9: {NAMES}"),
    "near without a function": (("--add", 1, "--init", "near"), 2, f"error: --init near: {INIT}"),
    "near an empty name": (("--add", 1, "--init", "near="), 2, f"error: --init near=: {INIT}"),
    "an unknown beginning": (("--add", 1, "--init", "far=f1"), 2, f"error: --init far=f1: {INIT}"),
    "a script too far": (
        ("--add", 1, "--script", 1),
        2,
        "error: --script 1: this model has 1 script, counted from 0",
    ),
    "a script before the first": (
        ("--add", 1, "--script", -1),
        2,
        "error: --script -1: this model has 1 script, counted from 0",
    ),
    "a task without a number": (("--tasks", "letters"), 2, f"error: --tasks letters: {NEW_TASK}"),
    "a task of no class": (("--tasks", "letters:0"), 2, f"error: --tasks letters:0: {NEW_TASK}"),
    "a task without a name": (("--tasks", ":3"), 2, f"error: --tasks :3: {NEW_TASK}"),
    "a task twice": (("--tasks", "a:2,a:3"), 2, f"error: --tasks a:3: {NEW_TASK}"),
    "a task that is there": (("--tasks", "digits:3"), 2, "error: --tasks digits: the model has this task already"),
    "a task that the head refuses": (("--tasks", "a:1"), 3, "a has one class, so that nothing is told apart"),
    "the model by an override": (("model.width=8", "--add", 1), 2, f"error: model.width=8: {CHANGED}"),
    "the seed": (("seed=4", "--add", 1), 2, f"error: seed=4: {CHANGED}"),
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
    "a merge with none": (("--merge", "none"), 6, f"error: none: {NONE}"),
    "a merge of an unknown function": (("--merge", "run:f9"), 2, f"error: f9: {NAMES}"),
    "an absent file": (
        ("--import", "none.ni"),
        6,
        "error: none.ni: cannot be read: No such file or directory; name another file",
    ),
    "a folder": (("--import", "run"), 6, "error: run: cannot be read: Is a directory; name another file"),
    "a file of something else": (("--import", "small.yaml"), 6, "error: small.yaml: is no file of `ni export` ("),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run."""
    folder = tmp_path_factory.mktemp("trained")
    train(small_recipe(folder, "train.steps=2"), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, small: Path) -> Path:
    """A copy of it in the folder to work in."""
    return Path(shutil.copytree(trained, small / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, to the last byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be(name: str, ni: Ni, run: Path) -> None:
    """Each has an exit code and a text, and leaves nothing behind."""
    arguments, code, text = REFUSED[name]
    before = contents(run.parent)
    done = ni("grow", "run", *arguments, "-o", "out")
    assert (done.code, done.out) == (code, "")
    assert text in done.err
    assert contents(run.parent) == before
    assert {path.name for path in run.parent.iterdir()} == {"run", "small.yaml"}


def test_output_is_new(ni: Ni, run: Path) -> None:
    """Whatever lies there stays; without a name there is none."""
    before = contents(run.parent)
    for place in ("run", "small.yaml"):
        done = ni("grow", "run", "--add", 1, "-o", place)
        assert (done.code, done.err) == (2, f"error: {place}: is there already; name another folder with -o\n")
        done = ni("export", "run", "--functions", "f1", "-o", place)
        assert (done.code, done.err) == (2, f"error: {place}: is there already; name another file with -o\n")
    assert ni("grow", "run", "--add", 1).err.startswith("error: Missing option '-o' / '--output'.")
    assert ni("grow", "none", "--add", 1, "-o", "out")[::2] == (6, f"error: none: {NONE}\n")
    assert contents(run.parent) == before


def test_export_says_what_it_wants(ni: Ni, run: Path) -> None:
    said = "error: say what to export: --functions or --delta, one of them\n"
    for arguments in ((), ("--functions", "f1", "--delta", "run")):
        assert ni("export", "run", *arguments, "-o", "file")[::2] == (2, said)
    assert ni("export", "run", "--functions", "f9", "-o", "file").err == f"error: f9: {NAMES}\n"
    assert ni("export", "run", "--delta", "none", "-o", "file").err == f"error: none: {NONE}\n"
    assert not Path("file").exists()


def test_documents(ni: Ni, run: Path) -> None:
    """What `--json` prints of growth, of an export, and of an import."""
    found = ni("grow", "run", "--add", 2, "--init", "near=f1", "-o", "grown", "--json").json
    assert found["parameters"]["after"] - found["parameters"]["before"] == 2 * (5 + 4 + 1)  # code, signature, gate
    assert (found["run"], found["checkpoint"]) == ("grown", "grown/checkpoints/step-2")
    assert found["functions"] == [[3, 5]]
    assert found["change"]["computed"] == 0
    assert [(of["script"], of["function"]) for of in found["added"]] == [(0, 3), (0, 4)]
    assert "held_out" not in found
    assert ni("verify", "grown").code == 0
    for name, arguments in {"f1.ni": ("run", "--functions", "f1"), "d.ni": ("grown", "--delta", "run")}.items():
        found = ni("export", *arguments, "-o", name, "--json").json
        assert (found["file"], found["bytes"]) == (name, Path(name).stat().st_size)
        assert found["tensors"] == len(read_parcel(Path(name)).tensors)
    assert ni("grow", "run", "--import", "f1.ni", "-o", "imported", "--json").json["functions"] == [[3, 4]]
    assert ni("grow", "run", "--import", "d.ni", "-o", "whole", "--json").json["functions"] == [[3, 5]]
    assert sorted(ni("grow", "run", "--remove", "f1", "-o", "less", "--json").json["held_out"]) == [
        "test/accuracy",
        "test/loss",
    ]


def test_a_router_that_does_not_grow(install: Install, ni: Ni, small: Path) -> None:  # noqa: F811
    """One that ranks functions would take elements away from those there are."""
    install("ni_ranks", RANKS, {"router": {"ranks": "ni_ranks:Ranks"}})
    assert ni("train", "small.yaml", "model.router=ranks", "train.steps=1", "--output", "run").code == 0
    done = ni("grow", "run", "--add", 1, "-o", "out")
    assert done.code == 3
    assert "the router, ranks, fixes how many functions an element gets, so none can be added" in done.err
    assert done.err.endswith("  help: use a router whose compatibilities are free, as `kernel`\n")
    assert not Path("out").exists()


def test_files_that_do_not_fit(ni: Ni, run: Path) -> None:
    """Functions of another width, a delta of another base, and files that lack something; each ends with 6."""

    def said(base: str, file: str, *more: object) -> str:
        done = ni("grow", base, "--import", file, *more, "-o", "out")
        assert (done.code, done.out, Path("out").exists()) == (6, "", False)
        return done.err

    assert ni("train", "small.yaml", "model.width=14", "train.steps=1", "--output", "wide").code == 0
    for name, arguments in {
        "wide.ni": ("wide", "--functions", "f0"),
        "f1.ni": ("run", "--functions", "f1"),
        "d.ni": ("wide", "--delta", "run"),
    }.items():
        assert ni("export", *arguments, "-o", name).code == 0
    assert said("run", "wide.ni") == (
        "error: wide.ni: its functions have a width of 14, those of this model 12; only functions of equal sizes can be "
        "brought in\n"
    )
    delta, functions = read_parcel(Path("d.ni")), read_parcel(Path("f1.ni"))
    assert isinstance(delta, Delta)
    assert isinstance(functions, Functions)
    assert said("wide", "d.ni") == (
        f"error: d.ni: is a delta of another checkpoint, whose weights have the checksum {delta.base[:12]}..., not of "
        "wide/checkpoints/step-1; name that one\n"
    )
    key = next(iter(delta.rows))
    kept = {name: value for name, value in delta.tensors.items() if name != key}
    write_parcel(Path("lacking.ni"), evolve(delta, tensors=kept))
    assert said("run", "lacking.ni") == f"error: lacking.ni: lacks {key}; get the file again\n"
    write_parcel(Path("rows.ni"), evolve(delta, rows={**delta.rows, key: [99] * len(delta.rows[key])}))
    assert said("run", "rows.ni") == f"error: rows.ni: the rows of {key} do not fit it; get the file again\n"
    write_parcel(Path("large.ni"), evolve(delta, shapes={**delta.shapes, key: [2**50, 5]}))
    assert said("run", "large.ni") == (
        "error: large.ni: its tensors are not those of its own recipe's model; get the file again\n"
    )
    kept = {name: value for name, value in functions.tensors.items() if name != "code"}
    write_parcel(Path("codeless.ni"), evolve(functions, tensors=kept))
    assert said("run", "codeless.ni") == "error: codeless.ni: lacks its functions' code; get the file again\n"
    content = Path("d.ni").read_bytes()
    Path("half.ni").write_bytes(content[: len(content) // 2])
    assert said("run", "half.ni").startswith("error: half.ni: is no file of `ni export` (")
    done = ni("grow", "run", "--import", "d.ni", "--add", 1, "-o", "out")
    assert done.code == 2
    assert "d.ni: is a delta, which makes a whole model of its base; give no other option with it" in done.err


def test_an_absent_plugin(swirl: Swirl, ni: Ni, small: Path) -> None:  # noqa: F811
    """Of a file or of a checkpoint: how to install it stands in the error."""
    swirl.put()
    assert ni("train", "small.yaml", "train.steps=1", "--output", "run").code == 0
    assert ni("train", "small.yaml", "model.body=swirl", "train.steps=1", "--output", "swirled").code == 0
    assert ni("export", "swirled", "--functions", "f0", "-o", "f0.ni").code == 0
    swirl.remove()
    for arguments in (("run", "--import", "f0.ni"), ("swirled", "--add", 1), ("run", "--merge", "swirled")):
        done = ni("grow", *arguments, "-o", "out")
        assert (done.code, Path("out").exists()) == (4, False)
        assert "body `swirl` came from ni-swirl 0.1, which is not installed here\n" in done.err
        assert done.err.endswith("  help: pip install 'ni-swirl==0.1'\n")


def test_a_damaged_checkpoint(ni: Ni, run: Path) -> None:
    """Any of its files is found, and nothing is made of it."""
    for file in sorted((run / "checkpoints" / "step-2").iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        done = ni("grow", "run", "--add", 1, "-o", "out")
        assert (done.code, done.out) == (6, "")
        assert f"{file.parent.relative_to(run.parent)}" in done.err
        assert {path.name for path in run.parent.iterdir()} == {"run", "small.yaml"}
        file.write_bytes(content)
    assert ni("grow", "run", "--add", 1, "-o", "out").code == 0
