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

from ssss_zoo.errors import UserError
from ssss_zoo.reading import read_file


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


def local_files(method: str, key: str = "method") -> tuple[str, dict[str, Path]]:
    """`unimatch+./mine.py` as `unimatch+mine`, and the files named by their method. key: the setting that says so.
    Raises UserError for a file that is not there, or whose name is no name for a method."""
    names, found = [], {}
    for part in method.split("+"):
        file = Path(part).expanduser()
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


def method_layers(method: str, dataset: str, local: Mapping[str, Path]) -> list[dict[str, Any]]:
    """For each part of `a+b`: its recipe and the recipe's part for this data set. An addition that is named first
    stands on the `base` that its recipe names. local: files of methods of the user's own, by name."""
    parts = method.split("+")
    base = method_recipe(parts[0], local).get("base")
    layers, names = [], []
    for part in [*(base.split("+") if base else []), *parts]:
        layer = method_recipe(part, local)
        special, _ = layer.pop("datasets", {}), layer.pop("base", None)
        wanted = layer.pop("plugins", {}).get("names", [part])
        names += [name for name in wanted if name not in names]
        layers += [layer, special.get(dataset, {})]
    return [*layers, {"plugins": {"names": names}}]
