"""Checks of imports, documentation and options, and that a component runs at all."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from ni_framework.recipe import dump_values, load_options, to_plain_values
from ni_framework.recipe.validate.fields import fields_of
from ni_framework.registry.discover import FILE_PLUGIN_PREFIX
from ni_framework.registry.resolve import resolve_config
from ni_framework.testing.checks.check import conformance_check
from ni_framework.testing.failures import Failure, NotApplicable
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import invoke
from ni_framework.testing.sandbox.imports import find_import_faults


@conformance_check(
    why="a plugin is imported while a recipe is read: printed text would break the output of --json, and changes to torch, "
    "random generators or the environment would affect all runs",
    fix="use only imports and definitions at the top level of the module",
    needs_call=False,
)
def imports(case: Case) -> None:
    """Importing the module in a separate process prints nothing and changes no global state."""
    assert case.kind
    if case.cls.__module__ == "__main__":
        raise NotApplicable("it is defined in a script, which cannot be imported")
    module = case.cls.__module__
    if module.startswith(FILE_PLUGIN_PREFIX):
        module = str(Path(sys.modules[module].__file__ or "").resolve())
    if faults := find_import_faults(module):
        raise Failure(f"importing {module} {'; '.join(faults)}")


@conformance_check(
    why="`ni show` prints the docstring and the help of every option, which are the documentation for authors of recipes",
    fix="write a docstring that starts with what the component does and its shapes, and give every option a help text",
    needs_call=False,
)
def documentation(case: Case) -> None:
    """The class has a docstring, and every option has a help text."""
    assert case.kind
    if not inspect.cleandoc(case.cls.__doc__ or ""):
        raise Failure(f"{case.cls.__name__} has no docstring")
    undocumented = [name for name, field in fields_of(case.cls.Config).items() if not (field.help or "").strip()]
    if undocumented:
        raise Failure(f"its option `{undocumented[0]}` has no help text")


@conformance_check(
    why="a checkpoint contains the recipe with all options, and its model is rebuilt from it",
    fix="use option types that YAML has, and do not convert the values",
    needs_call=False,
)
def yaml_round_trip(case: Case) -> None:
    """Options are unchanged after they are written as YAML and read again."""
    text = dump_values(to_plain_values(case.config))
    again = load_options(case.cls.Config, text, resolve=resolve_config)
    if again != case.config:
        raise Failure(f"the options {case.config} become {again} when they are written as YAML and read again")


@conformance_check(
    why="a component that cannot be built or called cannot be used",
    fix="compare the signatures of __init__, prepare and forward, and all shapes, with the base class in contracts.py",
    needs_call=False,
)
def runs(case: Case) -> None:
    """The component can be built at small sizes, and called if it is a module."""
    invoke(case)
