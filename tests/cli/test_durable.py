"""`ni verify`, `ni schema`, and what `ni train` says of checkpoints and of being stopped."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from tests.cli.conftest import Ni
from tests.helpers.ni_runner import Runner, Signal
from tests.helpers.small_recipe import rewritten


def test_verify(ni: Ni, small: Path) -> None:
    """Ends with 0 or with 6 and what differs."""
    assert ni("train", "small.yaml", "--output", "run").code == 0
    done = ni("verify", "run")
    assert (done.code, done.err) == (0, "")
    assert done.out == "run/checkpoints/step-6: ok; compared: 6 files, 8 components, golden batch, data\n"
    assert ni("verify", "run", "--json").json["ok"] is True
    weights = small / "run/checkpoints/step-6/model.safetensors"
    tensors = load_file(weights)
    tensors["scripts.0.embedding.code"] += 1
    rewritten(weights.parent, weights.name, save(tensors))
    done = ni("verify", "run")
    assert done.code == 6
    assert done.err.startswith(
        "error: run/checkpoints/step-6: is not what it was\n  golden batch, digits: outputs differ by up to "
    )
    weights.write_bytes(b"")
    done = ni("verify", "run", "--json")
    assert done.code == 6
    assert done.json["error"]["message"].startswith(
        "run/checkpoints/step-6/model.safetensors: is damaged (it has 0 bytes"
    )


def test_schema(ni: Ni) -> None:
    """One document."""
    assert ni("schema").out == ni("schema", "--json").out
    assert ni("schema").json["$defs"]["recipe"]["required"] == ["ni", "model", "data", "train"]


def test_runs_latest(ni: Ni, small: Path) -> None:
    """Leads to the newest run in runs/, wherever in it; a run that is resumed is known by its own name."""
    first = ni("train", "small.yaml", "--json").json["run"]
    second = ni("train", "small.yaml", "--json").json["run"]
    assert first != second
    assert (small / "runs" / "latest").resolve() == (small / second).resolve()
    assert ni("eval", "runs/latest").code == 0
    done = ni("train", "--resume", "runs/latest", "train.steps=7", "--json")
    assert done.json["run"] == second
    (small / "runs" / "latest").unlink()
    (small / "runs" / "latest").mkdir()
    assert ni("train", "small.yaml", "--output", "runs/x").code == 0  # a folder of that name is left alone
    assert not (small / "runs" / "latest").is_symlink()


def test_keep_and_every_are_remembered(ni: Ni, small: Path) -> None:
    """A resumed run saves as often, and keeps as many, unless told otherwise."""
    assert ni("train", "small.yaml", "--output", "run", "--every", 2, "--keep", 2).code == 0
    steps = lambda: sorted(path.name for path in (small / "run/checkpoints").glob("step-*"))  # noqa: E731
    assert steps() == ["step-4", "step-6"]
    assert ni("train", "--resume", "run", "train.steps=9").code == 0
    assert steps() == ["step-8", "step-9"]
    assert ni("train", "--resume", "run", "train.steps=13", "--every", 1, "--keep", 4).code == 0
    assert steps() == ["step-10", "step-11", "step-12", "step-13"]


def test_no_secret_is_written(ni: Ni, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment stands in a run folder."""
    secrets = [f"secret-{number}-0a1b2c" for number in range(20)]
    for number, secret in enumerate(secrets):
        monkeypatch.setenv(f"API_TOKEN_{number}", secret)
    assert ni("train", "small.yaml", "--output", "run", "--every", 2).code == 0
    written = b"".join(path.read_bytes() for path in (small / "run").rglob("*") if path.is_file())
    assert len(written) > 10_000
    assert not any(secret.encode() in written for secret in secrets)


def test_two_signals(tmp_path: Path) -> None:
    """The first is answered calmly, a second stops at once: here in the middle of a step."""
    runner = Runner(tmp_path)
    try:
        for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):

            def twice(child: int, said: Path, number: int = number) -> None:
                Signal(random.Random(0), number, 0.0, "step 1/")(child, said)
                Signal(random.Random(0), number, 0.0, "once more stops at once")(child, said)

            slow = ("train.batch=1400", "train.log_every=1", "model.iterations=8")
            ended = runner("train", "small.yaml", *slow, "--output", f"run-{code}", meanwhile=twice)
            assert ended.status == code
            assert "stopping: this step is finished and saved; once more stops at once\n" in ended.err
            assert ended.err.endswith("error: stopped at once; nothing is lost that was saved before\n")
            assert not list((tmp_path / f"run-{code}").glob("checkpoints/*"))
    finally:
        runner.close()
