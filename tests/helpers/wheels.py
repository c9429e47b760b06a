"""Wheels that tests write and install with pip, like those of third parties."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen


@frozen
class Wheel:
    """A distribution with one module of the same name."""

    name: str  # "ni-odd"
    source: str
    entries: Mapping[str, Mapping[str, str]]  # kind -> name -> object in the module
    version: str = "0.1"

    def write(self, folder: Path) -> Path:
        """The wheel as a file in a folder."""
        module = self.name.replace("-", "_")
        info = f"{module}-{self.version}.dist-info"
        groups = [
            "\n".join([f"[ni_framework.{kind}]", *(f"{name} = {module}:{value}" for name, value in values.items())])
            for kind, values in self.entries.items()
        ]
        path = folder / f"{module}-{self.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{module}.py", self.source)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n")
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/entry_points.txt", "\n\n".join(groups) + "\n")
            wheel.writestr(f"{info}/RECORD", "")
        return path


def pip_install(wheels: list[Wheel], folder: Path) -> Path:
    """Installs wheels into a new folder, which is returned, to be put on the path."""
    wheel_folder = folder / "wheels"
    wheel_folder.mkdir()
    files = [str(wheel.write(wheel_folder)) for wheel in wheels]
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
    target = folder / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(target), *files], check=True)
    return target
