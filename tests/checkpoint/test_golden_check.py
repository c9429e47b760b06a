"""Checks on loading: silent if no code has changed, a message if outputs are unchanged, an error if they differ."""

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
from ni_framework.checkpoint.lockfile import build_lockfile, source_sha256
from ni_framework.errors import CheckpointError, PluginError, RecipeError
from ni_framework.registry import installed_catalog
from ni_framework.training.train import resume, train
from tests.checkpoint.test_resume import WarningCollector
from tests.cli.conftest import RunNi, ni  # noqa: F401  a fixture
from tests.helpers.distributions import InstallDistribution, install  # noqa: F401  a fixture
from tests.helpers.small_recipe import load_small_recipe, rewrite_checkpoint_file

SWIRL_SOURCE = """
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
        return changed(pairs.dispatch(x_BVD) + pairs.expand(shift_UD))
"""
HELPER_SOURCE = "def changed(x):\n    return x\n"
CHANGED_HELPER = "def changed(x):\n    return 2 * x\n"
COMMENTED_HELPER = f"# A comment.\n{HELPER_SOURCE}"


class SwirlDistribution:
    """A distribution with a package, of which versions with other source code can be installed."""

    def __init__(self, install: InstallDistribution, folder: Path) -> None:  # noqa: F811
        self.install, self.folder = install, folder

    def reinstall(self, helper: str = HELPER_SOURCE, version: str = "0.1", body: str = SWIRL_SOURCE) -> None:
        """Installs a version in place of the one before.

        Args:
            helper: The source of the module `helper`.
            version: The version of the distribution.
            body: The source of the module `body`.
        """
        self.uninstall()
        self.site = self.install("ni_swirl", "", {"body": {"swirl": "ni_swirl.body:Swirl"}}, version=version)
        (self.site / "ni_swirl.py").unlink()
        package = self.site / "ni_swirl"
        package.mkdir()
        for name, text in {"__init__": "", "helper": helper, "body": body}.items():
            (package / f"{name}.py").write_text(text)

    def uninstall(self) -> None:
        """Uninstalls the distribution."""
        from ni_framework.registry.resolve import reset_registry

        if hasattr(self, "site"):
            shutil.rmtree(self.site)
        for name in [name for name in sys.modules if name.partition(".")[0] == "ni_swirl"]:
            del sys.modules[name]
        sys.path_importer_cache.clear()
        reset_registry()


@pytest.fixture
def swirl_distribution(install: InstallDistribution, tmp_path: Path) -> SwirlDistribution:  # noqa: F811
    return SwirlDistribution(install, tmp_path)


@pytest.fixture
def run(swirl_distribution: SwirlDistribution, tmp_path: Path) -> Path:
    """A run of six steps with version 0.1 of the distribution."""
    swirl_distribution.reinstall()
    train(load_small_recipe(tmp_path, "model.body=swirl"), tmp_path / "run", checkpoint_every=3)
    return tmp_path / "run"


def last_checkpoint(run: Path) -> str:
    return f"{run}/checkpoints/step-6"


def test_unchanged_source_is_silent(
    run: Path, swirl_distribution: SwirlDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden batch is not computed, also for another version with the same source."""
    monkeypatch.setattr(golden_check, "compare_golden", lambda *_: pytest.fail("computed"))
    load_model(run)
    swirl_distribution.reinstall(version="0.2")
    load_model(run)


def test_change_without_effect_is_reported(run: Path, swirl_distribution: SwirlDistribution, ni: RunNi) -> None:  # noqa: F811
    """By one line: as a Python warning, on stderr, or as a warning of the run."""
    swirl_distribution.reinstall(COMMENTED_HELPER, "0.2")
    message = (
        f"{last_checkpoint(run)}: its model gives the same outputs as before, although code has changed since it was saved: "
        + ("body `swirl` of ni-swirl 0.1, now ni-swirl 0.2")
    )
    with pytest.warns(UserWarning, match="gives the same outputs") as caught:
        load_model(run)
    assert [str(warning.message) for warning in caught] == [message]
    assert caught[0].filename == __file__
    done = ni("eval", run, "--json")
    assert done.code == 0
    assert done.err == f"{message}\n"
    assert done.json["metrics"]["test/accuracy"] > 0
    collector = WarningCollector()
    resume(run / "checkpoints" / "step-3", run_dir=run.with_name("other"), listeners=[collector])
    assert collector.messages[0] == message.replace("step-6", "step-3")
    # The other two report the version and the checksum in the lockfile.
    assert len(collector.messages) == 3


CHANGED_MODEL_ERROR = (
    "{folder}: its model no longer gives the outputs that it gave when it was saved: code has changed since then\n"
    "  model.body: body `swirl` came from ni-swirl 0.1, {now}\n"
    "  {difference}\n"
    "  help: install what it was saved with: pip install {force}'ni-swirl==0.1'; or start a new run with the "
    "current code from its weights: ni train RECIPE --from {folder}"
)


def test_change_with_effect_is_rejected(run: Path, swirl_distribution: SwirlDistribution, ni: RunNi) -> None:  # noqa: F811
    """By `load_model`, by `ni eval` with any overrides, and by `--resume`, even if only a helper module has changed."""
    swirl_distribution.reinstall(CHANGED_HELPER, "0.2")
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    text = str(caught.value)
    difference = text.splitlines()[2].strip()
    assert text == CHANGED_MODEL_ERROR.format(
        folder=last_checkpoint(run), now="and comes from ni-swirl 0.2 now", difference=difference, force=""
    )
    assert difference.startswith("golden batch, digits: outputs differ by up to ")
    assert ", the largest of them was " in difference
    for arguments in (("eval", run), ("eval", run, "model.iterations=3"), ("eval", run, "model.body.strength=2")):
        assert ni(*arguments)[::2] == (6, f"error: {text}\n")
    with pytest.raises(CheckpointError, match="step-3: its model no longer gives the outputs"):
        resume(run / "checkpoints" / "step-3", run_dir=run.with_name("other"))


def test_change_with_the_same_version_is_rejected(run: Path, swirl_distribution: SwirlDistribution) -> None:
    """As happens during development, when the version stays the same."""
    swirl_distribution.reinstall(CHANGED_HELPER)
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    difference = str(caught.value).splitlines()[2].strip()
    assert str(caught.value) == CHANGED_MODEL_ERROR.format(
        folder=last_checkpoint(run),
        now="whose source code has changed",
        difference=difference,
        force="--force-reinstall ",
    )


def test_overrides_do_not_affect_the_golden_check(run: Path, swirl_distribution: SwirlDistribution, ni: RunNi) -> None:  # noqa: F811
    """The check is of the model that was saved, not of the one with overrides."""
    swirl_distribution.reinstall(COMMENTED_HELPER, "0.2")
    done = ni("eval", run, "model.iterations=5")
    assert done.code == 0
    assert "its model gives the same outputs as before" in done.err


INCOMPATIBLE_SOURCES = {
    "weights": (
        SWIRL_SOURCE.replace("self.shift", "self.renamed"),
        "{folder}: does not fit the model: it lacks scripts.0.body.renamed.weight (and 3 more); use a "
        "recipe with the same model as the checkpoint's",
    ),
    "options": (
        SWIRL_SOURCE.replace("strength:", "power:"),
        "its recipe is no longer valid: model.body.strength: unknown key of body `swirl`",
    ),
}


@pytest.mark.parametrize("name", INCOMPATIBLE_SOURCES)
def test_incompatible_code_is_named(name: str, run: Path, swirl_distribution: SwirlDistribution) -> None:
    """If new code does not accept the saved options or weights, the error names the code that has changed."""
    body, difference = INCOMPATIBLE_SOURCES[name]
    difference = difference.format(folder=last_checkpoint(run))
    swirl_distribution.reinstall(version="0.2", body=body)
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    assert str(caught.value) == CHANGED_MODEL_ERROR.format(
        folder=last_checkpoint(run), now="and comes from ni-swirl 0.2 now", difference=difference, force=""
    )


def test_failing_code_is_named(run: Path, swirl_distribution: SwirlDistribution) -> None:
    swirl_distribution.reinstall("def changed(x):\n    raise ValueError('no')\n", "0.2")
    with pytest.raises(PluginError, match=r"body `swirl` of ni-swirl 0.2 .* failed in changed \(helper.py, line 2\)"):
        load_model(run)


def test_missing_plugin_error_has_install_command(run: Path, swirl_distribution: SwirlDistribution, ni: RunNi) -> None:  # noqa: F811
    """For every command that loads a model; an unknown component in an override is an error of the recipe."""
    swirl_distribution.uninstall()
    for arguments in (("eval", run), ("verify", run), ("train", "--resume", run / "checkpoints" / "step-3")):
        done = ni(*arguments)
        assert done.code == 4
        assert "model.body: body `swirl` came from ni-swirl 0.1, which is not installed here\n" in done.err
        assert done.err.endswith("  help: pip install 'ni-swirl==0.1'\n")
    assert ni("eval", run, "model.body=nobody").code == 3


def test_init_from_checkpoint_skips_the_golden_check(
    run: Path, swirl_distribution: SwirlDistribution, tmp_path: Path
) -> None:
    """A warning reports that the weights were trained with other code."""
    swirl_distribution.reinstall(CHANGED_HELPER, "0.2")
    collector = WarningCollector()
    recipe = load_small_recipe(tmp_path, "model.body=swirl", "train.steps=1")
    train(recipe, tmp_path / "next", init_from=str(run), listeners=[collector])
    assert [message for message in collector.messages if "weights" in message] == [
        "starts from weights that were trained with other code: body `swirl` of ni-swirl 0.1, now ni-swirl 0.2"
    ]
    swirl_distribution.reinstall()
    collector = WarningCollector()
    train(recipe, tmp_path / "third", init_from=str(run), listeners=[collector])
    assert not any("weights" in message for message in collector.messages)


def test_source_checksum_covers_all_files_of_a_plugin(run: Path, swirl_distribution: SwirlDistribution) -> None:
    """Their names and contents, but only of source files."""
    entry = installed_catalog().find("body", "swirl")
    first = source_sha256(entry)
    assert json.loads((run / "lock.json").read_text())["components"]["model.body"]["source_sha256"] == first
    package = swirl_distribution.site / "ni_swirl"
    (package / "notes.txt").write_text("")
    assert source_sha256(entry) == first
    (package / "sub").mkdir()
    (package / "sub" / "more.py").write_text("")
    second = source_sha256(entry)
    (package / "sub" / "more.py").rename(package / "sub" / "less.py")
    assert len({first, second, source_sha256(entry)}) == 3


LOCKFILE_WITH_ESCAPES = {
    "components": {"model.body": {"component": "body/swirl", "distribution": "x'; \x1b[2J", "version": "1"}},
}


def test_incomplete_lockfile_is_accepted(run: Path) -> None:
    """Missing or invalid records are skipped, because the checkpoint's files are intact; an invalid document is not."""
    checkpoint = run / "checkpoints" / "step-6"
    for lock in (
        {},
        {"components": []},
        {"components": {"model.body": 3, "data": {"component": ["x"]}}},
        LOCKFILE_WITH_ESCAPES,
    ):
        rewrite_checkpoint_file(checkpoint, "lock.json", json.dumps(lock).encode())
        load_model(checkpoint)
    rewrite_checkpoint_file(checkpoint, "lock.json", b"[]")
    with pytest.raises(
        CheckpointError, match=r"lock.json: is not a valid lockfile \(it is not a mapping\); use another checkpoint"
    ):
        load_model(checkpoint)


def test_builtin_components_are_identified_by_their_file(tmp_path: Path) -> None:
    """If the checksum of that file differs, the golden batch is checked."""
    train(load_small_recipe(tmp_path, "train.steps=1"), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-1"
    lock = json.loads((checkpoint / "lock.json").read_text())
    assert lock["components"] == build_lockfile(load_small_recipe(tmp_path, "train.steps=1"), None)["components"]
    load_model(checkpoint)
    lock["components"]["model.router"]["source_sha256"] = "0" * 64
    rewrite_checkpoint_file(checkpoint, "lock.json", json.dumps(lock).encode())
    with pytest.warns(UserWarning, match=r"router `kernel` of ni-framework 0.1.0, now the same version$"):
        load_model(checkpoint)
    golden = load_file(checkpoint / "golden.safetensors")
    golden["logits/digits"] = golden["logits/digits"] + torch.tensor(0.1)
    rewrite_checkpoint_file(checkpoint, "golden.safetensors", save(golden))
    with pytest.raises(CheckpointError, match=r"pip install --force-reinstall 'ni-framework==0\.1\.0'"):
        load_model(checkpoint)


def test_golden_batch_of_another_model_is_rejected(tmp_path: Path) -> None:
    """Its inputs do not fit the model."""
    train(load_small_recipe(tmp_path, "train.steps=1"), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-1"
    lock = json.loads((checkpoint / "lock.json").read_text())
    lock["components"]["model.router"]["source_sha256"] = None
    rewrite_checkpoint_file(checkpoint, "lock.json", json.dumps(lock).encode())
    rewrite_checkpoint_file(checkpoint, "golden.safetensors", save({"inputs": torch.zeros(2, 3, 8, 8)}))
    with pytest.raises(
        CheckpointError, match=r"\n  \S+golden.safetensors: contains no inputs for this model; use another checkpoint\n"
    ):
        load_model(checkpoint)


def test_invalid_override_is_a_recipe_error(run: Path, ni: RunNi) -> None:  # noqa: F811
    """A mistake in an override is not reported as a change of the code."""
    assert ni("eval", run, "model.widht=3").code == RecipeError.exit_code
