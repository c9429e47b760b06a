"""Single-file plugins: `--plugin swirl.py` makes the components of a file available to one command, without installation."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeGuard

from ni_framework.errors import PluginError, Problem
from ni_framework.registry.discover import FILE_PLUGIN_PREFIX, Entry

_files: list[Path] = []
# The imported modules, by resolved path.
_modules: dict[Path, Any] = {}


def add_plugin_file(path: str) -> None:
    """Adds a file to the plugins of this process; it is read when the catalog is first used."""
    _files.append(Path(path))


def plugin_files() -> tuple[Path, ...]:
    """The files that were added."""
    return tuple(_files)


def plugin_cli_options() -> str:
    """The `--plugin` options for the added files, quoted for a shell."""
    return "".join(f" --plugin {shlex.quote(str(path))}" for path in _files)


def clear_plugin_files() -> None:
    """Removes all added files and their modules."""
    for module in _modules.values():
        sys.modules.pop(module.__name__, None)
    _modules.clear()
    _files.clear()


def file_plugin_entries() -> list[Entry]:
    """The components in the files: every component class, under its name in lower case (TopK is `top_k`).

    Raises `PluginError` for a file that is absent, cannot be imported, or contains no component.
    """
    # A file that was added twice counts once.
    by_resolved_path = {path.resolve(): path for path in reversed(_files)}
    return [entry for path in reversed(by_resolved_path.values()) for entry in entries_in_file(path)]


def find_plugin_file(entry: Entry) -> Path | None:
    """The file that contains an entry, as the path was given; None for an installed entry."""
    return next((path for path in _files if _imported_module_name(path) == entry.module), None)


def _imported_module_name(path: Path) -> str | None:
    module = _modules.get(path.resolve())
    return module and module.__name__


def entries_in_file(path: Path) -> list[Entry]:
    """The components in one file; base classes, and classes whose name begins with _, are not components."""
    # Imported here because it imports torch, which is needed only if there is a file.
    from ni_framework.contracts import COMPONENT_BASES

    module = _load_module(path)
    names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    entries = [
        Entry(kind, _component_name(name), path.name, "", f"{module.__name__}:{name}")
        for name, value in names.items()
        for kind, base in COMPONENT_BASES.items()
        if _is_component(value, base, module.__name__) and name == _canonical_name(names, value)
    ]
    if not entries:
        hint = (
            "a component is a subclass of one of the base classes in ni_framework.contracts, or made with @elementwise"
        )
        raise PluginError([Problem(f"{path}: contains no component", hint=hint)])
    return entries


def _is_component(value: object, base: type, module: str) -> TypeGuard[type]:
    return (
        isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module
        and not getattr(value, "__abstractmethods__", ())
    )


def _canonical_name(names: Mapping[str, object], value: type) -> str:
    """The one name that is used for a class with several names in a module: its own, or else the first."""
    aliases = [name for name, other in names.items() if other is value]
    return value.__name__ if value.__name__ in aliases else aliases[0]


def _component_name(name: str) -> str:
    """TopK -> top_k, MLP -> mlp."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _new_module_name(path: Path) -> str:
    """A module name that is not in use yet, also for a second file with the same name."""
    name = FILE_PLUGIN_PREFIX + re.sub(r"\W", "_", path.stem)
    while name in sys.modules:
        name += "_"
    return name


def _load_module(path: Path) -> Any:
    """The module in a file, imported once."""
    from ni_framework.registry.guarded_import import PluginImportError, run_guarded

    resolved, name = path.resolve(), _new_module_name(path)
    if resolved in _modules:
        return _modules[resolved]
    spec = spec_from_file_location(name, path) if path.is_file() and path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise PluginError([Problem(f"{path}: is not a Python file; name one with --plugin")])
    module = module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        run_guarded(lambda: loader.exec_module(module))
    except PluginImportError as fault:
        del sys.modules[name]
        cause = fault.__cause__
        message = f"{path}{_line_suffix(cause, str(spec.origin))}: {fault}"
        raise PluginError([Problem(message, hint=_import_hint(path, cause))]) from cause
    _modules[resolved] = module
    return module


def _import_hint(path: Path, cause: BaseException | None) -> str:
    """What to do about a file that cannot be imported."""
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        neighbour = path.resolve().parent / cause.name.partition(".")[0]
        if neighbour.is_dir() or neighbour.with_suffix(".py").is_file():
            return (
                f"a single-file plugin cannot import files next to it; make a package: ni plugin new NAME --from {path}"
            )
    return "fix the file"


def _line_suffix(cause: BaseException | None, path: str) -> str:
    """`:12` for the last line of the file in the traceback of an error; "" if there is no such line."""
    if isinstance(cause, SyntaxError):
        return f":{cause.lineno}"
    trace, line = cause.__traceback__ if cause else None, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
