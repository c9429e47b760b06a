"""The additive head: comparison with loops, its contributions, and their independence with the body `apart`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ni_additive.head import Additive
from torch import Tensor
from torch.nn import functional as F

from ni_framework.model.compose import build_model
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.trace import trace
from ni_framework.registry import load_recipe, load_recipe_text
from ni_framework.training.train import train

RECIPES = Path(__file__).parents[1] / "recipes"
TEXT = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4, positions: absolute}
  iterations: 3
  functions: 3
  code: 5
  type: 8
  router: {use: kernel, truncation: 1.0, bandwidth: 0.7}
  body: {use: apart, lines: 2, hidden: 7}
  head: {use: additive, depth: 2, latent: 9}
data: {use: digits}
train: {steps: 3, batch: 8, log_every: 1}
"""
B, N, D, TASKS = 3, 5, 12, {"shape": 4, "colour": 6}


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build_head(**options: Any) -> Additive:
    torch.manual_seed(0)
    return Additive(Additive.Config(**options), D, TASKS).double()


def build_small_model(*overrides: str) -> Interpreter:
    return build_model(load_recipe_text(TEXT, overrides)).double()


def reference_loop(head: Additive, x_BVD: Tensor, present_BV: Tensor, task: str) -> Tensor:
    """Returns the logits, computed element by element."""
    part = head.sum_for_task(task)
    parts: list[Any] = [layer for layer in part.phi if not isinstance(layer, torch.nn.GELU)]
    norm, *layers = parts
    rows = []
    for x_VD, present_V in zip(x_BVD, present_BV, strict=True):
        logits = part.rho.bias - part.rho.bias.mean()
        for x_D, present in zip(x_VD, present_V.tolist(), strict=True):
            if present:
                h = (x_D - x_D.mean()) / (x_D.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
                for layer in layers:
                    h = F.gelu(layer.weight @ h + layer.bias)
                contribution = part.rho.weight @ h
                logits = logits + contribution - contribution.mean()
        rows.append(logits)
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"depth": 3, "latent": 7}])
def test_against_loops(options: dict[str, int]) -> None:
    """Logits and gradients are equal, with a masked element that is NaN and a sample with masked elements only."""
    head, x_BVD = build_head(**options), randn(B, N, D, seed=1)
    present_BV = torch.tensor([[True] * N, [True, False, True, True, False], [False] * N])
    x_BVD[1, 4] = torch.nan
    x_BVD.requires_grad_()
    actual = head(x_BVD, present_BV, list(TASKS))
    for task, classes in TASKS.items():
        expected = reference_loop(head, x_BVD, present_BV, task)
        torch.testing.assert_close(actual[task], expected, rtol=1e-9, atol=1e-9)
        weight = randn(B, classes, seed=2)
        inputs = [x_BVD, *head.sum_for_task(task).parameters()]
        gradients = [torch.autograd.grad((logits * weight).sum(), inputs) for logits in (actual[task], expected)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("masked", [True, False])
def test_contributions_sum_to_logits_minus_intercept(masked: bool) -> None:
    """For each task. The sum of contributions over classes is 0, and the contributions of masked elements are 0."""
    head, x_BVD = build_head(depth=2), randn(B, N, D, seed=1)
    present_BV = randn(B, N, seed=3) > 0 if masked else None
    logits = head(x_BVD, present_BV, list(TASKS))
    for task, contribution in head.contributions(x_BVD, present_BV, list(TASKS)).items():
        assert contribution.shape == (B, N, TASKS[task])
        torch.testing.assert_close(contribution.sum(dim=1) + head.sum_for_task(task).intercept, logits[task])
        torch.testing.assert_close(contribution.sum(dim=2), torch.zeros(B, N, dtype=torch.float64))
        assert present_BV is None or not contribution[~present_BV].any()


def test_tasks_have_separate_maps() -> None:
    head, x_BVD = build_head(), randn(B, N, D, seed=1)
    both, one = head(x_BVD, None, ["shape", "colour"]), head(x_BVD, None, ["colour"])
    assert list(one) == ["colour"]
    assert torch.equal(one["colour"], both["colour"])
    gradients = torch.autograd.grad(
        both["shape"].sum(), list(head.sum_for_task("colour").parameters()), allow_unused=True
    )
    assert gradients == (None,) * len(gradients)


def test_model_without_cls_elements() -> None:
    """Masks, traces and logits work without CLS elements."""
    cls_LD, multiplicity = build_head().cls_tokens(["shape"])
    assert cls_LD.shape == (0, D)
    assert cls_LD.dtype == torch.float64
    assert multiplicity == 1
    for body in ("{use: apart}", "{use: lines_of_code, heads: 2, key: 3, positions: sep_sum}"):
        model = build_small_model(f"model.body={body}", "model.registers=2")
        mask = torch.tensor([[True, True, False, True], [False] * 4])
        inputs = randn(2, 1, 8, 8, seed=4)
        model_trace = trace(model, inputs, mask)
        assert model_trace.outputs[-1].shape == (2, 4, D)
        torch.testing.assert_close(model_trace.logits["digits"][1], model.head.sum_for_task("digits").intercept)  # pyright: ignore
        inputs[:, :, 4:, :4] = torch.nan
        torch.testing.assert_close(model(inputs, mask)["digits"], model_trace.logits["digits"], rtol=0, atol=0)


@pytest.mark.parametrize("body", ["apart", "lines_of_code"])
def test_contribution_depends_on_its_patch_only_without_attention(body: str) -> None:
    """With `apart` the model is additive in its patches; with attention a contribution depends on all patches."""
    model = (
        build_small_model()
        if body == "apart"
        else build_small_model("model.body={use: lines_of_code, heads: 2, key: 3}")
    )
    inputs = randn(2, 1, 8, 8, seed=4)
    other = inputs.clone()
    # Change the second patch.
    other[:, :, :4, 4:] += randn(2, 1, 4, 4, seed=5)
    head: Any = model.head
    contributions = [
        head.contributions(trace(model, images).outputs[-1], None, ["digits"])["digits"] for images in (inputs, other)
    ]
    changed_N = (contributions[0] - contributions[1]).abs().amax(dim=(0, 2)) > 1e-9
    assert changed_N.tolist() == ([False, True, False, False] if body == "apart" else [True] * 4)


def test_the_order_of_elements_does_not_matter() -> None:
    model, inputs = build_small_model("model.input.positions=none"), randn(2, 1, 8, 8, seed=4)
    turned = inputs.unflatten(2, (2, 4)).flip(2).flatten(2, 3)
    assert not torch.equal(inputs, turned)
    torch.testing.assert_close(model(inputs)["digits"], model(turned)["digits"], rtol=1e-9, atol=1e-9)


def test_loss_and_metrics() -> None:
    head, logits, target = build_head(label_smoothing=0.2), randn(B, 4, seed=6), torch.tensor([1, 3, 0])
    log = logits.log_softmax(dim=1)
    plain = -log[torch.arange(B), target]
    torch.testing.assert_close(head.loss(logits, target), 0.8 * plain - 0.2 * log.mean(dim=1))
    metrics = head.metrics(logits, target)
    torch.testing.assert_close(metrics["loss"], plain)
    assert metrics["accuracy"].tolist() == (logits.argmax(dim=1) == target).tolist()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_train_equally_in_both_layouts(path: Path, tmp_path: Path) -> None:
    losses = []
    for execution in ("dense", "packed"):
        recipe = load_recipe(path, [f"model.execution={execution}", "train.steps=3", "model.router.truncation=1.0"])
        losses.append(train(recipe, tmp_path / execution)["metrics"]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
