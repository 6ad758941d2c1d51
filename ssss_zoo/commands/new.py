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

SINGLE_FILES = {"{name}.py": "method.py.j2", "test_{name}.py": "test_file.py.j2"}  # template by the file's name
PACKAGE_FILES = {  # template by the file's path in the package
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


def write_method(name: str, folder: Path, source: Path | None = None, *, single: bool = False) -> list[Path]:
    """Write the method `name` into `folder`: <name>.py and its test where `single`, else the package <name>/.

    source: a file that holds the method already; the package takes it over, with the recipe and the card beside it.
    Returns the written files. Raises UserError for a name that is invalid or taken, for a source without the method,
    and where one of the files exists already.
    """
    values = values_from_name(name)
    check_name_is_free(values["name"])
    if source:
        values |= values_from_source(source, values["name"])
    target = folder if single else folder / name
    templates = {
        target / file.format(**values): template
        for file, template in (SINGLE_FILES if single else PACKAGE_FILES).items()
    }
    for path in templates if single else [target]:
        if path.exists():
            raise UserError(f"{path} exists already; choose another name, or --output=FOLDER")
    return [
        write_new_file(file, author_text(file, source) or render(template, values))
        for file, template in templates.items()
    ]


def author_text(file: Path, source: Path | None) -> str | None:
    """The author's text for a file with the method's name: the source, or the recipe or card beside it."""
    own = source.with_suffix(file.suffix) if source and file.stem == source.stem else None
    return own.read_text("utf-8") if own and own.is_file() else None


def check_name_is_free(name: str) -> None:
    """Raise UserError for the name of an installed method, and for `default`, which the engine uses."""
    from ssss_zoo.engine.plugin_source import installed, package_of

    found = installed("methods")
    if name in found or name == "default":
        owner = f"a method of {package_of(found[name])} already" if name in found else "the engine's name for its own"
        raise UserError(f"'{name}' is {owner}; choose another name")


def values_from_source(source: Path, name: str) -> dict[str, str]:
    """The values of the templates that the method's file gives, such as its class and its hooks. Raises UserError for
    a file without a method, or with one of another name."""
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


def values_from_name(name: str) -> dict[str, str]:
    """The values of the templates that follow from `my-method`: name my_method, class MyMethod, title My method."""
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


def render(template: str, values: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    text = files("ssss_zoo.commands.templates").joinpath(template).read_text("utf-8")
    return Environment(keep_trailing_newline=True, undefined=StrictUndefined).from_string(text).render(values)


def write_new_file(file: Path, text: str) -> Path:
    """Write the text and return the file. Raises UserError where the system refuses it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    return file
