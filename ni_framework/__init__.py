"""Neural Interpreters from YAML recipes: networks whose inference is factored into functions.

recipe = load_recipe("recipes/digits.yaml", ["train.steps=100"])
model = build_model(recipe)              # logits = model(inputs)["digits"]
model = load_model("runs/digits/...")    # a trained one
trace(model, inputs).compatibility[0][0] # [B, U, V]: script 0, iteration 0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ni_framework._version import __version__ as __version__

if TYPE_CHECKING:
    from ni_framework.author import load_author_model as load_author_model
    from ni_framework.checkpoint.load import load_model as load_model
    from ni_framework.model.compose import build_model as build_model
    from ni_framework.model.trace import trace as trace
    from ni_framework.registry import load_recipe as load_recipe

# Imported on first use: `import ni_framework` stays fast and free of torch.
_WHERE = {
    "load_recipe": "ni_framework.registry",
    "build_model": "ni_framework.model.compose",
    "load_model": "ni_framework.checkpoint.save",
    "load_author_model": "ni_framework.author",
    "trace": "ni_framework.model.trace",
}
__all__ = list(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'ni_framework' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
