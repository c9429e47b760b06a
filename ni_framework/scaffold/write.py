"""Writes a complete distribution for an example component under a new name, or for the components in a Python file."""

from __future__ import annotations

import builtins
import inspect
import json
import keyword
import re
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import frozen

from ni_framework._version import __version__
from ni_framework.errors import UsageError
from ni_framework.options import COMPONENT_KINDS
from ni_framework.recipe import dump_values
from ni_framework.recipe.export.starter import STARTER_VALUES
from ni_framework.recipe.parsing.wording import escape_unprintable
from ni_framework.recipe.validate.fields import examples_of
from ni_framework.registry import installed_catalog
from ni_framework.registry.catalog import YAML_RESERVED_WORDS
from ni_framework.registry.discover import FILE_PLUGIN_PREFIX, FRAMEWORK_DISTRIBUTION
from ni_framework.registry.file_plugins import entries_in_file
from ni_framework.registry.resolve import load_entry

_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PLUGIN_RECIPE_HEADER = """\
# {summary}
#
#   ni train {path}
#
# This recipe trains a small interpreter of the digits with {distribution}, to show that it works. Describe here what it is
# useful for, how long the training takes, and the results.
"""


@frozen
class ScaffoldComponent:
    """One component of the new distribution; `attribute` is the name of the class in its module."""

    kind: str
    name: str
    attribute: str
    cls: Any

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        text = " ".join(inspect.cleandoc(self.cls.__doc__ or "").partition("\n\n")[0].split())
        return escape_unprintable(text) or f"A {self.kind.replace('_', ' ')}."

    @property
    def options(self) -> dict[str, Any]:
        """Example values of the options that have no default."""
        examples = examples_of(self.cls.Config)
        if missing := [name for name, example in examples.items() if example is None]:
            raise UsageError(
                f"{self.kind} `{self.name}`: the option `{missing[0]}` has neither a default nor an example; "
                "declare it with example=..."
            )
        return examples

    @property
    def spec(self) -> dict[str, Any]:
        """The value that selects the component in a recipe."""
        return {"use": self.name, **self.options}


def write_plugin(name: str, kind: str | None, source: Path | None, parent: Path) -> Path:
    """Writes a distribution with an example component, or with the components in a file.

    Args:
        name: The name of the plugin, with or without "ni-".
        kind: The kind of the example component; with `source`, a kind that the file must contain, or None.
        source: A Python file with components, or None for an example.
        parent: The folder in which the folder of the distribution is created.

    Returns:
        The new folder, `<parent>/ni-<name>`.

    Raises:
        UsageError: The name is invalid or used already, the folder exists, or the arguments do not fit together.
        PluginError: The file cannot be loaded.
    """
    short = re.sub(r"[-.]", "_", name.removeprefix("ni-"))
    folder = parent / f"ni-{short.replace('_', '-')}"
    _check_name(name, short, folder)
    components, code = _from_file(short, kind, source) if source else _from_example(short, kind)
    builtin_names = {(entry.kind, entry.name) for entry in installed_catalog().entries if entry.is_builtin}
    for component in components:
        if (component.kind, component.name) in builtin_names:
            raise UsageError(
                f"{component.kind} `{component.name}`: {FRAMEWORK_DISTRIBUTION} has a component of this name; "
                "choose another name"
            )
    for path, text in _render_files(short, folder.name, components, code).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _check_name(name: str, short: str, folder: Path) -> None:
    """Raises `UsageError` if a distribution cannot have this name or cannot be written to this folder."""
    if not _PLUGIN_NAME.fullmatch(short):
        raise UsageError(f"{name}: is not a valid plugin name; use lower-case words such as swirl or top-k")
    if reason := _reserved_name_reason(short):
        raise UsageError(f"{name}: is not a valid plugin name, because {reason}; choose another name")
    if folder.exists():
        raise UsageError(f"{folder}: exists already and was not changed; choose another name")
    if _is_installed(short, folder.name):
        raise UsageError(f"{folder.name}: is installed already; choose another name, or uninstall it first")
    if not folder.parent.is_dir():
        raise UsageError(f"{folder.parent}: is not a folder; create it first")


def _reserved_name_reason(name: str) -> str | None:
    """Returns why a well-formed name cannot be used, or None if it can."""
    if keyword.iskeyword(name) or keyword.iskeyword(_to_camel_case(name)):
        return "it is a Python keyword"
    if name in YAML_RESERVED_WORDS:
        return "YAML reads it as a value"
    if name in ("framework", "standard"):
        return f"ni_{name} is a package of the framework"
    if f"ni_{name}_".startswith(FILE_PLUGIN_PREFIX):
        return f"plugin files are imported as {FILE_PLUGIN_PREFIX}..."
    return None


def _is_installed(name: str, distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return find_spec(f"ni_{name}") is not None
    return True


def _from_example(name: str, kind: str | None) -> tuple[list[ScaffoldComponent], str]:
    if kind is None:
        raise UsageError(
            f"give the kind of the component with --kind {'|'.join(COMPONENT_KINDS)}, or its file with --from FILE"
        )
    module = import_module(f"ni_framework.scaffold.components.{kind}")
    code = inspect.getsource(module)
    attribute = _choose_class_name(name, kind, code + _render_template("test.py", None))
    return [ScaffoldComponent(kind, name, attribute, module.Example)], code.replace("Example", attribute)


def _from_file(name: str, kind: str | None, source: Path) -> tuple[list[ScaffoldComponent], str]:
    components = [
        ScaffoldComponent(entry.kind, entry.name, entry.value.partition(":")[2], load_entry(entry))
        for entry in entries_in_file(source)
    ]
    if kind is not None and kind not in {component.kind for component in components}:
        available = ", ".join(f"{component.kind} {component.name}" for component in components)
        raise UsageError(f"{source}: contains no {kind}, but {available}; remove --kind")
    return components, source.read_text(encoding="utf-8")


def _render_files(name: str, distribution: str, components: Sequence[ScaffoldComponent], code: str) -> dict[str, str]:
    """Returns the content of every file of the distribution by its path."""
    package, recipe = f"ni_{name}", f"recipes/{name}.yaml"
    entries = [
        f'[project.entry-points."ni_framework.{kind}"]\n'
        + "\n".join(
            f'{component.name} = "{package}.{name}:{component.attribute}"'
            for component in components
            if component.kind == kind
        )
        for kind in dict.fromkeys(component.kind for component in components)
    ]
    usage = {component.kind: component.spec for component in components}
    summary = components[0].summary
    values = {
        "distribution": distribution,
        "package": package,
        "recipe": recipe,
        "summary": summary,
        "major_minor": ".".join(__version__.split(".")[:2]),
        "first": f"{components[0].kind}/{components[0].name}",
        "entry_points": "\n\n".join(entries),
        "table": "\n".join(
            f"| `{component.kind}` | `{component.name}` | {_escape_markdown_cell(component.summary)} |"
            for component in components
        ),
        "usage": "```yaml\n"
        + "\n".join(f"{kind}: {json.dumps(spec, ensure_ascii=False)}" for kind, spec in usage.items())
        + "\n```",
        "imports": f"from {package}.{name} import {', '.join(sorted({component.attribute for component in components}))}",
        "conformances": "\n".join(
            f"test_{component.name}_as_{component.kind} = conformance({component.attribute})"
            for component in components
        ),
    }
    head = PLUGIN_RECIPE_HEADER.format(summary=summary, path=recipe, distribution=distribution)
    return {
        "pyproject.toml": _render_template(
            "pyproject.toml", values | {"summary": json.dumps(summary, ensure_ascii=False)[1:-1]}
        ),
        "README.md": _render_template("README.md", values),
        "LICENSE": metadata.distribution(FRAMEWORK_DISTRIBUTION).read_text("licenses/LICENSE") or "",
        ".gitignore": _render_template("gitignore", {}),
        f"{package}/__init__.py": f'"""{_escape_docstring(summary)}"""\n',
        f"{package}/{name}.py": code,
        recipe: head + "\n" + dump_values(_example_recipe(distribution, usage)),
        f"tests/test_{name}.py": _render_template("test.py", values),
        ".github/workflows/test.yml": _render_template("test.yml", None),
    }


def _render_template(name: str, values: dict[str, str] | None) -> str:
    text = (files("ni_framework.scaffold") / "files" / f"{name}.txt").read_text(encoding="utf-8")
    return text if values is None else text.format(**values)


def _example_recipe(distribution: str, specs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns a recipe for a small interpreter with the components, on the digits or on the distribution's own data."""
    recipe = {
        "ni": 1,
        "requires": [f"{distribution}>=0.1"],
        **{key: value for key, value in STARTER_VALUES.items() if key != "ni"},
    }
    recipe["model"] = {
        **STARTER_VALUES["model"],
        **{kind: spec for kind, spec in specs.items() if kind not in ("linear", "data")},
    }
    if "linear" in specs and "body" not in specs:
        recipe["model"]["body"] = {**STARTER_VALUES["model"]["body"], "linear": specs["linear"]}
    return recipe | ({"data": specs["data"]} if "data" in specs else {})


def _escape_markdown_cell(text: str) -> str:
    """Escapes a text for a cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _escape_docstring(text: str) -> str:
    """Escapes a text for a Python docstring."""
    return text.replace("\\", "\\\\").replace('"', "'")


def _choose_class_name(name: str, kind: str, code: str) -> str:
    """Returns a name for the class; the kind is appended if the code or Python uses the plain name already."""
    plain = _to_camel_case(name)
    is_taken = hasattr(builtins, plain) or re.search(rf"\b{plain}\b", code)
    return plain + _to_camel_case(kind) if is_taken else plain


def _to_camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
