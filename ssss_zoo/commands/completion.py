"""Completes `key=value` arguments in a shell: keys of the configuration and of the command, names, choices, paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

from ssss_zoo.config.fields import FieldType, field_types

PATH_KEYS = ("run", "output", "input", "take", "file", "data.root", "replay")
SHELL_CHARACTERS = re.compile(r"[^\w@%+=:,./~-]")  # that a shell takes for its own unless a backslash precedes them
RUN_MARK = "dataset="  # a command whose help names it takes the keys of a run


# --- the scripts of the shells --------------------------------------------------------------------------------------


@add_completion_class
class BashScript(BashComplete):
    """click's script, which puts no space behind `train.steps=` and behind a folder, and keeps backslashes."""

    source_template = BashComplete.source_template.replace("read type value", "read -r type value").replace(
        "    return 0\n",
        "    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace\n\n    return 0\n",
    )


@add_completion_class
class ZshScript(ZshComplete):
    """click's script, without that space too."""

    source_template = ZshComplete.source_template.replace(
        "        compadd -U -V unsorted -a completions\n",
        "        local -a suffix\n"
        "        [[ ${#completions} -eq 1 && $completions[1] == *[=/] ]] && suffix=(-S '')\n"
        '        compadd -U "${suffix[@]}" -V unsorted -a completions\n',
    )


@add_completion_class
class FishScript(FishComplete):
    """click's script, which keeps values with a comma whole, as `methods=cps,farcluss`."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","')


# --- what completes -------------------------------------------------------------------------------------------------


def complete_override(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What may follow in place of `incomplete`: keys, or the values of the key that it names."""
    key, equals, value = incomplete.partition("=")
    if equals:
        return [CompletionItem(f"{key}={text}") for text in values_of(key, value)]
    before = list(context.params.get(parameter.name or "") or ())
    if before[-1:] in (["="], [":"]) or (before and before[-1] in known_keys(context)):
        # bash splits `key=value` into three words, and replaces the last one alone. click takes a last `=` away.
        key = before[-2] if before[-1] == "=" and len(before) > 1 else before[-1]
        return [CompletionItem(SHELL_CHARACTERS.sub(r"\\\g<0>", text)) for text in values_of(key, incomplete)]
    return [CompletionItem(f"{name}=") for name in known_keys(context) if name.startswith(incomplete)]


def complete_method(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The installed methods whose name begins with `incomplete`."""
    from ssss_zoo.engine.plugin_source import installed

    return [CompletionItem(name) for name in sorted(installed("methods")) if name.startswith(incomplete)]


def known_keys(context: click.Context) -> list[str]:
    """The keys that the help of the command names and, where it trains, those of the configuration."""
    text = context.command.help or ""
    own = re.findall(r"(?<![\w.])([a-z_][\w.]*)=", text)
    configuration = [*config_fields(), *hook_keys()] if RUN_MARK in text else []
    return sorted(dict.fromkeys([*own, *configuration]))


def config_fields(schema: type | None = None, prefix: str = "") -> dict[str, FieldType]:
    """The keys of the configuration with their types."""
    from dataclasses import is_dataclass

    from ssss_zoo.config.schema import Config

    found: dict[str, FieldType] = {}
    for name, declared in field_types(schema or Config).items():
        if is_dataclass(declared.kind) and isinstance(declared.kind, type):
            found |= config_fields(declared.kind, f"{prefix}{name}.")
        elif declared.container is not dict:
            found[prefix + name] = declared
    return found


def hook_keys() -> list[str]:
    from ssss_zoo.engine.plugin_source import UNCHOSEN_HOOKS, hook_docs

    return [f"hooks.{hook}" for hook in hook_docs() if hook not in UNCHOSEN_HOOKS]


def values_of(key: str, value: str) -> list[str]:
    """The values of a key that begin with `value`, as far as they can be listed."""
    if key in PATH_KEYS:
        return paths(value)
    head, sign, last = max((value.rpartition(sign) for sign in "+,"), key=lambda part: len(part[0]))
    return [f"{head}{sign}{name}" for name in names_for(key) if name.startswith(last)]


def names_for(key: str) -> Iterable[str]:
    """The names that a key takes: plugins, protocols, the choices of its type, or none."""
    from ssss_zoo.config.layers import recipes
    from ssss_zoo.engine.plugin_source import installed

    if key in ("method", "methods") or key.startswith("hooks."):
        return sorted({*installed("methods"), *(recipes("method") if "method" in key else ())})
    if key == "dataset":
        return sorted(installed("datasets"))
    if key in ("model", "model.name"):
        return sorted(installed("models"))
    if key == "protocol":
        return sorted(recipes("protocol"))
    if key == "study":
        return sorted(recipes("study"))
    declared = config_fields().get(key)
    if declared is None:
        return ()
    return ("true", "false") if declared.kind is bool else declared.choices


def paths(value: str) -> list[str]:
    """The files and folders whose path begins with `value`."""
    found = sorted(glob(escape(value) + "*"))
    return [f"{path}/" if Path(path).is_dir() else path for path in found]
