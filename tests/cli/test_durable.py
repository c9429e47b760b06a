"""`ni verify`, `ni schema`, and how `ni train` treats checkpoints and signals."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from tests.cli.conftest import RunNi
from tests.helpers.ni_runner import NiRunner, RandomSignal
from tests.helpers.small_recipe import rewrite_checkpoint_file


def test_verify(ni: RunNi, small_recipe_dir: Path) -> None:
    """The exit code is 0, or 6 with a list of differences."""
    assert ni("train", "small.yaml", "--output", "run").code == 0
    result = ni("verify", "run")
    assert (result.code, result.err) == (0, "")
    assert result.out == "run/checkpoints/step-6: ok; compared: 6 files, 8 components, golden batch, data\n"
    assert ni("verify", "run", "--json").json["ok"] is True
    weights = small_recipe_dir / "run/checkpoints/step-6/model.safetensors"
    tensors = load_file(weights)
    tensors["scripts.0.embedding.code"] += 1
    rewrite_checkpoint_file(weights.parent, weights.name, save(tensors))
    result = ni("verify", "run")
    assert result.code == 6
    assert result.err.startswith(
        "error: run/checkpoints/step-6: differs from what was saved\n  golden batch, digits: outputs differ by up to "
    )
    weights.write_bytes(b"")
    result = ni("verify", "run", "--json")
    assert result.code == 6
    assert result.json["error"]["message"].startswith(
        "run/checkpoints/step-6/model.safetensors: is damaged (it has 0 bytes"
    )


def test_schema(ni: RunNi) -> None:
    """The schema is one JSON document, with or without --json."""
    assert ni("schema").out == ni("schema", "--json").out
    assert ni("schema").json["$defs"]["recipe"]["required"] == ["ni", "model", "data", "train"]


def test_runs_latest(ni: RunNi, small_recipe_dir: Path) -> None:
    """runs/latest points to the newest run in runs/; a run that is resumed through it keeps its own name."""
    first = ni("train", "small.yaml", "--json").json["run"]
    second = ni("train", "small.yaml", "--json").json["run"]
    assert first != second
    assert (small_recipe_dir / "runs" / "latest").resolve() == (small_recipe_dir / second).resolve()
    assert ni("eval", "runs/latest").code == 0
    result = ni("train", "--resume", "runs/latest", "train.steps=7", "--json")
    assert result.json["run"] == second
    (small_recipe_dir / "runs" / "latest").unlink()
    (small_recipe_dir / "runs" / "latest").mkdir()
    # A folder of this name is not replaced.
    assert ni("train", "small.yaml", "--output", "runs/x").code == 0
    assert not (small_recipe_dir / "runs" / "latest").is_symlink()


def test_keep_last_and_every_are_stored(ni: RunNi, small_recipe_dir: Path) -> None:
    """A resumed run saves and keeps checkpoints as before, unless the options are given again."""
    assert ni("train", "small.yaml", "--output", "run", "--every", 2, "--keep-last", 2).code == 0
    steps = lambda: sorted(path.name for path in (small_recipe_dir / "run/checkpoints").glob("step-*"))  # noqa: E731
    assert steps() == ["step-4", "step-6"]
    assert ni("train", "--resume", "run", "train.steps=9").code == 0
    assert steps() == ["step-8", "step-9"]
    assert ni("train", "--resume", "run", "train.steps=13", "--every", 1, "--keep-last", 4).code == 0
    assert steps() == ["step-10", "step-11", "step-12", "step-13"]


def test_environment_is_not_written(ni: RunNi, small_recipe_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of an environment variable is written to a run folder."""
    secrets = [f"secret-{number}-0a1b2c" for number in range(20)]
    for number, secret in enumerate(secrets):
        monkeypatch.setenv(f"API_TOKEN_{number}", secret)
    assert ni("train", "small.yaml", "--output", "run", "--every", 2).code == 0
    written = b"".join(path.read_bytes() for path in (small_recipe_dir / "run").rglob("*") if path.is_file())
    assert len(written) > 10_000
    assert not any(secret.encode() in written for secret in secrets)


def test_two_signals(tmp_path: Path) -> None:
    """The first signal stops the run after the step; a second one stops it immediately, here within a step."""
    runner = NiRunner(tmp_path)
    try:
        for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):

            def send_twice(child: int, log: Path, number: int = number) -> None:
                RandomSignal(random.Random(0), number, 0.0, "step 1/")(child, log)
                RandomSignal(random.Random(0), number, 0.0, "a second signal stops immediately")(child, log)

            slow = ("train.batch=1400", "train.log_every=1", "model.iterations=8")
            ended = runner("train", "small.yaml", *slow, "--output", f"run-{code}", meanwhile=send_twice)
            assert ended.status == code
            assert "stopping after this step, which will be saved; a second signal stops immediately\n" in ended.err
            assert ended.err.endswith("error: stopped immediately; checkpoints that were saved before are complete\n")
            assert not list((tmp_path / f"run-{code}").glob("checkpoints/*"))
    finally:
        runner.close()
