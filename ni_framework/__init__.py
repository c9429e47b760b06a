"""Neural Interpreters from YAML recipes: networks whose inference is factored into functions.

recipe = load_recipe("recipes/digits.yaml", ["train.steps=100"])
summary = train(recipe, "runs/first")      # what `ni train --json` prints
evaluate("runs/first")["test/accuracy"]
grow("runs/first", "runs/grown", add=2, freeze="old")
model = load_model("runs/first")           # logits = model(inputs)["digits"]
trace(model, inputs).compatibility[0][0]   # [B, U, V]: script 0, iteration 0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ni_framework._version import __version__ as __version__

if TYPE_CHECKING:
    from ni_framework.analysis.inspect import inspect_checkpoint as inspect_checkpoint
    from ni_framework.api import evaluate as evaluate
    from ni_framework.api import grow as grow
    from ni_framework.author import load_author_model as load_author_model
    from ni_framework.checkpoint.load import load_model as load_model
    from ni_framework.distributed.signals import RunInterrupted as RunInterrupted
    from ni_framework.errors import CheckpointError as CheckpointError
    from ni_framework.errors import FitError as FitError
    from ni_framework.errors import NIError as NIError
    from ni_framework.errors import OptionError as OptionError
    from ni_framework.errors import PluginError as PluginError
    from ni_framework.errors import RecipeError as RecipeError
    from ni_framework.errors import RunError as RunError
    from ni_framework.errors import UsageError as UsageError
    from ni_framework.evaluation.evaluate import evaluate_model as evaluate_model
    from ni_framework.model.compose import build_data as build_data
    from ni_framework.model.compose import build_model as build_model
    from ni_framework.model.trace import trace as trace
    from ni_framework.registry import load_recipe as load_recipe
    from ni_framework.training.train import resume as resume
    from ni_framework.training.train import train as train

# Imported on first use: `import ni_framework` stays fast and free of torch.
_EXPORTS = {
    "CheckpointError": "ni_framework.errors",
    "FitError": "ni_framework.errors",
    "NIError": "ni_framework.errors",
    "OptionError": "ni_framework.errors",
    "PluginError": "ni_framework.errors",
    "RecipeError": "ni_framework.errors",
    "RunError": "ni_framework.errors",
    "RunInterrupted": "ni_framework.distributed.signals",
    "UsageError": "ni_framework.errors",
    "build_data": "ni_framework.model.compose",
    "build_model": "ni_framework.model.compose",
    "evaluate": "ni_framework.api",
    "evaluate_model": "ni_framework.evaluation.evaluate",
    "grow": "ni_framework.api",
    "inspect_checkpoint": "ni_framework.analysis.inspect",
    "load_author_model": "ni_framework.author",
    "load_model": "ni_framework.checkpoint.load",
    "load_recipe": "ni_framework.registry",
    "resume": "ni_framework.training.train",
    "trace": "ni_framework.model.trace",
    "train": "ni_framework.training.train",
}
__all__ = list(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'ni_framework' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
