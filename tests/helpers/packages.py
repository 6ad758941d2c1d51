"""Packages of methods that are on the path as if pip had installed them."""

from __future__ import annotations

import tomllib
from pathlib import Path


def write_metadata(package: Path, folder: Path) -> None:
    """Write what pip would: the name, version and entry points of the package in `package` into `folder`, where Python
    finds them once `folder` is on its path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    sections = [
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(sections))
