"""Recipes: YAML files read into frozen, checked values, without torch.

Read `schema.py` for what a recipe holds and `load.py` for how one is read.
"""

from ni_framework.recipe.dump import dump, dump_values, plain_values
from ni_framework.recipe.load import load, load_options, loads
from ni_framework.recipe.schema import FORMAT, Engine, Model, Optimizer, Recipe, Schedule, Script, Train
from ni_framework.recipe.validate.fields import Resolve

__all__ = [
    "FORMAT",
    "Engine",
    "Model",
    "Optimizer",
    "Recipe",
    "Resolve",
    "Schedule",
    "Script",
    "Train",
    "dump",
    "dump_values",
    "load",
    "load_options",
    "loads",
    "plain_values",
]
