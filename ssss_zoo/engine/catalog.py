"""The lists that `ssss list` prints. A broken plugin is listed with its error and does not hide the others."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import recipes
from ssss_zoo.engine.registry import CHOOSABLE_HOOKS, HOOKS, implemented_hooks, installed, load, packages_of
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit import hookspecs


def listing(kind: str) -> list[dict[str, Any]]:
    """One object per item: `name`, `about` (with its source), `package`; methods also have `hooks`, hooks
    `answered_by`."""
    if kind == "protocols":
        return [{"name": name, "about": first_comment(path), "package": "ssss-zoo"} for name, path in protocols()]
    return list_hooks() if kind == "hooks" else [describe_plugin(kind, name) for name in sorted(installed(kind))]


def protocols() -> list[tuple[str, Path]]:
    return sorted(recipes("protocol").items())


def first_comment(path: Path) -> str:
    return path.read_text("utf-8").splitlines()[0].removeprefix("# ")


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    item: dict[str, Any] = {"name": name, "package": " and ".join(packages_of(kind, name))}
    try:
        thing = load(kind, name)
    except UserError as error:
        return item | {"about": f"BROKEN: {error}", "hooks": []}
    first_line = next(iter((thing.__doc__ or "").strip().splitlines()), "no description")
    source = getattr(thing, "paper", "") or getattr(thing, "source", "") or first_line
    if kind != "methods":
        return item | {"about": source}
    hooks = implemented_hooks(thing)
    return item | {"about": f"{source}  [{' '.join(hooks)}]", "hooks": hooks}


def first_sentence(thing: Any) -> str:
    return " ".join((thing.__doc__ or "").split()).partition(". ")[0].removesuffix(".") + "."


def read_card(name: str) -> str:
    """The card of an installed method: the Markdown file beside its module. Raises UserError where there is none."""
    load("methods", name)
    package, _, module = installed("methods")[name].module.rpartition(".")
    file = files(package).joinpath(f"{module}.md") if package else None
    if file is None or not file.is_file():
        raise UserError(f"method '{name}' of package {packages_of('methods', name)[0]} has no card")
    return file.read_text("utf-8")


def full_card(name: str) -> str:
    """The card of an installed method, followed by the table of its options, which is made from the class."""
    table = option_table(name, load("methods", name))
    return read_card(name) + (f"\n## Options\n{table}" if table else "")


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
    for name in HOOKS:
        about = first_sentence(getattr(hookspecs, name))
        answered = [method["name"] for method in methods if name in method["hooks"]]
        items.append(
            {
                "name": name,
                "about": f"{about}  [{' '.join(answered) or 'no method yet'}]",
                "answered_by": answered,
                "choosable": name in CHOOSABLE_HOOKS,
                "package": "ssss-zoo",
            }
        )
    return items
