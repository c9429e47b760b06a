"""`python -m ni_additive`: its figure, and its error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ni_additive import explain
from ni_additive.__main__ import run_contributions_command
from ni_additive.explain import explain_samples

from ni_framework import load_model
from ni_framework.checkpoint.load import load_checkpoint
from ni_framework.model.compose import build_data
from ni_framework.registry import load_recipe_text
from ni_framework.training.train import train

TEXT = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 2
  functions: 2
  code: 5
  type: 8
  body: {use: apart}
  head: {use: additive}
data: {use: digits}
train: {steps: 3, batch: 8}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a model with the additive head."""
    folder = tmp_path_factory.mktemp("additive") / "run"
    train(load_recipe_text(TEXT), folder)
    return folder


def test_contributions_to_the_predicted_class(run: Path) -> None:
    """Samples are taken from each class in turn; contributions and intercept sum to the largest logit."""
    explanation = explain_samples(run, 12, None)
    assert explanation.true_B.tolist() == [*range(10), 0, 1]
    logits = load_model(run)(explanation.image)["digits"].detach()
    assert torch.equal(explanation.predicted_B, logits.argmax(dim=1))
    assert explanation.contribution.shape == (12, 2, 2)
    torch.testing.assert_close(explanation.contribution.sum(dim=(1, 2)) + explanation.intercept_B, logits.amax(dim=1))
    test = build_data(load_recipe_text(TEXT)).open()["test"]
    label_B = test.batch(torch.arange(len(test)), None).targets["digits"].tolist()
    second = [index for index, label in enumerate(label_B) if label == 1][1]
    assert torch.equal(explanation.image[11], test.batch(torch.tensor([second]), None).inputs[0])


@pytest.mark.parametrize("samples", [1, 7])
def test_figure_is_written(run: Path, samples: int, tmp_path: Path) -> None:
    path = tmp_path / "contributions.png"
    assert run_contributions_command([str(run), "--samples", str(samples), "--output", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_number_of_samples_larger_than_test_split(run: Path) -> None:
    assert len(explain_samples(run, 10_000, "digits").image) == 397


def run_and_read_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run_contributions_command(arguments)
    return code, capsys.readouterr().err


def test_head_without_contributions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(load_recipe_text(TEXT, ["model.head={use: classify}"]), tmp_path / "run")
    run = str(tmp_path / "run")
    message = f"error: {run}: its head is `classify`; only the head `additive` has contributions\n"
    assert run_and_read_error(capsys, run, "--output", str(tmp_path / "p.png")) == (2, message)
    assert not (tmp_path / "p.png").exists()


def test_input_without_grid(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recipe = load_checkpoint(run)
    model.input.grid = None
    monkeypatch.setattr(explain, "load_checkpoint", lambda _: (model, recipe))
    message = f"error: {run}: its input is `patches`, whose elements are not patches of an image\n"
    assert run_and_read_error(capsys, str(run), "--output", str(tmp_path / "p.png")) == (2, message)


@pytest.mark.slow
def test_invalid_arguments(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "p.png")
    code, text = run_and_read_error(capsys, str(tmp_path / "absent"), "--output", output)
    assert code == 6
    assert text.startswith(f"error: {tmp_path / 'absent'}")
    code, text = run_and_read_error(capsys, str(run), "--task", "letters", "--output", output)
    assert (code, text) == (2, "error: tasks: there is no task 'letters'; this model has digits\n")
    code, text = run_and_read_error(capsys, str(run), "--output", str(tmp_path / "no" / "p.png"))
    assert code == 1
    assert text == f"error: {tmp_path / 'no' / 'p.png'}: No such file or directory; choose another place for --output\n"
    with pytest.raises(SystemExit) as caught:
        run_contributions_command([str(run), "--samples", "0", "--output", output])
    assert caught.value.code == 2
    assert "--samples: must be at least 1, not 0" in capsys.readouterr().err
