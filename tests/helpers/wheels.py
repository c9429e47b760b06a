"""Wheels made by hand, and installed by pip as anybody's would be."""

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
    entries: Mapping[str, Mapping[str, str]]  # kind -> name -> what it names in the module
    version: str = "0.1"

    def write(self, folder: Path) -> Path:
        """The wheel as a file in a folder."""
        module = self.name.replace("-", "_")
        info = f"{module}-{self.version}.dist-info"
        groups = [
            "\n".join([f"[ni_framework.{kind}]", *(f"{name} = {module}:{value}" for name, value in named.items())])
            for kind, named in self.entries.items()
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
    """The folder with them installed, to be put on the path."""
    made = folder / "wheels"
    made.mkdir()
    files = [str(wheel.write(made)) for wheel in wheels]
    quiet = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
    target = folder / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *files], check=True)
    return target
