"""Plugins that are at fault: each says which, what is wrong with it, and what to do; the others stay usable."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from ni_framework import recipe as recipes
from ni_framework.errors import PluginError, RecipeError
from ni_framework.registry import discover
from ni_framework.registry.catalog import installed
from ni_framework.registry.describe import describe_component
from ni_framework.registry.resolve import component, config_of
from ni_framework.registry.schema import installed_schema
from tests.helpers.distributions import Install

HEAD = """
from ni_framework.contracts import Body, Router
from ni_framework.options import config, option
"""
ENTRY = {"body": {"odd": "ni_odd:Odd"}}
START = "error: body `odd` of ni-odd 0.1 (ni_odd:Odd) "
END = "\n  help: upgrade or repair it: pip install --upgrade ni-odd"
NEWER = "\n  help: upgrade ni_framework: pip install --upgrade ni-framework"

# The source of a plugin, and what is said of it.
FAULTS = {
    "import error": ("import ni_absent", "cannot be imported: ModuleNotFoundError: No module named 'ni_absent'"),
    "error at import": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "exit at import": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
    "syntax error": ("class", "cannot be imported: SyntaxError: invalid syntax (ni_odd.py, line 1)"),
    "no such class": ("", "cannot be imported: AttributeError: module 'ni_odd' has no attribute 'Odd'"),
    "no class": ("Odd = 3", "is no subclass of contracts.Body"),
    "another class": ("class Odd: pass", "is no subclass of contracts.Body"),
    "another kind": (
        f"{HEAD}\nclass Odd(Router):\n    def forward(self, *a): pass",
        "is no subclass of contracts.Body",
    ),
    "a newer API": (
        f"{HEAD}\nclass Odd(Body):\n    api = 2\n    def forward(self, *a): pass",
        "is written for plugin API 2, this ni_framework offers 1",
    ),
    "an older API": (
        f"{HEAD}\nclass Odd(Body):\n    api = 0\n    def forward(self, *a): pass",
        "is written for plugin API 0, this ni_framework offers 1",
    ),
    "no Config": (
        f"{HEAD}\nclass Odd(Body):\n    Config = None\n    def forward(self, *a): pass",
        "has no frozen Config; decorate it with options.config",
    ),
    "a Config of its own make": (
        f"{HEAD}\nclass Odd(Body):\n    class Config: pass\n    def forward(self, *a): pass",
        "has no frozen Config; decorate it with options.config",
    ),
    "abstract": (f"{HEAD}\nclass Odd(Body): pass", "does not define forward"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, install: Install) -> None:
    source, said = FAULTS[name]
    install("ni_odd", source, ENTRY)
    with pytest.raises(PluginError) as caught:
        component("body", "odd")
    assert str(caught.value) == START + said + (NEWER if name == "a newer API" else END)
    assert caught.value.exit_code == 4
    assert component("body", "lines_of_code").__name__ == "LinesOfCode"


def test_a_plugin_in_order_is_loaded(install: Install) -> None:
    """What the faults are compared with."""
    install("ni_odd", f"{HEAD}\nclass Odd(Body):\n    def forward(self, *a): pass", ENTRY)
    assert component("body", "odd").__name__ == "Odd"


def test_interruption_is_no_fault(install: Install) -> None:
    install("ni_odd", "raise KeyboardInterrupt", ENTRY)
    with pytest.raises(KeyboardInterrupt):
        component("body", "odd")


def test_two_distributions_with_one_name(install: Install) -> None:
    """Neither wins, in whatever order they are installed."""
    install("ni_odd", "", ENTRY)
    install("ni_even", "", {"body": {"odd": "ni_even:Even"}})
    with pytest.raises(PluginError) as caught:
        component("body", "odd")
    assert str(caught.value) == (
        "error: body `odd` is provided more than once, by ni-even 0.1 and ni-odd 0.1\n"
        "  help: uninstall one of them: pip uninstall ni-odd; or leave one out: NI_PLUGINS=-ni-odd"
    )


def test_the_schema_leaves_out_what_is_at_fault(install: Install) -> None:
    """And says so; all else stays in it."""
    install("ni_odd", "1 / 0", {"body": {"odd": "ni_odd:Odd", "twice": "ni_odd:Odd"}})
    install("ni_even", "", {"body": {"twice": "ni_even:Even"}})
    schema, faults = installed_schema()
    assert faults == [
        "body `odd` of ni-odd 0.1 (ni_odd:Odd) cannot be imported: ZeroDivisionError: division by zero",
        "body `twice` is provided more than once, by ni-even 0.1 and ni-odd 0.1",
    ]
    assert not {"body.odd", "body.twice"} & schema["$defs"].keys()
    assert "body.lines_of_code" in schema["$defs"]


def test_the_schema_tells_a_component_in_a_sentence(install: Install) -> None:
    """The first of its docstring, over two lines as it may stand; a default that is itself asks for a name."""
    source = """
from ni_framework.contracts import Router
from ni_framework.options import Choice, component, config
class Odd(Router):
    '''Asks another router,
    which asks one too. For ever.'''
    @config
    class Config:
        inner: Choice = component("router", default="odd", help="another")
    def forward(self, *a): pass
"""
    install("ni_odd", source, {"router": {"odd": "ni_odd:Odd"}})
    schema, faults = installed_schema()
    assert faults == []
    assert schema["$defs"]["router.odd"]["description"] == "Asks another router, which asks one too."
    assert schema["$defs"]["router.odd"]["required"] == ["inner"]


def test_one_name_in_two_kinds(install: Install) -> None:
    install("ni_odd", f"{HEAD}\nclass Odd(Body):\n    def forward(self, *a): pass", {**ENTRY, "router": {"odd": "x:Y"}})
    assert component("body", "odd").__name__ == "Odd"


def test_what_nobody_uses_breaks_nothing(install: Install) -> None:
    """A listing, and the use of other components, import no plugin that is not asked for."""
    install("ni_odd", "import sys; sys.exit(3)", ENTRY)
    assert "odd" in installed().names("body")
    assert [entry.value for entry in discover() if entry.name == "odd"] == ["ni_odd:Odd"]
    assert describe_component("kernel")[0]["kind"] == "router"
    assert "ni_odd" not in sys.modules


def test_listing_imports_nothing() -> None:
    """Not even torch or the standard components, so that it is fast."""
    code = """
        import sys
        from ni_framework.registry import installed
        assert "kernel" in installed().names("router")
        assert not {"torch", "numpy", "ni_standard", "ni_framework.contracts"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_listing_is_sorted() -> None:
    entries = list(installed().entries)
    assert entries == sorted(entries)
    assert len(entries) == len(set(entries)) >= 7


RECIPE = """
ni: 1
model:
  width: 12
  input: {use: patches, image: [1, 8, 8], patch: 4}
  iterations: 3
  functions: 5
  code: 7
  type: 6
  body: BODY
data: {use: digits}
train: {steps: 2, batch: 9}
"""


def refused(body: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.loads(RECIPE.replace("BODY", body), resolve=config_of)
    return str(caught.value)


def test_unknown_component_with_a_likeness(install: Install) -> None:
    install("ni_odd", "", ENTRY)
    assert refused("{use: lines_of_cod}") == (
        "recipe:10:15: error: model.body: there is no body `lines_of_cod`\n"
        "      body: {use: lines_of_cod}\n"
        "                  ^\n"
        f"  help: did you mean `lines_of_code`? installed are: {', '.join(installed().names('body'))}"
    )


def test_unknown_component_without_a_likeness() -> None:
    assert refused("{use: zzz}").splitlines()[-1] == (
        f"  help: installed are: {', '.join(installed().names('body'))}; install the distribution that provides it"
    )


def test_unknown_component_to_describe() -> None:
    for name, said in {
        "kernle": "error: there is no component `kernle`\n  help: `ni ls` lists all",
        "ruter/kernel": "error: there is no component `ruter/kernel`\n  help: kinds are: embedding, type_inference, "
        "router, body, halting, linear, input, head, data",
    }.items():
        with pytest.raises(RecipeError) as caught:
            describe_component(name)
        assert str(caught.value) == said
