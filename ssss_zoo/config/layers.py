"""The files of `configs/`, and the recipes beside other people's methods: the layers of a run's configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import Tree, no_section, parse_value, read_file, section
from ssss_zoo.config.yaml_text import located
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.text import brief


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, of all installed packages. They are read once, which takes longer than all other
    work on names."""
    return entry_points_on(tuple(sys.path), group)


@cache
def entry_points_on(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """As `entry_points`. path: `sys.path`, where Python looks for packages."""
    return tuple(all_entry_points(path).select(group=group))


@cache
def all_entry_points(path: tuple[str, ...]) -> Any:  # EntryPoints; Python 3.11 gives another class with `select`
    """Those of every group. A group by itself takes as long, since the files of all packages are read either way."""
    return metadata.entry_points()


def recipes(kind: str) -> dict[str, Path]:
    """The files of `configs/<kind>/` by name; kind is method, dataset, protocol or study."""
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in files("ssss_zoo.configs").joinpath(kind).iterdir()
        if entry.name.endswith(".yaml")
    }


def dataset_layer(dataset: str) -> Tree:
    """The settings of a data set's recipe; a data set of a plugin may do without one."""
    path = recipes("dataset").get(dataset)
    return read_file(path) if path else {}


# --- protocols ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProtocolFile:
    """A file of configs/protocol/. dataset, family: the data set, and the family of its split lists, that its figures
    are on; settings: of crop and scoring."""

    name: str
    dataset: str
    family: str
    settings: Tree


def read_protocol(name: str) -> ProtocolFile:
    """Raises UserError for an unknown protocol."""
    known = recipes("protocol")
    if name not in known:
        raise unknown("protocol", name, known, f"protocol={name}")
    tree = read_file(known[name])
    settings = {key: value for key, value in tree.items() if key not in ("dataset", "family")}
    return ProtocolFile(name, str(tree["dataset"]), str(tree["family"]), settings)


# --- methods --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """The recipe of a method. base: the methods that it stands on where it is named first; plugins: the methods that it
    is made of; settings, and by data set; release: the switches of its release, and by data set."""

    base: str | None
    plugins: list[str]
    settings: Tree
    settings_by_dataset: dict[str, Tree]
    release: Tree
    release_by_dataset: dict[str, Tree]


def read_recipe(name: str, local: Mapping[str, Path]) -> Recipe:
    """The recipe of a method, an empty one where it has none. local: the user's own files by method. Raises UserError
    for a key that holds another kind of value than it takes, or that names plugins where it must not."""
    tree = recipe_tree(name, local)
    release, plugins = section_or_error(tree, "release"), section(tree, "plugins")
    recipe = Recipe(
        parse_value(tree["base"], str | None, "base") if "base" in tree else None,
        parse_value(plugins["names"], list[str], "plugins.names") if "names" in plugins else [name],
        {key: value for key, value in tree.items() if key not in ("base", "datasets", "plugins", "release")},
        sections_by_dataset(tree),
        {key: value for key, value in release.items() if key != "datasets"},
        sections_by_dataset(release),
    )
    others = [recipe.release, *recipe.settings_by_dataset.values(), *recipe.release_by_dataset.values()]
    if "path" in plugins or any("plugins" in other for other in others):
        raise UserError(f"the recipe of '{brief(name)}' names plugins where none have a place: plugins.names alone")
    return recipe


def recipe_tree(name: str, local: Mapping[str, Path]) -> Tree:
    """The file of a method's recipe: for a user's own file the YAML file beside it; else the one of configs/method/;
    else, for a plugin, the YAML file beside its module. A method may do without."""
    file = local[name].with_suffix(".yaml") if name in local else recipe_file(name)
    return read_file(file) if file and file.is_file() else {}


def recipe_file(name: str) -> Path | None:
    """Where the recipe of an installed method lies, or would lie."""
    known = recipes("method")
    return known[name] if name in known else recipe_beside_module(name)


def recipe_beside_module(name: str) -> Path | None:
    """Where the recipe of an installed method would lie: beside its module, by the method's name."""
    for point in entry_points("ssss_zoo.methods"):
        if point.name != name:
            continue
        with suppress(ImportError, AttributeError, ValueError):  # a broken plugin says so when it is loaded
            spec = find_spec(point.module)
            if spec and spec.origin:
                return Path(spec.origin).with_name(f"{name}.yaml")
    return None


def section_or_error(tree: Mapping[str, Any], key: str) -> Tree:
    """A section of the tree, an empty one where it is absent. Raises UserError for another value."""
    value = tree.get(key)
    if isinstance(value, Mapping) or value in (None, "", "null", "~"):
        return section(tree, key)
    with located(value):
        raise no_section(key, value)


def sections_by_dataset(tree: Mapping[str, Any]) -> dict[str, Tree]:
    """The parts of a recipe that its `datasets` have, by data set."""
    parts = section_or_error(tree, "datasets")
    return {dataset: section_or_error(parts, dataset) for dataset in parts}


def read_recipes(method: str, local: Mapping[str, Path]) -> list[Recipe]:
    """The recipes of the parts of `a+b`. An addition that is named first stands on the `base` that its recipe names."""
    first, *others = method.split("+")
    recipe = read_recipe(first, local)
    base = recipe.base.split("+") if recipe.base else []
    return [*(read_recipe(part, local) for part in base), recipe, *(read_recipe(part, local) for part in others)]


def method_layers(method: str, dataset: str, local: Mapping[str, Path], release: str = "") -> list[Tree]:
    """For each part of `a+b` the settings of its recipe, then those for this data set. release: `:release` lays the
    switches of the releases over all that. Raises UserError where there are none."""
    parts = read_recipes(method, local)
    layers = [layer for recipe in parts for layer in (recipe.settings, recipe.settings_by_dataset.get(dataset, {}))]
    switches = release_layers(method, dataset, local) if release else []
    if release and not switches:
        others = [name for name in sorted(recipes("method")) if release_layers(name, dataset, {})]
        raise UserError(
            f"method={method}{release} dataset={dataset}: no switches of a release are known; what is known stands on "
            f"the card (`ssss card {method}`). Such switches have: {', '.join(others)}"
        )
    names = dict.fromkeys(name for recipe in parts for name in recipe.plugins)
    return [*layers, *switches, {"plugins": {"names": list(names)}}]


def release_layers(method: str, dataset: str, local: Mapping[str, Path]) -> list[Tree]:
    """The switches of the releases of a method's parts: of each those for every data set, then those for this one."""
    layers = [
        layer
        for recipe in read_recipes(method, local)
        for layer in (recipe.release, recipe.release_by_dataset.get(dataset, {}))
    ]
    return [layer for layer in layers if layer]
