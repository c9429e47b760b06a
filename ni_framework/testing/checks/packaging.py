"""What a component says of itself, and what it does by being imported."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from ni_framework.recipe import dump_values, load_options, plain_values
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.registry.discover import ONE_FILE
from ni_framework.registry.resolve import config_of
from ni_framework.testing.checks.check import check
from ni_framework.testing.failures import Excused, Failure
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import invoke
from ni_framework.testing.sandbox.imports import import_faults


@check(
    why="a plugin is imported while a recipe is being read: what it prints spoils --json, and what it changes in torch, in "
    "random generators or in the environment changes every other run",
    fix="keep the module's top level to imports and definitions",
    calls=False,
)
def imports(case: Case) -> None:
    """Importing its module, in a process of its own, prints nothing and changes nothing."""
    assert case.kind
    if case.cls.__module__ == "__main__":
        raise Excused("it is defined in a script, which cannot be imported")
    module = case.cls.__module__
    if module.startswith(ONE_FILE):
        module = str(Path(sys.modules[module].__file__ or "").resolve())
    if faults := import_faults(module):
        raise Failure(f"importing {module} {'; '.join(faults)}")


@check(
    why="`ni show` prints the docstring and the help of every option: they are all that a recipe's writer sees of it",
    fix="write a docstring that begins with what it does and its shapes, and give every option a help text",
    calls=False,
)
def documented(case: Case) -> None:
    """The class has a docstring of its own, and every option a help text."""
    assert case.kind
    if not inspect.cleandoc(case.cls.__doc__ or ""):
        raise Failure(f"{case.cls.__name__} has no docstring")
    silent = [name for name, field in fields_of(case.cls.Config).items() if not (field.help or "").strip()]
    if silent:
        raise Failure(f"its option `{silent[0]}` has no help text")


@check(
    why="a checkpoint holds the recipe, options included, and is rebuilt from it",
    fix="give options types that YAML has, and leave values as they are given: no converters",
    calls=False,
)
def yaml(case: Case) -> None:
    """The options written as YAML and read again are equal."""
    text = dump_values(plain_values(case.config))
    again = load_options(case.cls.Config, text, resolve=config_of)
    if again != case.config:
        raise Failure(f"the options {case.config} are {again} when written as YAML and read again")


@check(
    why="a component that cannot be built or called at all fails wherever it is used",
    fix="compare the signatures of __init__, prepare and forward, and the shapes on the way, with its base class in contracts.py",
    calls=False,
)
def runs(case: Case) -> None:
    """It can be built, and called if it is a module, at small sizes."""
    invoke(case)
