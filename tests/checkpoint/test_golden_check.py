"""Proof on loading: silent where nothing has changed, told where it makes no difference, refused where it does."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from ni_framework import load_model
from ni_framework.checkpoint import golden_check
from ni_framework.checkpoint.lockfile import lock_of, source_digest
from ni_framework.errors import CheckpointError, PluginError, RecipeError
from ni_framework.registry import installed
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import Warnings
from tests.cli.conftest import Ni, ni  # noqa: F401  a fixture
from tests.helpers.distributions import Install, install  # noqa: F401  a fixture
from tests.helpers.small_recipe import rewritten, small_recipe

SWIRL = """
from torch import nn
from ni_framework.contracts import Body
from ni_framework.options import config, option
from ni_swirl.helper import changed
class Swirl(Body):
    @config
    class Config:
        strength: float = option(default=1.0, help="of it")
    def __init__(self, config, sizes, build):
        super().__init__()
        self.shift = nn.Linear(sizes.code, sizes.width)
    def prepare(self, code_UC, num_elements):
        return self.shift(code_UC)
    def forward(self, x_BVD, shift_UD, pairs):
        return changed(pairs.share(x_BVD) + pairs.spread(shift_UD))
"""
HELPER = "def changed(x):\n    return x\n"
OTHERWISE = "def changed(x):\n    return 2 * x\n"
COMMENTED = f"# A comment.\n{HELPER}"


class Swirl:
    """A distribution with a package, whose helper can be changed."""

    def __init__(self, install: Install, folder: Path) -> None:  # noqa: F811
        self.install, self.folder = install, folder

    def put(self, helper: str = HELPER, version: str = "0.1", body: str = SWIRL) -> None:
        """Installs a version of it in place of the one before."""
        self.remove()
        self.site = self.install("ni_swirl", "", {"body": {"swirl": "ni_swirl.body:Swirl"}}, version=version)
        (self.site / "ni_swirl.py").unlink()
        package = self.site / "ni_swirl"
        package.mkdir()
        for name, text in {"__init__": "", "helper": helper, "body": body}.items():
            (package / f"{name}.py").write_text(text)

    def remove(self) -> None:
        """Uninstalls it."""
        from ni_framework.registry.resolve import forget

        if hasattr(self, "site"):
            shutil.rmtree(self.site)
        for name in [name for name in sys.modules if name.partition(".")[0] == "ni_swirl"]:
            del sys.modules[name]
        sys.path_importer_cache.clear()
        forget()


@pytest.fixture
def swirl(install: Install, tmp_path: Path) -> Swirl:  # noqa: F811
    return Swirl(install, tmp_path)


@pytest.fixture
def run(swirl: Swirl, tmp_path: Path) -> Path:
    """A run of six steps with the distribution, version 0.1."""
    swirl.put()
    train(small_recipe(tmp_path, "model.body=swirl"), tmp_path / "run", every=3)
    return tmp_path / "run"


def lock_body(run: Path) -> str:
    return f"{run}/checkpoints/step-6"


def test_unchanged_is_silent(run: Path, swirl: Swirl, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is computed; also with another version of the same source."""
    monkeypatch.setattr(golden_check, "golden_difference", lambda *_: pytest.fail("computed"))
    load_model(run)
    swirl.put(version="0.2")
    load_model(run)


def test_a_change_without_effect_is_told(run: Path, swirl: Swirl, ni: Ni) -> None:  # noqa: F811
    """In one line: by a Python warning, on stderr, or with the run's warnings."""
    swirl.put(COMMENTED, "0.2")
    said = f"{lock_body(run)}: its model answers as it did, though code has changed since it was saved: " + (
        "body `swirl` of ni-swirl 0.1, now ni-swirl 0.2"
    )
    with pytest.warns(UserWarning, match="answers as it did") as caught:
        load_model(run)
    assert [str(warning.message) for warning in caught] == [said]
    assert caught[0].filename == __file__
    done = ni("eval", run, "--json")
    assert (done.code, done.err) == (0, f"{said}\n")
    assert done.json["metrics"]["test/accuracy"] > 0
    heard = Warnings()
    resume(run / "checkpoints" / "step-3", run=run.with_name("other"), listeners=[heard])
    assert heard.messages[0] == said.replace("step-6", "step-3")
    assert len(heard.messages) == 3  # with what else the lock says: version and checksum


REFUSED = (
    "{folder}: its model is not the one that was saved: code has changed since then\n"
    "  model.body: body `swirl` was of ni-swirl 0.1, and {now}\n"
    "  {difference}\n"
    "  help: use what it was saved with: pip install {force}'ni-swirl==0.1'; or take its weights into a new run with the "
    "code of now: ni train RECIPE --from {folder}"
)


def test_a_change_with_effect_is_refused(run: Path, swirl: Swirl, ni: Ni) -> None:  # noqa: F811
    """By `load_model`, `ni eval`, whatever the overrides, and `--resume`; a changed helper is enough."""
    swirl.put(OTHERWISE, "0.2")
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    text = str(caught.value)
    difference = text.splitlines()[2].strip()
    assert text == REFUSED.format(folder=lock_body(run), now="is of ni-swirl 0.2 now", difference=difference, force="")
    assert difference.startswith("golden batch, digits: outputs differ by up to ")
    assert ", the largest of them was " in difference
    for arguments in (("eval", run), ("eval", run, "model.iterations=3"), ("eval", run, "model.body.strength=2")):
        assert ni(*arguments)[::2] == (6, f"error: {text}\n")
    with pytest.raises(CheckpointError, match="step-3: its model is not the one that was saved"):
        resume(run / "checkpoints" / "step-3", run=run.with_name("other"))


def test_a_change_in_place_is_refused(run: Path, swirl: Swirl) -> None:
    """As when one works on the code: the version says nothing."""
    swirl.put(OTHERWISE)
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    difference = str(caught.value).splitlines()[2].strip()
    assert str(caught.value) == REFUSED.format(
        folder=lock_body(run), now="is still, with other source", difference=difference, force="--force-reinstall "
    )


def test_overrides_do_not_count(run: Path, swirl: Swirl, ni: Ni) -> None:  # noqa: F811
    """What is proven is the model that was saved, not the one that is asked for."""
    swirl.put(COMMENTED, "0.2")
    done = ni("eval", run, "model.iterations=5")
    assert done.code == 0
    assert "its model answers as it did" in done.err


FITTING = {
    "weights": (
        SWIRL.replace("self.shift", "self.moved"),
        "{folder}: does not fit the model: it lacks scripts.0.body.moved.weight (and 3 more); use a "
        "recipe with the same model as the checkpoint's",
    ),
    "options": (
        SWIRL.replace("strength:", "power:"),
        "its recipe does not fit any more: model.body.strength: unknown key of body `swirl`",
    ),
}


@pytest.mark.parametrize("name", FITTING)
def test_code_that_does_not_fit_is_named(name: str, run: Path, swirl: Swirl) -> None:
    """Rather than a key that nobody has written."""
    body, difference = FITTING[name]
    difference = difference.format(folder=lock_body(run))
    swirl.put(version="0.2", body=body)
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    assert str(caught.value) == REFUSED.format(
        folder=lock_body(run), now="is of ni-swirl 0.2 now", difference=difference, force=""
    )


def test_code_that_fails_is_named(run: Path, swirl: Swirl) -> None:
    swirl.put("def changed(x):\n    raise ValueError('no')\n", "0.2")
    with pytest.raises(PluginError, match=r"body `swirl` of ni-swirl 0.2 .* failed in changed \(helper.py, line 2\)"):
        load_model(run)


def test_an_absent_plugin_is_to_be_installed(run: Path, swirl: Swirl, ni: Ni) -> None:  # noqa: F811
    """The command stands in the error, for every verb that loads; weights alone need no plugin."""
    swirl.remove()
    for arguments in (("eval", run), ("verify", run), ("train", "--resume", run / "checkpoints" / "step-3")):
        done = ni(*arguments)
        assert done.code == 4
        assert "model.body: body `swirl` came from ni-swirl 0.1, which is not installed here\n" in done.err
        assert done.err.endswith("  help: pip install 'ni-swirl==0.1'\n")
    assert ni("eval", run, "model.body=nobody").code == 3


def test_weights_alone_are_taken_without_proof(run: Path, swirl: Swirl, tmp_path: Path) -> None:
    """It is told that their code was another."""
    swirl.put(OTHERWISE, "0.2")
    heard = Warnings()
    recipe = small_recipe(tmp_path, "model.body=swirl", "train.steps=1")
    train(recipe, tmp_path / "next", start=str(run), listeners=[heard])
    assert [message for message in heard.messages if "weights" in message] == [
        "begins with weights that other code has trained: body `swirl` of ni-swirl 0.1, now ni-swirl 0.2"
    ]
    swirl.put()
    heard = Warnings()
    train(
        small_recipe(tmp_path, "model.body=swirl", "train.steps=1"),
        tmp_path / "third",
        start=str(run),
        listeners=[heard],
    )
    assert not any("weights" in message for message in heard.messages)


def test_every_file_of_a_plugin_counts(run: Path, swirl: Swirl) -> None:
    """Its name as well as its contents; one that is no source does not."""
    entry = installed().find("body", "swirl")
    first = source_digest(entry)
    assert json.loads((run / "lock.json").read_text())["components"]["model.body"]["source_sha256"] == first
    package = swirl.site / "ni_swirl"
    (package / "notes.txt").write_text("")
    assert source_digest(entry) == first
    (package / "sub").mkdir()
    (package / "sub" / "more.py").write_text("")
    second = source_digest(entry)
    (package / "sub" / "more.py").rename(package / "sub" / "less.py")
    assert len({first, second, source_digest(entry)}) == 3


ESCAPING = {
    "components": {"model.body": {"component": "body/swirl", "distribution": "x'; \x1b[2J", "version": "1"}},
}


def test_a_lock_that_says_little_proves_little(run: Path) -> None:
    """It is no reason to fail: the checkpoint's files are whole."""
    checkpoint = run / "checkpoints" / "step-6"
    for lock in ({}, {"components": []}, {"components": {"model.body": 3, "data": {"component": ["x"]}}}, ESCAPING):
        rewritten(checkpoint, "lock.json", json.dumps(lock).encode())
        load_model(checkpoint)
    rewritten(checkpoint, "lock.json", b"[]")
    with pytest.raises(CheckpointError, match=r"lock.json: is no lock \(it is no mapping\); use another checkpoint"):
        load_model(checkpoint)


def test_the_framework_s_own_are_told_by_their_file(tmp_path: Path) -> None:
    """As they always were, so that earlier checkpoints load silently; another file runs the golden batch."""
    train(small_recipe(tmp_path, "train.steps=1"), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-1"
    lock = json.loads((checkpoint / "lock.json").read_text())
    assert lock["components"] == lock_of(small_recipe(tmp_path, "train.steps=1"), None)["components"]
    load_model(checkpoint)
    lock["components"]["model.router"]["source_sha256"] = "0" * 64
    rewritten(checkpoint, "lock.json", json.dumps(lock).encode())
    with pytest.warns(UserWarning, match=r"router `kernel` of ni-framework 0.1.0, now the same version$"):
        load_model(checkpoint)
    golden = load_file(checkpoint / "golden.safetensors")
    golden["logits/digits"] = golden["logits/digits"] + torch.tensor(0.1)
    rewritten(checkpoint, "golden.safetensors", save(golden))
    with pytest.raises(CheckpointError, match=r"pip install --force-reinstall 'ni-framework==0\.1\.0'"):
        load_model(checkpoint)


def test_a_golden_batch_of_another_model(tmp_path: Path) -> None:
    """Proves nothing, and says so."""
    train(small_recipe(tmp_path, "train.steps=1"), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-1"
    lock = json.loads((checkpoint / "lock.json").read_text())
    lock["components"]["model.router"]["source_sha256"] = None
    rewritten(checkpoint, "lock.json", json.dumps(lock).encode())
    rewritten(checkpoint, "golden.safetensors", save({"inputs": torch.zeros(2, 3, 8, 8)}))
    with pytest.raises(
        CheckpointError, match=r"\n  \S+golden.safetensors: holds no inputs for this model; use another checkpoint\n"
    ):
        load_model(checkpoint)


def test_a_recipe_of_its_own_mistakes_is_a_recipe_s_fault(run: Path, ni: Ni) -> None:  # noqa: F811
    """Overrides are the caller's: exit code 3, as ever."""
    assert ni("eval", run, "model.widht=3").code == RecipeError.exit_code
