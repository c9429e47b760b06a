"""Writes a whole distribution around a component: one of our examples under a new name, or a plugin of one file."""

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
from ni_framework.options import KINDS
from ni_framework.recipe import dump_values
from ni_framework.recipe.export.starter import SET
from ni_framework.recipe.parsing.wording import printable
from ni_framework.recipe.validate.fields import examples_of
from ni_framework.registry import installed
from ni_framework.registry.catalog import WORDS
from ni_framework.registry.discover import ONE_FILE, OWN
from ni_framework.registry.file_plugins import entries_in
from ni_framework.registry.resolve import load

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
HEAD = """\
# {summary}
#
#   ni train {path}
#
# {distribution} in a small interpreter of the embedded digits, to see that it works: say here what it is good for, how long it
# takes and what comes out.
"""


@frozen
class Part:
    """One component of the distribution to be."""

    kind: str
    name: str
    attribute: str  # what its module calls the class
    cls: Any

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, on one line."""
        text = " ".join(inspect.cleandoc(self.cls.__doc__ or "").partition("\n\n")[0].split())
        return printable(text) or f"A {self.kind.replace('_', ' ')}."

    @property
    def options(self) -> dict[str, Any]:
        """Options that have no default, by example."""
        needed = examples_of(self.cls.Config)
        if lacking := [name for name, example in needed.items() if example is None]:
            raise UsageError(
                f"{self.kind} `{self.name}`: the option `{lacking[0]}` has neither a default nor an example; "
                "declare it with example=..."
            )
        return needed

    @property
    def choice(self) -> dict[str, Any]:
        """How a recipe names it."""
        return {"use": self.name, **self.options}


def write_plugin(name: str, kind: str | None, source: Path | None, place: Path) -> Path:
    """Writes `<place>/ni-<name>` and returns it: an example of `kind`, or what the file `source` holds.

    Raises `UsageError` for a name that cannot be one, a folder that exists, or a choice that makes no sense; `PluginError`
    where the file is at fault.
    """
    short = re.sub(r"[-.]", "_", name.removeprefix("ni-"))
    if not _NAME.fullmatch(short):
        raise UsageError(f"{name}: is no name for a plugin; use lower-case words such as swirl or top-k")
    if reason := _taken(short):
        raise UsageError(f"{name}: is no name for a plugin, {reason}; choose another")
    folder = place / f"ni-{short.replace('_', '-')}"
    if folder.exists():
        raise UsageError(f"{folder}: exists already and is left as it is; choose another name")
    if _is_installed(short, folder.name):
        raise UsageError(f"{folder.name}: is installed already; choose another name, or uninstall it first")
    if not place.is_dir():
        raise UsageError(f"{place}: is no folder; make it first")
    parts, code = _of_file(short, kind, source) if source else _of_example(short, kind)
    for part in parts:
        if any(entry.is_own and (entry.kind, entry.name) == (part.kind, part.name) for entry in installed().entries):
            raise UsageError(f"{part.kind} `{part.name}`: {OWN} has one of this name; choose another")
    for path, text in _contents(short, folder.name, parts, code).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _taken(name: str) -> str | None:
    """Why a name that is spelt well cannot be one, or None."""
    if keyword.iskeyword(name) or keyword.iskeyword(_camel(name)):
        return "as Python has a word of that name"
    if name in WORDS:
        return "as YAML reads it as a value"
    if name in ("framework", "standard"):
        return f"as ni_{name} is a package of ours"
    if f"ni_{name}_".startswith(ONE_FILE):
        return f"as {ONE_FILE}... is what plugins of one file are imported as"
    return None


def _is_installed(name: str, distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return find_spec(f"ni_{name}") is not None
    return True


def _of_example(name: str, kind: str | None) -> tuple[list[Part], str]:
    if kind is None:
        raise UsageError(f"say what kind of component it is, --kind {'|'.join(KINDS)}, or where it is, --from FILE")
    module = import_module(f"ni_framework.scaffold.components.{kind}")
    code = inspect.getsource(module)
    attribute = _class_name(name, kind, code + _filled("test.py", None))
    return [Part(kind, name, attribute, module.Example)], code.replace("Example", attribute)


def _of_file(name: str, kind: str | None, source: Path) -> tuple[list[Part], str]:
    parts = [Part(entry.kind, entry.name, entry.value.partition(":")[2], load(entry)) for entry in entries_in(source)]
    if kind is not None and kind not in {part.kind for part in parts}:
        held = ", ".join(f"{part.kind} {part.name}" for part in parts)
        raise UsageError(f"{source}: holds no {kind}, but {held}; leave --kind out")
    return parts, source.read_text(encoding="utf-8")


def _contents(name: str, distribution: str, parts: Sequence[Part], code: str) -> dict[str, str]:
    """Every file of the distribution by its path."""
    package, recipe = f"ni_{name}", f"recipes/{name}.yaml"
    entries = [
        f'[project.entry-points."ni_framework.{kind}"]\n'
        + "\n".join(f'{part.name} = "{package}.{name}:{part.attribute}"' for part in parts if part.kind == kind)
        for kind in dict.fromkeys(part.kind for part in parts)
    ]
    usage = {part.kind: part.choice for part in parts}
    summary = parts[0].summary
    known = {
        "distribution": distribution,
        "package": package,
        "recipe": recipe,
        "summary": summary,
        "major_minor": ".".join(__version__.split(".")[:2]),
        "first": f"{parts[0].kind}/{parts[0].name}",
        "entry_points": "\n\n".join(entries),
        "table": "\n".join(f"| `{part.kind}` | `{part.name}` | {_cell(part.summary)} |" for part in parts),
        "usage": "```yaml\n"
        + "\n".join(f"{kind}: {json.dumps(choice, ensure_ascii=False)}" for kind, choice in usage.items())
        + "\n```",
        "imports": f"from {package}.{name} import {', '.join(sorted({part.attribute for part in parts}))}",
        "conformances": "\n".join(f"test_{part.name}_as_{part.kind} = conformance({part.attribute})" for part in parts),
    }
    head = HEAD.format(summary=summary, path=recipe, distribution=distribution)
    return {
        "pyproject.toml": _filled("pyproject.toml", known | {"summary": json.dumps(summary, ensure_ascii=False)[1:-1]}),
        "README.md": _filled("README.md", known),
        "LICENSE": metadata.distribution(OWN).read_text("licenses/LICENSE") or "",
        ".gitignore": _filled("gitignore", {}),
        f"{package}/__init__.py": f'"""{_in_docstring(summary)}"""\n',
        f"{package}/{name}.py": code,
        recipe: head + "\n" + dump_values(_recipe(distribution, usage)),
        f"tests/test_{name}.py": _filled("test.py", known),
        ".github/workflows/test.yml": _filled("test.yml", None),
    }


def _filled(name: str, known: dict[str, str] | None) -> str:
    text = (files("ni_framework.scaffold") / "files" / f"{name}.txt").read_text(encoding="utf-8")
    return text if known is None else text.format(**known)


def _recipe(distribution: str, choices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A small interpreter of the digits, or of the distribution's own data, with its components in their places."""
    recipe = {
        "ni": 1,
        "requires": [f"{distribution}>=0.1"],
        **{key: value for key, value in SET.items() if key != "ni"},
    }
    recipe["model"] = {**SET["model"], **{kind: of for kind, of in choices.items() if kind not in ("linear", "data")}}
    if "linear" in choices and "body" not in choices:
        recipe["model"]["body"] = {**SET["model"]["body"], "linear": choices["linear"]}
    return recipe | ({"data": choices["data"]} if "data" in choices else {})


def _cell(text: str) -> str:
    """A text as it stands in a table of Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _in_docstring(text: str) -> str:
    """A text as it stands between three double quotes of Python."""
    return text.replace("\\", "\\\\").replace('"', "'")


def _class_name(name: str, kind: str, code: str) -> str:
    """What to call the class: by the name, and by the kind too where the code or Python has something of that name."""
    plain = _camel(name)
    is_taken = hasattr(builtins, plain) or re.search(rf"\b{plain}\b", code)
    return plain + _camel(kind) if is_taken else plain


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
