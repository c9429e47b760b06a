"""Components whose own declaration or code is at fault: said of the plugin, with the place that asks for it."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest

from ni_framework.errors import OptionError, PluginError, Problem
from ni_framework.options import Choice, component, config, option
from ni_framework.recipe import loads
from tests.helpers.recipe_components import VALID, Mlp, resolve


@config
class ListOption:
    """A list is not frozen."""

    sizes: list[int] = option(default=(), help="x")


@config
class BareChoice:
    """A choice of which kind?"""

    part: Choice = option(default=None, help="x")


@config
class NoText:
    """Keys of recipes are text."""

    table: dict[int, int] = option(default={}, help="x")


class NoConfig:
    """No attrs class."""


@config
class Unknown:
    """An annotation that does not exist."""

    size: Nothing = option(default=1, help="x")  # type: ignore[name-defined]  # noqa: F821


@config
class BadDefault:
    """A default beyond its own bound."""

    size: int = option(default=0, help="x", ge=1)


@attrs.frozen(kw_only=True)
class Plain:
    """A field that is no option, beside one that is."""

    size: int = option(default=1, help="x")
    cache: int = 3


@config
class WholeError:
    """An objection to the component as a whole."""

    size: int = option(default=1, help="x")

    def __attrs_post_init__(self) -> None:
        """Objects."""
        raise OptionError("", "does not work on Sundays", "wait")


@config
class NeedsMore:
    """A body whose default part needs an option."""

    linear: Choice = component("linear", default="needy", help="x")


@config
class Endless:
    """A part whose default part is another such part."""

    linear: Choice = component("linear", default="endless", help="x")


@config
class Itself:
    """A config inside of itself."""

    inner: Itself | None = option(default=None, help="x")


@config
class Needy:
    """A part with a required option."""

    rank: int = option(help="the rank")


def load_with(cls: type, options: str = "") -> object:
    """The options of a router of this class."""

    def only(kind: str, name: str) -> type:
        return {"needy": Needy, "endless": Endless}.get(name) or (cls if kind == "router" else resolve(kind, name))

    text = VALID.replace("{use: kernel, truncation: 1.2}", f"{{use: mine{options}}}")
    return loads(text, resolve=only).model.router.options


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (ListOption, "its option `sizes` is list[int], which no recipe can give"),
        (BareChoice, "its option `part` is a Choice and not made with `options.component`"),
        (NoText, "its option `table` is dict[int, int], which no recipe can give"),
        (NoConfig, "it is not made with `options.config`"),
        (Unknown, "name 'Nothing' is not defined"),
        (Itself, "maximum recursion depth exceeded"),
    ],
)
def test_a_config_that_cannot_be_read(cls: type, reason: str) -> None:
    """One plugin problem, at the `use` that asks for it."""
    with pytest.raises(PluginError) as caught:
        load_with(cls)
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"model.router: the Config of router `mine` cannot be read: {reason}")
    assert str(problem.mark) == "recipe:10:17"


def test_a_default_beyond_its_bound() -> None:
    """The component's mistake, and not that of the recipe."""
    with pytest.raises(
        PluginError, match=r"router `mine`.* failed on its options: ValueError: size: must be at least 1"
    ):
        load_with(BadDefault)


def test_fields_that_are_no_options() -> None:
    """Only what is declared with `option` and `component` can be given."""
    assert load_with(Plain, ", size: 2") == Plain(size=2)
    with pytest.raises(Exception, match=r"model.router.cache: unknown key of router `mine`"):
        load_with(Plain, ", cache: 2")


def test_an_objection_to_the_whole() -> None:
    """At the component, with the hint."""
    with pytest.raises(Exception, match=r"model.router: does not work on Sundays") as caught:
        load_with(WholeError)
    assert str(caught.value).endswith("help: wait")


def test_a_default_component_with_a_required_option() -> None:
    """Said of the option, with who needs it."""
    with pytest.raises(
        Exception, match=r"model.router.linear.rank: is missing \(linear `needy`, the default, needs it\)"
    ):
        load_with(NeedsMore)
    assert load_with(NeedsMore, ", linear: {rank: 3}").linear.options == Needy(rank=3)  # type: ignore[attr-defined]
    assert isinstance(Mlp(), Mlp)


def test_default_components_without_end() -> None:
    """Found by their depth, and said of the plugin."""
    with pytest.raises(PluginError, match=r"the default components inside of linear `endless` never end"):
        load_with(Endless)


def test_a_broken_default_is_told_once() -> None:
    """Not again for every script that inherits it."""

    def broken(kind: str, name: str) -> type:
        if kind == "router":
            raise PluginError([Problem("is broken")])
        return resolve(kind, name)

    text = VALID.replace("  router: {use: kernel, truncation: 1.2}\n", "  scripts: [{}, {}, {router: {use: top_k}}]\n")
    with pytest.raises(PluginError) as caught:
        loads(text, resolve=broken)
    places = [f"{problem.mark}: {problem.message}" for problem in caught.value.problems]
    assert places == ["recipe:3:1: model.router: is broken", "recipe:10:36: model.scripts.2.router: is broken"]


def test_recipes_need_no_torch() -> None:
    """Reading a recipe loads neither torch nor pluggy, and nothing of the layers above."""
    code = "import sys, ni_framework.recipe; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'ni_framework.recipe.load'" in done.stdout
    for name in (
        "torch",
        "deepspeed",
        "pluggy",
        "ni_framework.registry",
        "ni_framework.model",
        "ni_framework.contracts",
    ):
        assert f"'{name}'" not in done.stdout
