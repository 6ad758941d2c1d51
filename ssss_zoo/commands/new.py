"""`ssss new`: a method to start from, as one file or as a package with its tests."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import fields
from datetime import date
from importlib.resources import files
from pathlib import Path

from ssss_zoo.errors import UserError

SINGLE = {"{name}.py": "method.py.j2", "test_{name}.py": "test_file.py.j2"}  # template by the name of its file
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


def new(name: str, single: bool, folder: Path, source: Path | None = None) -> list[Path]:
    """Write the method `name` into `folder`: as <name>.py and its test where it is a single file, else as the package
    <name>/. source: a file that holds the method already; its recipe and card, if they lie beside it, come along.
    Returns what was written. Raises UserError for a name that is none or is taken, for a source that is no method, and
    where something lies there already."""
    words = named(name)
    check_free(words["name"])
    if source:
        words |= of_source(source, words["name"])
    place = folder if single else folder / name
    made = {place / file.format(**words): template for file, template in (SINGLE if single else PARTS).items()}
    for there in made if single else [place]:
        if there.exists():
            raise UserError(f"{there} is there already; choose another name, or --output=FOLDER")
    return [written(file, own_text(file, source) or filled(template, words)) for file, template in made.items()]


def own_text(file: Path, source: Path | None) -> str | None:
    """What the author has of a file that is called as the method is: the source, or what lies beside it."""
    own = source.with_suffix(file.suffix) if source and file.stem == source.stem else None
    return own.read_text("utf-8") if own and own.is_file() else None


def check_free(name: str) -> None:
    """Raise UserError for the name of a method that is installed, and for the engine's own word."""
    from ssss_zoo.engine.registry import installed, package_of

    found = installed("methods")
    if name in found or name == "default":
        owner = f"a method of {package_of(found[name])} already" if name in found else "what the engine calls its own"
        raise UserError(f"'{name}' is {owner}; choose another name")


def of_source(source: Path, name: str) -> dict[str, str]:
    """What is known of a method that a file holds: its class and its hooks. Raises UserError for a file without one, or
    where another name is given to it."""
    from ssss_zoo.engine.registry import implemented_hooks, methods_of_file

    if source.suffix != ".py" or not source.is_file():
        raise UserError(f"--from={source}: no such file; it takes the path of a Python file with a method")
    if source.stem != name:
        raise UserError(f"--from={source}: a file gives its method its name; ssss new {source.stem} --from {source}")
    method = methods_of_file(str(source)).get(name)
    if method is None:
        raise UserError(f"--from={source}: one method a file, called as the file is")
    module = sys.modules[method.__module__]
    return {
        "class": method.__name__,
        "paper": str(getattr(method, "paper", "none yet")),
        "idea": (module.__doc__ or "say it in two sentences.").strip().removeprefix(f"{method.__name__}: "),
        "hooks": ", ".join(f"`{hook}`" for hook in implemented_hooks(method)),
        "options": ", ".join(f"`{option.name}` ({option.default})" for option in fields(method)) or "none",
        "source": str(source),
    }


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
        "paper": "none yet",
        "idea": "say it in two sentences.",
        "source": "",
    }


def filled(template: str, words: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    text = files("ssss_zoo.commands.templates").joinpath(template).read_text("utf-8")
    return Environment(keep_trailing_newline=True, undefined=StrictUndefined).from_string(text).render(words)


def written(file: Path, text: str) -> Path:
    """Write it. Raises UserError where it cannot be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    return file
