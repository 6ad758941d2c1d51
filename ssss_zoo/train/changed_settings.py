"""The settings of a run that differ from the defaults, and the command that makes it again."""

from __future__ import annotations

import shlex
from dataclasses import replace

from ssss_zoo.config.parse import flatten_keys, override_value
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, as_tree
from ssss_zoo.engine.registry import build_methods, with_options
from ssss_zoo.train.resume import flat_config


def changed_settings(config: Config) -> dict[str, str]:
    """The settings that differ from what method, data set and protocol bring, as text by key; without the seed, and
    without those that no figure depends on. config: with every option of its methods."""
    named = named_parts(config)
    defaults = resolve([f"{key}={text}" for key, text in named.items()])
    defaults = with_options(defaults, build_methods(replace(defaults, hooks=config.hooks)))
    usual = flat_config(defaults)
    different = {key for key, value in flat_config(config).items() if value != usual.get(key)}
    different -= {*named, "seed", "plugins.names"}
    return {key: override_value(value) for key, value in flatten_keys(as_tree(config)).items() if key in different}


def repeat_command(config: Config) -> str:
    """The command that makes the same run again in its usual folder."""
    root = {"data.root": config.data.root} if config.data.root else {}
    settings = {**named_parts(config), **root, **changed_settings(config), "seed": str(config.seed)}
    return shlex.join(["ssss", "run", *(f"{key}={text}" for key, text in settings.items())])


def named_parts(config: Config) -> dict[str, str]:
    """The settings that name what a run is made of, as text by key."""
    named = {"method": config.method, "dataset": config.dataset}
    named |= {"protocol": config.protocol} if config.protocol else {}
    return named | ({"plugins.path": override_value(config.plugins.path)} if config.plugins.path else {})
