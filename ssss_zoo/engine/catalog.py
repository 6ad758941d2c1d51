"""The lists that `ssss list` prints. A broken plugin is listed with its error and does not hide the others.

Plugins are read from their source text where that suffices: a list then takes no import of torch."""

from __future__ import annotations

import dataclasses
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import recipe_file, recipes
from ssss_zoo.engine.plugin_source import UNCHOSEN_HOOKS, hook_docs, installed, packages_of, read_plugin
from ssss_zoo.errors import UserError, unknown

BASE_LINE = re.compile(r"^base: *(\w+)", re.MULTILINE)  # of a recipe: a list needs no more of it, and YAML reads slowly


def listing(kind: str) -> list[dict[str, Any]]:
    """One object per item: `name`, `about` (with its source), `package`; methods and data sets also have `needs`,
    methods `hooks`, hooks `answered_by`."""
    if kind == "protocols":
        return [{"name": name, "about": first_comment(path), "package": "ssss-zoo"} for name, path in protocols()]
    return list_hooks() if kind == "hooks" else [describe_plugin(kind, name) for name in sorted(installed(kind))]


def protocols() -> list[tuple[str, Path]]:
    return sorted(recipes("protocol").items())


def first_comment(path: Path) -> str:
    return path.read_text("utf-8").splitlines()[0].removeprefix("# ")


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    """An item of `listing`. A plugin that cannot be imported has its error as `about`."""
    item: dict[str, Any] = {"name": name, "package": " and ".join(packages_of(kind, name))}
    source = read_plugin(kind, name)
    if source:
        doc, constants, marked = source.doc, source.constants, source.hooks
    else:
        from ssss_zoo.engine.registry import load, marked_hooks

        try:
            thing = load(kind, name)
        except UserError as error:
            return item | {"about": f"BROKEN: {error}", "hooks": []}
        doc, marked = thing.__doc__ or "", frozenset(marked_hooks(thing))
        constants = {key: getattr(thing, key, "") for key in ("paper", "source")}
    needs = needs_of(kind, name, marked, source.bases if source else frozenset())
    first_line = next(iter(doc.strip().splitlines()), "no description")
    about = constants.get("paper") or constants.get("source") or first_line
    if kind != "methods":
        return item | {"about": about, "needs": needs}
    return item | {"about": about, "needs": needs, "hooks": [hook for hook in hook_docs() if hook in marked]}


def needs_of(kind: str, name: str, hooks: frozenset[str], bases: frozenset[str]) -> str:
    """What an item asks for beyond the usual, in a few words."""
    if kind == "datasets":
        return "data.root=DIR" if "FileDataset" in bases else ""
    if kind != "methods":
        return ""
    base = BASE_LINE.search(recipe_text(name))
    needs = [f"added to {base[1]}"] if base else []
    needs += ["several networks"] if "make_students" in hooks else []
    return ", ".join([*needs, *(["several trainings"] if "plan_stages" in hooks else [])])


def recipe_text(name: str) -> str:
    """The recipe of an installed method; empty where it has none."""
    file = recipe_file(name)
    return file.read_text("utf-8") if file and file.is_file() else ""


def first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].removesuffix(".") + "."


def read_card(name: str) -> str:
    """The card of an installed method: the Markdown file beside its module. Raises UserError where there is none."""
    if name not in installed("methods"):
        raise unknown("method", name, installed("methods"))
    if not read_plugin("methods", name):
        load_method(name)
    package, _, module = installed("methods")[name].module.rpartition(".")
    file = files(package).joinpath(f"{module}.md") if package else None
    if file is None or not file.is_file():
        raise UserError(f"method '{name}' of package {packages_of('methods', name)[0]} has no card")
    return file.read_text("utf-8")


def full_card(name: str) -> str:
    """The card of an installed method, followed by the table of its options, which is made from the class."""
    text = read_card(name)
    source = read_plugin("methods", name)
    table = option_table(name, source.options if source and source.options else load_method(name))
    return text + (f"\n## Options\n{table}" if table else "")


def load_method(name: str) -> type:
    """Import a method. Raises UserError where that fails."""
    from ssss_zoo.engine.registry import load

    method: type = load("methods", name)
    return method


def option_table(name: str, method: type) -> str:
    """The options of a method as a Markdown table: key, accepted values, default. Empty if there are none."""
    if not dataclasses.is_dataclass(method):
        return ""
    rows = []
    declared = field_types(method)
    for field in dataclasses.fields(method):
        if field.name in declared:
            value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            default = "" if value is dataclasses.MISSING else f"`{value}`"
            rows.append(f"| `options.{name}.{field.name}` | {declared[field.name]} | {default} |\n")
    return "".join(["| option | takes | default |\n", "|---|---|---|\n", *rows]) if rows else ""


def list_hooks() -> list[dict[str, Any]]:
    """Every hook with the installed methods that implement it."""
    methods = [describe_plugin("methods", name) for name in sorted(installed("methods"))]
    items = []
    for name, doc in hook_docs().items():
        answered = [method["name"] for method in methods if name in method["hooks"]]
        items.append(
            {
                "name": name,
                "about": first_sentence(doc),
                "answered_by": answered,
                "choosable": name not in UNCHOSEN_HOOKS,
                "package": "ssss-zoo",
            }
        )
    return items
