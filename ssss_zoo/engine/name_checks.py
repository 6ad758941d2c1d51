"""Finds misspelt keys and names of a run, before torch is imported: the answer then comes at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssss_zoo.config.parse import build_typed, located_by_key, split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.plugin_source import installed, read_plugin
from ssss_zoo.errors import unknown


def check_spelling(overrides: Iterable[str], *own_keys: str) -> None:
    """Raise UserError for a misspelt key or name in the arguments of a run. own_keys: those
    that the command takes itself."""
    _, rest = split_overrides(overrides, *own_keys)
    check_names(resolve(rest))


def check_names(config: Config) -> None:
    """Raise UserError for a method, data set or network that nothing installed has, and for an option that its method
    does not take. Methods of a person's own files are left to the import."""
    with located_by_key(config.locations):
        for kind, noun, name, key in (
            *(("methods", "method", name, f"method={config.method}") for name in config.plugins.names),
            ("datasets", "data set", config.dataset, f"dataset={config.dataset}"),
            ("models", "model", config.model.name, f"model={config.model.name}"),
        ):
            own_file = kind == "methods" and bool(config.plugins.path)
            if name not in installed(kind) and not own_file:
                raise unknown(noun, name, installed(kind), key)
        for name in [] if config.plugins.path else config.plugins.names:
            source, options = read_plugin("methods", name), config.options.get(name, {})
            if source and source.options and isinstance(options, Mapping):
                build_typed(source.options, options, f"options.{name}.")
