"""Broken plugins: the error names the plugin, the problem and the remedy; the other plugins stay usable."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from ni_framework import recipe as recipes
from ni_framework.errors import PluginError, RecipeError
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.describe import describe_component
from ni_framework.registry.discover import discover
from ni_framework.registry.resolve import resolve_component, resolve_config
from ni_framework.registry.schema import installed_schema
from tests.helpers.distributions import InstallDistribution

SOURCE_HEAD = """
from ni_framework.contracts import Body, Router
from ni_framework.options import config, option
"""
BROKEN_ENTRY = {"body": {"odd": "ni_odd:Odd"}}
ERROR_START = "error: body `odd` of ni-odd 0.1 (ni_odd:Odd) "
ERROR_END = "\n  help: upgrade or repair it: pip install --upgrade ni-odd"
UPGRADE_HINT = "\n  help: upgrade ni_framework: pip install --upgrade ni-framework"

# The source of a plugin, and the message about it.
BROKEN_PLUGINS = {
    "import error": ("import ni_absent", "cannot be imported: ModuleNotFoundError: No module named 'ni_absent'"),
    "error at import": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "exit at import": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
    "syntax error": ("class", "cannot be imported: SyntaxError: invalid syntax (ni_odd.py, line 1)"),
    "no such class": ("", "cannot be imported: AttributeError: module 'ni_odd' has no attribute 'Odd'"),
    "no class": ("Odd = 3", "is not a subclass of contracts.Body"),
    "another class": ("class Odd: pass", "is not a subclass of contracts.Body"),
    "another kind": (
        f"{SOURCE_HEAD}\nclass Odd(Router):\n    def forward(self, *a): pass",
        "is not a subclass of contracts.Body",
    ),
    "a newer API": (
        f"{SOURCE_HEAD}\nclass Odd(Body):\n    api = 3\n    def forward(self, *a): pass",
        "is written for plugin API 3, this ni_framework has 2",
    ),
    "an older API": (
        f"{SOURCE_HEAD}\nclass Odd(Body):\n    api = 1\n    def forward(self, *a): pass",
        "is written for plugin API 1, this ni_framework has 2; "
        'the changes are listed in CHANGELOG.md, section "Plugin API 2"',
    ),
    "an old name of contracts": (
        "from ni_framework.contracts import Answer",
        "cannot be imported: ImportError: ni_framework.contracts.Answer is now Output (plugin API 2)",
    ),
    "an old name of options": (
        "from ni_framework.options import Choice",
        "cannot be imported: ImportError: ni_framework.options.Choice is now ComponentSpec (plugin API 2)",
    ),
    "no Config": (
        f"{SOURCE_HEAD}\nclass Odd(Body):\n    Config = None\n    def forward(self, *a): pass",
        "has no frozen Config; decorate it with options.config",
    ),
    "a Config that is not attrs": (
        f"{SOURCE_HEAD}\nclass Odd(Body):\n    class Config: pass\n    def forward(self, *a): pass",
        "has no frozen Config; decorate it with options.config",
    ),
    "abstract": (f"{SOURCE_HEAD}\nclass Odd(Body): pass", "does not define forward"),
}


@pytest.mark.parametrize("name", BROKEN_PLUGINS)
def test_broken_plugin(name: str, install: InstallDistribution) -> None:
    source, message = BROKEN_PLUGINS[name]
    install("ni_odd", source, BROKEN_ENTRY)
    with pytest.raises(PluginError) as caught:
        resolve_component("body", "odd")
    assert str(caught.value) == ERROR_START + message + (UPGRADE_HINT if name == "a newer API" else ERROR_END)
    assert caught.value.exit_code == 4
    assert resolve_component("body", "lines_of_code").__name__ == "LinesOfCode"


def test_valid_plugin_is_loaded(install: InstallDistribution) -> None:
    """The control of the other tests."""
    install("ni_odd", f"{SOURCE_HEAD}\nclass Odd(Body):\n    def forward(self, *a): pass", BROKEN_ENTRY)
    assert resolve_component("body", "odd").__name__ == "Odd"


def test_keyboard_interrupt_during_import_is_not_caught(install: InstallDistribution) -> None:
    install("ni_odd", "raise KeyboardInterrupt", BROKEN_ENTRY)
    with pytest.raises(KeyboardInterrupt):
        resolve_component("body", "odd")


def test_two_distributions_with_one_name(install: InstallDistribution) -> None:
    """Neither is used, in whatever order they are installed."""
    install("ni_odd", "", BROKEN_ENTRY)
    install("ni_even", "", {"body": {"odd": "ni_even:Even"}})
    with pytest.raises(PluginError) as caught:
        resolve_component("body", "odd")
    assert str(caught.value) == (
        "error: body `odd` is provided more than once, by ni-even 0.1 and ni-odd 0.1\n"
        "  help: uninstall one of them: pip uninstall ni-odd; or block one: NI_PLUGINS=-ni-odd"
    )


def test_broken_components_are_not_in_the_schema(install: InstallDistribution) -> None:
    """They are reported, and all other components are in it."""
    install("ni_odd", "1 / 0", {"body": {"odd": "ni_odd:Odd", "twice": "ni_odd:Odd"}})
    install("ni_even", "", {"body": {"twice": "ni_even:Even"}})
    schema, faults = installed_schema()
    assert faults == [
        "body `odd` of ni-odd 0.1 (ni_odd:Odd) cannot be imported: ZeroDivisionError: division by zero",
        "body `twice` is provided more than once, by ni-even 0.1 and ni-odd 0.1",
    ]
    assert not {"body.odd", "body.twice"} & schema["$defs"].keys()
    assert "body.lines_of_code" in schema["$defs"]


def test_schema_description_is_the_first_sentence_of_the_docstring(install: InstallDistribution) -> None:
    """The sentence may span two lines. The default of the option is the router itself, so that the option is required."""
    source = """
from ni_framework.contracts import Router
from ni_framework.options import ComponentSpec, component_option, config
class Odd(Router):
    '''Calls another router,
    which calls one too. Endlessly.'''
    @config
    class Config:
        inner: ComponentSpec = component_option("router", default="odd", help="the other router")
    def forward(self, *a): pass
"""
    install("ni_odd", source, {"router": {"odd": "ni_odd:Odd"}})
    schema, faults = installed_schema()
    assert faults == []
    assert schema["$defs"]["router.odd"]["description"] == "Calls another router, which calls one too."
    assert schema["$defs"]["router.odd"]["required"] == ["inner"]


def test_one_name_in_two_kinds(install: InstallDistribution) -> None:
    install(
        "ni_odd",
        f"{SOURCE_HEAD}\nclass Odd(Body):\n    def forward(self, *a): pass",
        {**BROKEN_ENTRY, "router": {"odd": "x:Y"}},
    )
    assert resolve_component("body", "odd").__name__ == "Odd"


def test_unused_broken_plugin_is_ignored(install: InstallDistribution) -> None:
    """A listing, and the use of other components, do not import a plugin that is not named."""
    install("ni_odd", "import sys; sys.exit(3)", BROKEN_ENTRY)
    assert "odd" in installed_catalog().names("body")
    assert [entry.value for entry in discover() if entry.name == "odd"] == ["ni_odd:Odd"]
    assert describe_component("kernel")[0]["kind"] == "router"
    assert "ni_odd" not in sys.modules


def test_listing_imports_nothing() -> None:
    """Neither torch nor the standard components are imported, so that it is fast."""
    code = """
        import sys
        from ni_framework.registry import installed_catalog
        assert "kernel" in installed_catalog().names("router")
        assert not {"torch", "numpy", "ni_standard", "ni_framework.contracts"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_listing_is_sorted() -> None:
    entries = list(installed_catalog().entries)
    assert entries == sorted(entries)
    assert len(entries) == len(set(entries)) >= 7


UNKNOWN_BODY_RECIPE = """
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


def recipe_error(body: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.loads(UNKNOWN_BODY_RECIPE.replace("BODY", body), resolve=resolve_config)
    return str(caught.value)


def test_unknown_component_with_a_similar_name(install: InstallDistribution) -> None:
    install("ni_odd", "", BROKEN_ENTRY)
    assert recipe_error("{use: lines_of_cod}") == (
        "recipe:10:15: error: model.body: there is no body `lines_of_cod`\n"
        "      body: {use: lines_of_cod}\n"
        "                  ^\n"
        f"  help: did you mean `lines_of_code`? installed are: {', '.join(installed_catalog().names('body'))}"
    )


def test_unknown_component_without_a_similar_name() -> None:
    assert recipe_error("{use: zzz}").splitlines()[-1] == (
        f"  help: installed are: {', '.join(installed_catalog().names('body'))}; install the distribution that provides it"
    )


def test_unknown_component_to_describe() -> None:
    for name, message in {
        "kernle": "error: there is no component `kernle`\n  help: `ni ls` lists all",
        "ruter/kernel": "error: there is no component `ruter/kernel`\n  help: kinds are: embedding, type_inference, "
        "router, body, halting, linear, input, head, data",
    }.items():
        with pytest.raises(RecipeError) as caught:
            describe_component(name)
        assert str(caught.value) == message
