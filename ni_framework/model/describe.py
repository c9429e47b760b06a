"""A recipe's model in words and tables, built without memory."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from ni_framework.model.compose import build_model
from ni_framework.recipe import Recipe


@frozen
class Description:
    """Sizes of a model, and its parameters by name."""

    sizes: dict[str, Any]
    parameters: list[tuple[str, tuple[int, ...]]]

    @property
    def summary(self) -> str:
        """One line for people."""
        scripts = ", ".join(
            f"{functions} functions x {iterations} iterations" for functions, iterations in self.sizes["scripts"]
        )
        return f"{self.sizes['parameters']:,} parameters, {self.sizes['elements']} elements, {scripts}"


def describe(recipe: Recipe) -> Description:
    """Builds the model on the meta device and reads its sizes; raises what `build_model` raises."""
    model = build_model(recipe, "meta")
    parameters = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    sizes = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "elements": len(model.head.start(tuple(model.tasks))[0]) + model.input.num_elements,
        "tasks": model.tasks,
        "scripts": [[script.functions, script.iterations] for script in recipe.model.program],
    }
    return Description(sizes, parameters)
