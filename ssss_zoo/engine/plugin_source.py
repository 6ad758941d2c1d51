"""Reads plugins from their source text, so that lists, cards and messages about names need no import of torch.

Where the text does not suffice, because a module might fail at import or a class is put together in another way, the
caller imports the plugin instead.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution, EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from ssss_zoo.config.fields import Range
from ssss_zoo.config.layers import entry_points

PROJECT = "ssss_zoo"
UNCHOSEN_HOOKS = ("setup", "after_step", "after_eval")  # every loaded method answers these, whatever it was chosen for
HOOK_DECORATORS = ("hookimpl", "hookspec")
HARMLESS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)  # at import
ANNOTATION_NAMES = {"Annotated": Annotated, "Literal": Literal, "Range": Range, "bool": bool, "int": int,
                    "float": float, "str": str, "list": list}  # fmt: skip


def installed(kind: str) -> dict[str, EntryPoint]:
    """Entry points of the group `ssss_zoo.<kind>` by name, nothing imported. kind: methods, datasets, models."""
    return {point.name: point for point in entry_points(f"{PROJECT}.{kind}")}


def packages_of(kind: str, name: str) -> list[str]:
    """The packages that register the name: one, unless two packages clash or one package registers it twice."""
    points = [point for point in entry_points(f"{PROJECT}.{kind}") if point.name == name]
    return [package for package, _ in sorted({(package_of(point), point.value) for point in points})]


def package_of(point: EntryPoint) -> str:
    return distribution_name(point.dist) if point.dist else point.value


@cache
def distribution_name(distribution: Distribution) -> str:
    """The name of an installed package. It is asked for once, because each time the whole METADATA would be read."""
    return distribution.name


@dataclasses.dataclass(frozen=True)
class SourceClass:
    """A class as its source text shows it. constants: texts that it assigns to names. hooks: the functions that it
    marks. bases: the names of its base classes. options: a dataclass with its fields, None where it has others than an
    option may be."""

    doc: str
    constants: dict[str, str]
    hooks: frozenset[str]
    bases: frozenset[str]
    options: type | None


def read_plugin(kind: str, name: str) -> SourceClass | None:
    """An installed plugin, or None where only an import can tell what it is."""
    if len(packages_of(kind, name)) != 1:
        return None
    point = installed(kind)[name]
    try:
        return source_class(point.module, point.attr)
    except (ImportError, OSError, SyntaxError, ValueError, LookupError):
        return None


def source_class(module: str, name: str) -> SourceClass:
    """Raises one of several errors where the text of the module does not say what the class is."""
    tree = parse_module(module)
    if not all(map(cannot_fail, tree.body)):
        raise ValueError(f"{module} does more than to define things")
    node = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}[name]
    bases = [source_class(*place) for place in base_places(module, tree, node) if place]
    constants = {key: text for base in bases for key, text in base.constants.items()} | dict(text_constants(node))
    names = frozenset(base.id for base in node.bases if isinstance(base, ast.Name))
    hooks = frozenset(marked_functions(node.body)).union(*(base.hooks for base in bases))
    fields = [item for base in bases if base.options for item in option_fields(base.options)]
    try:
        names_known = ANNOTATION_NAMES | number_constants(tree)
        own = [
            field_of(item, names_known)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and not is_class_variable(item)
        ]
        merged = {item[0]: item for item in [*fields, *own]}
        options = dataclasses.make_dataclass(name, list(merged.values()))
    except (NameError, ValueError, TypeError, SyntaxError):
        options = None
    return SourceClass(ast.get_docstring(node) or "", constants, hooks, names, options)


def parse_module(module: str) -> ast.Module:
    """Raises ImportError for a module that is not there."""
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise ImportError(module)
    return parse_file(Path(spec.origin), Path(spec.origin).stat().st_mtime_ns)


@cache
def parse_file(file: Path, changed: int) -> ast.Module:
    """A Python file. changed: when, so that a file that was edited is parsed again."""
    return ast.parse(file.read_text("utf-8"))


def cannot_fail(statement: ast.stmt) -> bool:
    """Whether a statement of a module is a definition, or the import of a package that is there."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)  # the docstring
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "TYPE_CHECKING"
    if isinstance(statement, ast.Import):
        return all(find_spec(item.name.partition(".")[0]) for item in statement.names)
    if isinstance(statement, ast.ImportFrom):
        return statement.level > 0 or find_spec((statement.module or "").partition(".")[0]) is not None
    return isinstance(statement, HARMLESS)


def base_places(module: str, tree: ast.Module, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The module and the name of each base class of a method. Those of data sets and networks add nothing here."""
    imported = {
        item.asname or item.name: (statement.module or "", item.name)
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and not statement.level
        for item in statement.names
    }
    own = {statement.name for statement in tree.body if isinstance(statement, ast.ClassDef)}
    for base in node.bases:
        if not isinstance(base, ast.Name):
            raise ValueError(f"{module}: a base of {node.name} is not a name")
        if base.id in own:
            yield module, base.id
        elif not imported[base.id][0].startswith((f"{PROJECT}.data", f"{PROJECT}.models")):
            yield imported[base.id]


def text_constants(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item in node.body:
        target = item.target if isinstance(item, ast.AnnAssign) else None
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            target = item.targets[0]  # type: ignore[assignment]
        value = getattr(item, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield target.id, value.value


def number_constants(tree: ast.Module) -> dict[str, Any]:
    """The names to which a module assigns a number; the range of an option may name them."""
    return {
        item.targets[0].id: item.value.value
        for item in tree.body
        if isinstance(item, ast.Assign)
        and isinstance(item.targets[0], ast.Name)
        and isinstance(item.value, ast.Constant)
    }


def marked_functions(body: list[ast.stmt]) -> list[str]:
    """The functions with a decorator `@hookimpl` or `@hookspec`, with arguments or without."""
    return [
        function.name
        for function in body
        if isinstance(function, ast.FunctionDef)
        and any(ast.unparse(mark).partition("(")[0] in HOOK_DECORATORS for mark in function.decorator_list)
    ]


def is_class_variable(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation).startswith(("ClassVar", "typing.ClassVar"))


def field_of(item: ast.AnnAssign, names: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """A field of a dataclass, as `make_dataclass` takes it. Raises ValueError or NameError for one that is no plain
    option."""
    if not isinstance(item.target, ast.Name) or item.value is None:
        raise ValueError("a field without a default")
    declared = eval(ast.unparse(item.annotation), {"__builtins__": {}}, names)
    return item.target.id, declared, default_of(item.value)


def default_of(value: ast.expr) -> Any:
    """The default of a field: a literal, or `field(default_factory=lambda: ...)` of one. Raises ValueError for another
    expression."""
    if not isinstance(value, ast.Call):
        return dataclasses.field(default=ast.literal_eval(value))
    factories = [keyword.value for keyword in value.keywords if keyword.arg == "default_factory"]
    if ast.unparse(value.func) != "field" or len(value.keywords) != 1 or not isinstance(factories[0], ast.Lambda):
        raise ValueError("a default that is computed")
    made = ast.literal_eval(factories[0].body)
    return dataclasses.field(default_factory=lambda: copy.copy(made))


def option_fields(options: type) -> list[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(options, include_extras=True)
    return [
        (item.name, hints[item.name], dataclasses.field(default=item.default, default_factory=item.default_factory))
        for item in dataclasses.fields(options)
    ]


@cache
def hook_docs() -> dict[str, str]:
    """The hooks in the order of their specifications, with their docstrings."""
    file = Path(__file__).parents[1] / "toolkit" / "hookspecs.py"  # found without an import of its package
    tree = ast.parse(file.read_text("utf-8"))
    names = marked_functions(tree.body)
    functions = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}
    return {name: ast.get_docstring(functions[name]) or "" for name in names}
