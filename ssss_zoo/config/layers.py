"""The files of `configs/`, and what lies beside a method of one's own: layers of a run's configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.metadata import EntryPoint
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import read_file, read_value, section
from ssss_zoo.config.yaml_text import told_at
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.text import brief

RELEASE = ":release"  # behind a method: with every switch as its release's figures were made


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Those of a group, of all installed packages; read once, since it takes as long as all else that names are for."""
    return entry_points_on(tuple(sys.path), group)


@cache
def entry_points_on(path: tuple[str, ...], group: str) -> tuple[EntryPoint, ...]:
    """As `entry_points`. path: `sys.path`, where Python looks for packages."""
    return tuple(metadata.entry_points(group=group))


def recipes(kind: str) -> dict[str, Path]:
    """The files of `configs/<kind>/` by name; kind is method, dataset, protocol or study."""
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in files("ssss_zoo.configs").joinpath(kind).iterdir()
        if entry.name.endswith(".yaml")
    }


def dataset_layer(dataset: str) -> dict[str, Any]:
    path = recipes("dataset").get(dataset)
    return read_file(path) if path else {}  # a data set of a plugin may do without a file


def variant(method: str) -> tuple[str, str]:
    """`unimatch:release` as `unimatch` and `:release`; a plain name as it is and nothing. Raises UserError for another
    word behind the colon."""
    name, colon, word = method.rpartition(":")
    if not colon or "/" in word:
        return method, ""
    if word != RELEASE.removeprefix(":"):
        shown = f"method={brief(method)}"
        raise UserError(f"{shown}: a method is followed by {RELEASE} or nothing, after all that are joined by +")
    return name, RELEASE


def local_files(method: str, key: str = "method") -> tuple[str, dict[str, Path]]:
    """`unimatch+./mine.py` as `unimatch+mine`, and the files named by their method. key: the setting that says so.
    Raises UserError for a file that is not there, or whose name is no name for a method, or another file's."""
    names: list[str] = []
    found: dict[str, Path] = {}
    for part in method.split("+"):
        if not part.endswith(".py"):
            names.append(part)
            continue
        file = whole(part)
        told = f"{key}={brief(method)}"
        if not is_file(file):
            raise UserError(f"{told}: no such file {brief(part)}; it takes a name or the path of a Python file")
        if not re.fullmatch(r"(?!default$)[A-Za-z_]\w*", file.stem):
            raise UserError(f"{told}: '{file.stem}' is no name for a method; call the file like my_idea.py")
        if found.get(file.stem, file) != file:
            raise UserError(f"{told} names two files {file.name}; a method goes by its file's name: rename one")
        names.append(file.stem)
        found[file.stem] = file
    return "+".join(names), found


def whole(text: str) -> Path:
    """A path from the root on; as it stands where it can be none, with a NUL character. Raises as `expanded` does."""
    try:
        return expanded(text).resolve()
    except (OSError, ValueError):
        return Path(text)


def is_file(path: Path) -> bool:
    """Whether a file is there; False also for what can be no path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a NUL character
        return False


# --- a person's own Python files ------------------------------------------------------------------------------------


def name_files(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """The tree with names in place of the Python files that its `method` and `hooks.<hook>` name, which go to the front
    of `plugins.path`; and those files by their method."""
    own, hooks = dict(tree), section(tree, "hooks")
    asked = {hook: (names, f"hooks.{hook}") for hook, names in hooks.items() if isinstance(names, str)}
    if isinstance(tree.get("method"), str):
        asked["method"] = (tree["method"], "method")
    files: dict[str, Path] = {}
    for key, (names, told) in asked.items():
        with told_at(names):
            plain, release = variant(names) if told == "method" else (names, "")
            short, found = local_files(plain, told)
            twice = next((name for name in found if files.get(name, found[name]) != found[name]), None)
            if twice:
                raise UserError(f"{told}={brief(names)}: {twice}.py is another file than {files[twice]}: rename one")
        files |= found
        if found and told == "method":
            own["method"] = short + release
        elif found:
            own["hooks"] = section(own, "hooks") | {key: short}
    if files:
        paths = [*map(str, files.values()), *paths_of(tree)]
        own["plugins"] = section(tree, "plugins") | {"path": list(dict.fromkeys(paths))}
    return own, files


def paths_of(tree: Mapping[str, Any]) -> list[str]:
    """What `plugins.path` of a tree names."""
    named = section(tree, "plugins").get("path", [])
    return [part for part in named.split(",") if part] if isinstance(named, str) else list(map(str, named))


def strangers(own: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The Python files that a file's tree `own` would have run, and the command line's `given` does not name."""
    known = {whole(path) for path in paths_of(given)}
    return [path for path in paths_of(own) if whole(path) not in known]


def files_in(words: Any) -> dict[str, Path]:
    """Whatever looks like a Python file in words, or in a tree of them, by how it is written there."""
    if isinstance(words, Mapping):
        return files_in([*words.keys(), *words.values()])
    if isinstance(words, (list, tuple)):
        return {text: file for word in words for text, file in files_in(word).items()}
    return {part: whole(part) for part in re.split(r"[\s,+:=\[\]{}'\"]+", str(words)) if part.endswith(".py")}


def not_trusted(file: str, place: object) -> UserError:
    """The error for a Python `file` that only another file names. place: of the word or the file that does."""
    return UserError(
        f"{place} names a Python file, {file}, which would be run: if you trust it, say plugins.trust=true, or name it "
        f"on the command line, as method={file}"
    )


# --- recipes --------------------------------------------------------------------------------------------------------


def method_recipe(name: str, local: Mapping[str, Path]) -> dict[str, Any]:
    """The recipe of a method: for a user's own file the YAML file beside it; else the one of configs/method/; else, for
    a plugin, the YAML file beside its module. A method may do without."""
    known = recipes("method")
    if name in local:
        file: Path | None = local[name].with_suffix(".yaml")
    else:
        file = known[name] if name in known else beside_module(name)
    return read_file(file) if file and file.is_file() else {}


def beside_module(name: str) -> Path | None:
    """Where the recipe of an installed method would lie: beside its module, by the method's name."""
    for point in entry_points("ssss_zoo.methods"):
        if point.name != name:
            continue
        with suppress(ImportError, AttributeError, ValueError):  # a broken plugin says so when it is loaded
            spec = find_spec(point.module)
            if spec and spec.origin:
                return Path(spec.origin).with_name(f"{name}.yaml")
    return None


def told_value(recipe: Mapping[str, Any], key: str, kind: Any) -> Any:
    """A key that recipes alone have, read by its type."""
    value = recipe.get(key)
    with told_at(value):
        return read_value(value, kind, key)


SECTIONS = dict[str, dict[str, Any]] | None  # by data set: a part of a recipe


def stack(method: str, local: Mapping[str, Path]) -> list[str]:
    """The parts of `a+b`; an addition that is named first stands on the `base` that its recipe names."""
    parts = method.split("+")
    base = told_value(method_recipe(parts[0], local), "base", str | None)
    return [*(base.split("+") if base else []), *parts]


def method_layers(method: str, dataset: str, local: Mapping[str, Path], release: str = "") -> list[dict[str, Any]]:
    """For each part of `a+b`: its recipe and the recipe's part for this data set. local: files of methods of the user's
    own, by name; release: RELEASE where the switches of the releases are wanted, which lie over all that. Raises
    UserError where there are none."""
    layers, names = [], []
    for part in stack(method, local):
        layer = method_recipe(part, local)
        special = (told_value(layer, "datasets", SECTIONS) or {}).get(dataset, {})
        plugins = section(layer, "plugins")
        check_no_plugins(part, {"path": plugins["path"]} if "path" in plugins else {}, special)
        wanted = read_value(plugins.get("names", [part]), list[str], "plugins.names")
        names += [name for name in wanted if name not in names]
        own = ("base", "datasets", "plugins", "release")
        layers += [{key: value for key, value in layer.items() if key not in own}, special]
    switches = release_layers(method, dataset, local)
    if release and not switches:
        others = [name for name in sorted(recipes("method")) if release_layers(name, dataset, {})]
        raise UserError(
            f"method={method}{release} dataset={dataset}: no switches of a release are known; what is known stands on "
            f"the card (`ssss card {method}`). Such switches have: {', '.join(others)}"
        )
    return [*layers, *(switches if release else []), {"plugins": {"names": names}}]


def release_layers(method: str, dataset: str, local: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The `release` parts of a method's recipes that say something: what stands above their `datasets`, and what is for
    this data set there."""
    layers = []
    for part in stack(method, local):
        switches = told_value(method_recipe(part, local), "release", dict[str, Any] | None) or {}
        special = (told_value(switches, "datasets", SECTIONS) or {}).get(dataset, {})
        general = {key: value for key, value in switches.items() if key != "datasets"}
        check_no_plugins(part, section(general, "plugins"), special)
        layers += [general, special]
    return [layer for layer in layers if layer]


def check_no_plugins(part: str, plugins: Mapping[str, Any], special: Mapping[str, Any]) -> None:
    """Raise UserError for a recipe that would have files run, or say of one data set or release who speaks."""
    if plugins or "plugins" in special:
        raise UserError(f"the recipe of '{brief(part)}' names plugins where none have a place: plugins.names alone")
