"""A transformer is a special case of a recipe: `recipes/vit_digits.yaml` equals torch's pre-norm encoder, in float64."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ni_framework import build_model, load_recipe
from ni_framework.model.interpreter import Interpreter
from ni_framework.model.script import Script

RECIPE = Path(__file__).parents[2] / "recipes" / "vit_digits.yaml"


def build_torch_encoder(model: Interpreter, width: int, heads: int, hidden: int) -> nn.TransformerEncoder:
    """Torch's encoder layers with random weights, which are also copied into the model's scripts."""
    layer = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, len(model.scripts), enable_nested_tensor=False).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        for script, torch_layer in zip(model.scripts, encoder.layers, strict=True):
            copy_layer(script, torch_layer)  # pyright: ignore[reportArgumentType]
    return encoder


def copy_layer(script: Script, torch_layer: nn.TransformerEncoderLayer) -> None:
    """Copies a layer's weights into a script, name by name; every parameter of the script is set."""
    line, state = "body.lines.0", dict(torch_layer.named_parameters())
    parameters = dict(script.named_parameters())
    for kind in ("weight", "bias"):
        parts = state[f"self_attn.in_proj_{kind}"].chunk(3)
        values = {f"maps.{name}": part for name, part in zip(("query", "key", "value"), parts, strict=True)}
        values |= {
            "maps.out": state[f"self_attn.out_proj.{kind}"],
            "maps.mlp_in": state[f"linear1.{kind}"],
            "maps.mlp_out": state[f"linear2.{kind}"],
            "attention_norm": state[f"norm1.{kind}"],
            "mlp_norm": state[f"norm2.{kind}"],
        }
        for name, value in values.items():
            parameters.pop(f"{line}.{name}.{kind}").copy_(value)
    assert not parameters


def test_vit_is_torchs_encoder() -> None:
    """The full model with elements, layers and head: logits and the gradient of the input."""
    recipe = load_recipe(RECIPE)
    model = build_model(recipe).double()
    options = recipe.model.body.options
    encoder = build_torch_encoder(model, recipe.model.width, options.heads, options.hidden)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def run_torch_encoder(images: Tensor) -> Tensor:
        cls_LD, _ = model.head.cls_tokens(("digits",))
        x_BVD = torch.cat([cls_LD.expand(len(images), -1, -1), model.input(images, None)], dim=1)
        return model.head(encoder(x_BVD), None, ("digits",))["digits"]

    results = []
    for function in (lambda images: model(images)["digits"], run_torch_encoder):
        leaf = images.clone().requires_grad_()
        logits = function(leaf)
        results.append((logits, torch.autograd.grad(logits.square().sum(), leaf)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_vit_has_about_as_many_parameters_as_the_interpreter() -> None:
    """The comparison is fair only then; every parameter is used."""
    counts = [
        sum(parameter.numel() for parameter in build_model(load_recipe(RECIPE.with_name(name))).parameters())
        for name in ("digits.yaml", "vit_digits.yaml")
    ]
    assert abs(counts[1] / counts[0] - 1) < 0.01
    model = build_model(load_recipe(RECIPE))
    model(torch.randn(2, 1, 8, 8))["digits"].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
