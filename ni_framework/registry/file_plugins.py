"""Plugins of one file: what is given by `--plugin swirl.py` is there as if it were installed, for one command."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeGuard

from ni_framework.errors import PluginError, Problem
from ni_framework.registry.discover import ONE_FILE, Entry

_files: list[Path] = []
_modules: dict[Path, Any] = {}  # what was imported, by resolved path


def use_file(path: str) -> None:
    """Adds a file to the plugins of this process; it is read when something of a plugin is first asked for."""
    _files.append(Path(path))


def files() -> tuple[Path, ...]:
    """The files that were given."""
    return tuple(_files)


def plugin_options() -> str:
    """The options by which the files were given, as a shell takes them."""
    return "".join(f" --plugin {shlex.quote(str(path))}" for path in _files)


def forget_files() -> None:
    """Takes all of them away again."""
    for module in _modules.values():
        sys.modules.pop(module.__name__, None)
    _modules.clear()
    _files.clear()


def entries_of_files() -> list[Entry]:
    """The components in the files: every class that is one, under its name in lower case (TopK is `top_k`).

    Raises `PluginError` for a file that is absent, cannot be imported, or holds none.
    """
    given = {path.resolve(): path for path in reversed(_files)}  # a file that is given twice counts once
    return [entry for path in reversed(given.values()) for entry in entries_in(path)]


def place_of(entry: Entry) -> Path | None:
    """The file that an entry is in, as it was given; None for what is installed."""
    return next((path for path in _files if _module_at(path) == entry.module), None)


def _module_at(path: Path) -> str | None:
    module = _modules.get(path.resolve())
    return module and module.__name__


def entries_in(path: Path) -> list[Entry]:
    """The components in one file; base classes and those whose name begins with _ are no components."""
    from ni_framework.contracts import BASES  # imports torch: only where a file is given

    module = _loaded(path)
    names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = [
        Entry(kind, _component_name(name), path.name, "", f"{module.__name__}:{name}")
        for name, value in names.items()
        for kind, base in BASES.items()
        if _is_component(value, base, module.__name__) and name == _name_in(names, value)
    ]
    if not found:
        hint = (
            "a component is a subclass of one of the base classes in ni_framework.contracts, or made with @elementwise"
        )
        raise PluginError([Problem(f"{path}: holds no component", hint=hint)])
    return found


def _is_component(value: object, base: type, module: str) -> TypeGuard[type]:
    return (
        isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module
        and not getattr(value, "__abstractmethods__", ())
    )


def _name_in(names: Mapping[str, object], value: type) -> str:
    """The one name that counts of a class that has several: its own, or else the first."""
    aliases = [name for name, other in names.items() if other is value]
    return value.__name__ if value.__name__ in aliases else aliases[0]


def _component_name(name: str) -> str:
    """TopK -> top_k, MLP -> mlp."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _module_name(path: Path) -> str:
    """A name of its own also for a second file that is called the same."""
    name = ONE_FILE + re.sub(r"\W", "_", path.stem)
    while name in sys.modules:
        name += "_"
    return name


def _loaded(path: Path) -> Any:
    """The module in a file, imported once."""
    from ni_framework.registry.guarded_import import ImportFault, guarded

    place, name = path.resolve(), _module_name(path)
    if place in _modules:
        return _modules[place]
    spec = spec_from_file_location(name, path) if path.is_file() and path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise PluginError([Problem(f"{path}: is no Python file; name one with --plugin")])
    module = module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        guarded(lambda: loader.exec_module(module))
    except ImportFault as fault:
        del sys.modules[name]
        line = _line(fault.__cause__, str(path))
        raise PluginError([Problem(f"{path}{line}: {fault}", hint=_hint(path, fault.__cause__))]) from fault.__cause__
    _modules[place] = module
    return module


def _hint(path: Path, fault: BaseException | None) -> str:
    """What to do about a file that cannot be imported."""
    if isinstance(fault, ModuleNotFoundError) and fault.name:
        beside = path.resolve().parent / fault.name.partition(".")[0]
        if beside.is_dir() or beside.with_suffix(".py").is_file():
            return f"a plugin of one file stands alone; make a package of it: ni plugin new NAME --from {path}"
    return "mend the file"


def _line(fault: BaseException | None, path: str) -> str:
    """`:12` where the last line of the file that a fault passed through is known."""
    if isinstance(fault, SyntaxError):
        return f":{fault.lineno}"
    trace, line = fault.__traceback__ if fault else None, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
