"""A run's configuration from its layers.

Later wins: defaults of the schema, data set file, method file (its common part, then its part for the data set),
switches of a release, protocol, `--config` file, command line. The layers are merged as text; every value is read once,
by the type of its key, so that a split called `1_8` stays one (YAML 1.1 would make it 18).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from ssss_zoo.config.checks import RIVAL_KEYS, check_settings
from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import ProtocolFile, dataset_layer, method_layers, read_protocol
from ssss_zoo.config.parse import (
    ABSENT,
    Tree,
    build_typed,
    located_by_key,
    locations,
    merge,
    no_section,
    parse_overrides,
    parse_value,
    read_file,
    section,
    split_list,
)
from ssss_zoo.config.python_files import plugin_paths, replace_files_by_names, split_release, untrusted_file
from ssss_zoo.config.python_files import untrusted_paths as find_untrusted
from ssss_zoo.config.schema import Config
from ssss_zoo.config.yaml_text import located
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import check_format
from ssss_zoo.text import brief


def resolve(overrides: Iterable[str], config_file: Path | None = None, *, methods: bool = True) -> Config:
    """The configuration of a run from the `key=value` arguments of its command line and a file of the user's own.

    methods: False where no method will be built: Python files that only the file names are left out then. Raises
    UserError for settings that cannot be, and for such files otherwise, unless plugins.trust=true.
    """
    given, trusted = take_trust(parse_overrides(overrides))
    own = read_own(config_file) if config_file else {}
    (given, given_files), (own, own_files) = replace_files_by_names(given), replace_files_by_names(own)
    paths = trusted_paths(given, own, config_file, trusted=trusted, methods=methods)
    check_plugin_names(given, own, config_file)
    method, release = split_release(chosen_name("method", given, own))
    protocol = chosen_protocol(given, own)
    dataset = chosen_name("dataset", given, own, protocol.dataset if protocol else Config.dataset)
    if protocol and protocol.dataset != dataset:
        raise UserError(
            f"protocol={protocol.name} belongs to dataset={protocol.dataset}, but the run has dataset={dataset}"
        )
    layers = [
        {"dataset": dataset},
        dataset_layer(dataset),
        *method_layers(method, dataset, own_files | given_files, release),
        protocol.settings if protocol else {},
        own,
        given,
        {"plugins": {"path": paths}} if "path" in section(own, "plugins") else {},
    ]
    return read_tree(with_channel_count(reduce(lay_over, layers, Tree())))


def read_tree(tree: Tree) -> Config:
    """Raises UserError as `build_typed` and `check_settings` do, with the file and line of the value where a file
    gave it."""
    known = locations(tree)
    with located_by_key(known):
        config: Config = replace(build_typed(Config, tree), locations=known)
        check_settings(config)
    return config


def take_trust(tree: Mapping[str, Any]) -> tuple[Tree, bool]:
    """The tree without `plugins.trust`, and its value: it is given anew each time, and never written down."""
    plugins = section(tree, "plugins")
    if "trust" not in plugins:
        return dict(tree), False
    rest = {key: value for key, value in plugins.items() if key != "trust"}
    return {**tree, "plugins": rest}, parse_value(plugins["trust"], bool, "plugins.trust")


def read_own(file: Path) -> Tree:
    """A configuration file of the user's own, or of a run, which says its `format`. Raises UserError as `read_file`
    does, for one of a newer version, and for one that trusts itself."""
    tree = read_file(file)
    if "format" in tree:
        check_format(parse_value(tree["format"], int, "format"), file)
    if "trust" in section(tree, "plugins"):
        raise UserError(f"{file}: plugins.trust is allowed on the command line only; remove it from the file")
    return {key: value for key, value in tree.items() if key != "format"}


def trusted_paths(given: Tree, own: Tree, config_file: Path | None, *, trusted: bool, methods: bool) -> list[str]:
    """The Python files that may be run: those that the command line names, and the file's own where the person trusts
    it. Raises UserError for others, where methods are built at all."""
    refused = [] if trusted else find_untrusted(own, given)
    if refused and methods:
        raise untrusted_file(refused[0], config_file)
    return [path for path in dict.fromkeys([*plugin_paths(given), *plugin_paths(own)]) if path not in refused]


def check_plugin_names(given: Tree, own: Tree, config_file: Path | None) -> None:
    """A method's recipe says by `plugins.names` what it is made of, and a run's configuration repeats it; a person says
    `method=a+b`. Raises UserError where the two would disagree."""
    if "names" in section(given, "plugins"):
        raise UserError("plugins.names is allowed in a method file only; set method=a+b")
    same_method = "method" in own and given.get("method", own["method"]) == own["method"]
    if "names" in section(own, "plugins") and not same_method:
        raise UserError(
            f"{config_file} names its plugins, as a run's resolved configuration does: it can be used only with its "
            f"own method (method={own.get('method', '?')})"
        )


def chosen_name(key: str, given: Tree, own: Tree, default: str = "") -> str:
    """The method or the data set, which decide on the layers. Raises UserError for a value that is no name."""
    value = given.get(key, own.get(key, default or getattr(Config, key)))
    if not isinstance(value, str) or not value:
        raise UserError(f"{key} takes a name; got '{brief(value)}'")
    return value


def chosen_protocol(given: Tree, own: Tree) -> ProtocolFile | None:
    """Raises UserError for an unknown protocol."""
    value = given.get("protocol", own.get("protocol"))
    name = None if value is None else parse_value(value, str | None, "protocol")
    return read_protocol(name) if name else None


def check_sections(layer: Mapping[str, Any]) -> None:
    """Raise UserError where a layer gives a whole section a single value, even if a later layer replaces it."""
    for key, declared in field_types(Config).items():
        if key in layer and is_dataclass(declared.kind) and not isinstance(layer[key], Mapping):
            with located(layer[key], next(name for name in layer if name == key)):
                raise no_section(key, layer[key])


def lay_over(tree: Tree, layer: Mapping[str, Any]) -> Tree:
    """`layer` over the tree. Of two keys that say one thing in two ways, such as `steps` and `epochs`, a later one
    replaces an earlier other one."""
    check_sections(layer)
    train, later = section(tree, "train"), section(layer, "train")
    given = {key for key, value in later.items() if value not in (None, *ABSENT)}
    replaced = {other for pair in RIVAL_KEYS for key, other in (pair, pair[::-1]) if key in given and other in train}
    rest = {key: value for key, value in train.items() if key not in replaced}
    return merge({**tree, "train": rest} if replaced else tree, layer)


def with_channel_count(tree: Tree) -> Tree:
    """The network takes as many channels as are read, unless `model.in_channels` is given."""
    channels = split_list(section(tree, "data").get("channels", []))
    return merge({"model": {"in_channels": str(len(channels))}}, tree) if channels else tree
