"""Recipes: YAML files that are read into frozen, checked values, without torch.

`schema.py` lists the keys of a recipe, `load.py` shows how a recipe is read.
"""

from ni_framework.recipe.dump import dump, dump_values, to_plain_values
from ni_framework.recipe.load import load, load_options, loads
from ni_framework.recipe.schema import (
    RECIPE_FORMAT,
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    ScriptConfig,
    TrainConfig,
)
from ni_framework.recipe.validate.fields import ConfigResolver

__all__ = [
    "RECIPE_FORMAT",
    "ConfigResolver",
    "EngineConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "ScriptConfig",
    "TrainConfig",
    "dump",
    "dump_values",
    "load",
    "load_options",
    "loads",
    "to_plain_values",
]
