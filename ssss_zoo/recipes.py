"""The files of `configs/`, and what lies beside a method of one's own: layers of a run's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssss_zoo.errors import UserError, expanded
from ssss_zoo.reading import read_file
from ssss_zoo.text import brief

RELEASE = ":release"  # behind a method: with every switch as its release's figures were made


def recipes(kind: str) -> dict[str, Path]:
    """The files of `configs/<kind>/` by name; kind is method, dataset, protocol or study."""
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in files("ssss_configs").joinpath(kind).iterdir()
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
    Raises UserError for a file that is not there, or whose name is no name for a method."""
    names, found = [], {}
    for part in method.split("+"):
        file = expanded(part)
        if file.suffix != ".py":
            names.append(part)
            continue
        if not file.is_file():
            raise UserError(f"{key}={method}: no such file {part}; it takes a name or the path of a Python file")
        if not re.fullmatch(r"(?!default$)[A-Za-z_]\w*", file.stem):
            raise UserError(f"{key}={method}: '{file.stem}' is no name for a method; call the file like my_idea.py")
        names.append(file.stem)
        found[file.stem] = file.resolve()
    return "+".join(names), found


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
    for point in entry_points(group="ssss_zoo.methods", name=name):
        with suppress(ImportError, AttributeError, ValueError):  # a broken plugin says so when it is loaded
            spec = find_spec(point.module)
            if spec and spec.origin:
                return Path(spec.origin).with_name(f"{name}.yaml")
    return None


def stack(method: str, local: Mapping[str, Path]) -> list[str]:
    """The parts of `a+b`; an addition that is named first stands on the `base` that its recipe names."""
    parts = method.split("+")
    base = method_recipe(parts[0], local).get("base")
    return [*(base.split("+") if base else []), *parts]


def method_layers(method: str, dataset: str, local: Mapping[str, Path], release: str = "") -> list[dict[str, Any]]:
    """For each part of `a+b`: its recipe and the recipe's part for this data set. local: files of methods of the user's
    own, by name; release: RELEASE where the switches of the releases are wanted, which lie over all that. Raises
    UserError where there are none."""
    layers, names = [], []
    for part in stack(method, local):
        layer = method_recipe(part, local)
        special, _, _ = layer.pop("datasets", {}), layer.pop("base", None), layer.pop("release", None)
        wanted = layer.pop("plugins", {}).get("names", [part])
        names += [name for name in wanted if name not in names]
        layers += [layer, special.get(dataset, {})]
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
        switches = dict(method_recipe(part, local).get("release", {}))
        special = switches.pop("datasets", {})
        layers += [switches, special.get(dataset, {})]
    return [layer for layer in layers if layer]
