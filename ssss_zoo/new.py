"""`ssss new`: a method to start from, as one file or as a package with its tests."""

from __future__ import annotations

import keyword
import re
from datetime import date
from importlib.resources import files
from pathlib import Path

from ssss_zoo.errors import UserError

PARTS = {  # of a package: template by the place of its file
    "pyproject.toml": "package/pyproject.toml.j2",
    "README.md": "package/README.md.j2",
    "LICENSE": "package/LICENSE.j2",
    "{module}/__init__.py": "package/init.py.j2",
    "{module}/{name}.py": "method.py.j2",
    "{module}/{name}.md": "package/card.md.j2",
    "{module}/{name}.yaml": "package/recipe.yaml.j2",
    "tests/test_{name}.py": "package/tests/test_method.py.j2",
    ".github/workflows/ci.yml": "package/workflows/ci.yml.j2",
}


def new(name: str, single: bool, folder: Path) -> list[Path]:
    """Write the method `name` into `folder`: as <name>.py where it is a single file, else as the package <name>/.
    Returns what was written. Raises UserError for a name that is none, and where something lies there already."""
    words = named(name)
    if single:
        return [written(folder / f"{words['name']}.py", "method.py.j2", words)]
    place = folder / name
    if place.exists():
        raise UserError(f"{place} is there already; choose another name, or --output=FOLDER")
    return [written(place / file.format(**words), template, words) for file, template in PARTS.items()]


def named(name: str) -> dict[str, str]:
    """The names that follow from `my-method`: name and module my_method, class MyMethod, title My method."""
    small = name.replace("-", "_").lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", small) or keyword.iskeyword(small):
        raise UserError(f"'{name}' is no name for a method; letters, digits and '-', as in my-method")
    parts = [part for part in small.split("_") if part]
    return {
        "name": small,
        "module": f"ssss_{small}",
        "package": f"ssss-{small.replace('_', '-')}",
        "class": "".join(part.capitalize() for part in parts),
        "title": " ".join(parts).capitalize(),
        "year": str(date.today().year),
    }


def written(file: Path, template: str, words: dict[str, str]) -> Path:
    """Fill the template in and write it. Raises UserError rather than write over a file."""
    from jinja2 import Environment, StrictUndefined

    if file.exists():
        raise UserError(f"{file} is there already; choose another name, or --output=FOLDER")
    source = files("ssss_zoo.templates").joinpath(template).read_text("utf-8")
    text = Environment(keep_trailing_newline=True, undefined=StrictUndefined).from_string(source).render(words)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    return file
