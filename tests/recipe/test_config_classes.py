"""Components with a faulty declaration or code: reported as errors of the plugin, with the place that names them."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest

from ni_framework.errors import OptionError, PluginError, Problem
from ni_framework.options import ComponentSpec, component_option, config, option
from ni_framework.recipe import loads
from tests.helpers.recipe_components import VALID_RECIPE, Mlp, resolve_component


@config
class ListOption:
    """Lists are not frozen."""

    sizes: list[int] = option(default=(), help="x")


@config
class BareChoice:
    """A component without a kind."""

    part: ComponentSpec = option(default=None, help="x")


@config
class NoText:
    """Keys of recipes must be text."""

    table: dict[int, int] = option(default={}, help="x")


class NoConfig:
    """Not an attrs class."""


@config
class Unknown:
    """An annotation that does not exist."""

    size: Nothing = option(default=1, help="x")  # type: ignore[name-defined]  # noqa: F821


@config
class BadDefault:
    """A default beyond its own bound."""

    size: int = option(default=0, help="x", ge=1)


@attrs.frozen(kw_only=True)
class PlainField:
    """A plain attrs field next to an option."""

    size: int = option(default=1, help="x")
    cache: int = 3


@config
class FailingConfig:
    """Rejects all its options."""

    size: int = option(default=1, help="x")

    def __attrs_post_init__(self) -> None:
        """Raises an error without an option."""
        raise OptionError("", "does not work on Sundays", "wait")


@config
class NeedsMore:
    """A body whose default component has a required option."""

    linear: ComponentSpec = component_option("linear", default="needy", help="x")


@config
class Endless:
    """A component whose default component is another such component."""

    linear: ComponentSpec = component_option("linear", default="endless", help="x")


@config
class SelfReferential:
    """A config that contains itself."""

    inner: SelfReferential | None = option(default=None, help="x")


@config
class Needy:
    """A component with a required option."""

    rank: int = option(help="the rank")


def load_with_router_config(cls: type, options: str = "") -> object:
    """The options of a router of this class."""

    def resolve(kind: str, name: str) -> type:
        return {"needy": Needy, "endless": Endless}.get(name) or (
            cls if kind == "router" else resolve_component(kind, name)
        )

    text = VALID_RECIPE.replace("{use: kernel, truncation: 1.2}", f"{{use: mine{options}}}")
    return loads(text, resolve=resolve).model.router.options


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (ListOption, "its option `sizes` is list[int], which no recipe can give"),
        (BareChoice, "its option `part` is a ComponentSpec and not made with `options.component_option`"),
        (NoText, "its option `table` is dict[int, int], which no recipe can give"),
        (NoConfig, "it is not made with `options.config`"),
        (Unknown, "name 'Nothing' is not defined"),
        (SelfReferential, "maximum recursion depth exceeded"),
    ],
)
def test_a_config_that_cannot_be_read(cls: type, reason: str) -> None:
    """One plugin problem, at the `use` that names the component."""
    with pytest.raises(PluginError) as caught:
        load_with_router_config(cls)
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"model.router: the Config of router `mine` cannot be read: {reason}")
    assert str(problem.mark) == "recipe:10:17"


def test_a_default_beyond_its_bound_is_a_plugin_error() -> None:
    with pytest.raises(
        PluginError, match=r"router `mine`.* failed on its options: ValueError: size: must be at least 1"
    ):
        load_with_router_config(BadDefault)


def test_plain_fields_are_not_options() -> None:
    """A recipe can only give fields that are declared with `option` or `component_option`."""
    assert load_with_router_config(PlainField, ", size: 2") == PlainField(size=2)
    with pytest.raises(Exception, match=r"model.router.cache: unknown key of router `mine`"):
        load_with_router_config(PlainField, ", cache: 2")


def test_an_error_without_an_option_is_placed_at_the_component() -> None:
    with pytest.raises(Exception, match=r"model.router: does not work on Sundays") as caught:
        load_with_router_config(FailingConfig)
    assert str(caught.value).endswith("help: wait")


def test_a_default_component_with_a_required_option() -> None:
    """The message names the option and the component that needs it."""
    with pytest.raises(
        Exception, match=r"model.router.linear.rank: is missing \(linear `needy`, the default, needs it\)"
    ):
        load_with_router_config(NeedsMore)
    assert load_with_router_config(NeedsMore, ", linear: {rank: 3}").linear.options == Needy(rank=3)  # type: ignore[attr-defined]
    assert isinstance(Mlp(), Mlp)


def test_endless_default_components_are_a_plugin_error() -> None:
    """They are recognised by their depth."""
    with pytest.raises(PluginError, match=r"the default components inside of linear `endless` never end"):
        load_with_router_config(Endless)


def test_a_broken_default_is_reported_once() -> None:
    """Not again for every script that inherits it."""

    def broken(kind: str, name: str) -> type:
        if kind == "router":
            raise PluginError([Problem("is broken")])
        return resolve_component(kind, name)

    text = VALID_RECIPE.replace(
        "  router: {use: kernel, truncation: 1.2}\n", "  scripts: [{}, {}, {router: {use: top_k}}]\n"
    )
    with pytest.raises(PluginError) as caught:
        loads(text, resolve=broken)
    places = [f"{problem.mark}: {problem.message}" for problem in caught.value.problems]
    assert places == ["recipe:3:1: model.router: is broken", "recipe:10:36: model.scripts.2.router: is broken"]


def test_reading_recipes_imports_no_torch() -> None:
    """Neither torch nor pluggy, and nothing of the layers above."""
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
