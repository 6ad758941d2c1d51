"""Find methods, data sets and networks by name, build methods from their options, and register only the chosen hooks.

One `PluginManager` a run. Only what is selected is imported: a broken plugin that a run does not use never hurts it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pluggy

from ssss_zoo.config.fields import field_types
from ssss_zoo.config.parse import build_typed, located_by_key
from ssss_zoo.config.python_files import full_path, is_file
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.plugin_source import PROJECT, UNCHOSEN_HOOKS, installed, packages_of
from ssss_zoo.errors import UserError, nearest, unknown
from ssss_zoo.text import brief
from ssss_zoo.toolkit import hookspecs

HOOK_MARK = f"{PROJECT}_impl"  # the attribute by which pluggy knows an implementation
HOOKS = tuple(name for name, item in vars(hookspecs).items() if hasattr(item, "ssss_zoo_spec"))
CHOOSABLE_HOOKS = tuple(name for name in HOOKS if name not in UNCHOSEN_HOOKS)

Wrap = Callable[[str, str, Callable[..., Any]], Callable[..., Any]]


def load(kind: str, name: str, where: str = "") -> Any:
    """Import what the entry point `name` of `ssss_zoo.<kind>` names. Raises UserError when unknown or broken."""
    points, what = installed(kind), kind.removesuffix("s").replace("dataset", "data set")
    if name not in points:
        raise unknown(what, name, points, where)
    packages = packages_of(kind, name)
    if len(packages) > 1:
        raise UserError(
            f"{what} '{name}' is registered by several packages, {' and '.join(packages)}: uninstall all but one, or "
            "rename it in yours"
        )
    try:
        return points[name].load()
    except (Exception, SystemExit) as error:  # somebody else's module may fail in any way at import
        raise UserError(
            f"{what} '{name}' of package {packages[0]} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


OPTION_TYPES = (str, int, float, bool)  # the types of an option, or of the elements of its list
LOCAL_MODULE_PREFIX = "ssss_local_"  # a person's own file is imported as this prefix and the file's name


def local_methods(paths: Sequence[str], wanted: Iterable[str] = ()) -> dict[str, type]:
    """The method classes in a person's own Python files, by name: their `name` or their class name in small letters.
    The only method of a file also goes by the file's name. Raises UserError as `methods_of_file` does, and when a name
    among `wanted` stands for classes of two files and neither file has that name."""
    found: dict[str, type] = {}
    owners: dict[str, Path] = {}
    for file, path in {full_path(path): path for path in paths}.items():
        for name, method in methods_of_file(path).items():
            owner = owners.setdefault(name, file)
            if owner != file and name in wanted and name not in (owner.stem, file.stem):
                raise UserError(f"{owner} and {file} both hold a method '{name}': rename one")
            if owner == file or name == file.stem:
                found[name] = method
    return found


def methods_of_file(path: str) -> dict[str, type]:
    """The method classes of one Python file by name. Raises UserError for a file that is missing, fails, or holds no
    method."""
    file = full_path(path)
    if not is_file(file):
        raise UserError(f"plugins.path={brief(path)}: no such file; it takes the path of one Python file")
    spec = importlib.util.spec_from_file_location(f"{LOCAL_MODULE_PREFIX}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"plugins.path={path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code: say where it failed
        ran = [frame.lineno for frame in inspect.trace() if frame.filename == str(file)]
        line = ran[-1] if ran else getattr(error, "lineno", "?")  # a syntax error never ran
        raise UserError(f"plugins.path={path} fails at line {line}: {type(error).__name__}: {error}") from error
    own = {c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__}
    methods = {getattr(c, "name", c.__name__.lower()): c for c in own if marked_hooks(c)}
    if not methods:
        raise UserError(f"plugins.path={path} holds no method: no class with a function marked @hookimpl")
    return methods | ({file.stem: next(iter(methods.values()))} if len(methods) == 1 else {})


def marked_hooks(method: type) -> list[str]:
    """The functions that a class marks as hooks, whether such hooks exist or not."""
    return [name for name in dir(method) if hasattr(getattr(method, name, None), HOOK_MARK)]


def replaces_installed(name: str, method: type) -> bool:
    """Whether the class comes from a person's own file and takes the name of an installed method."""
    return method.__module__.startswith(LOCAL_MODULE_PREFIX) and name in installed("methods")


def implemented_hooks(method: type) -> list[str]:
    """The hooks that a method class answers."""
    answered = marked_hooks(method)
    return [name for name in HOOKS if name in answered]


def providers(config: Config) -> dict[str, list[str]]:
    """For each hook that `hooks.<hook>=a+b` names, the methods that answer it; none for `hooks.<hook>=none`."""
    answer = {}
    for hook, names in config.hooks.items():
        if hook not in CHOOSABLE_HOOKS:
            raise unknown("hook", hook, CHOOSABLE_HOOKS, f"hooks.{hook}={names}")
        answer[hook] = [] if names in ("none", "null", "") else names.split("+")
        twice = next((name for name in answer[hook] if answer[hook].count(name) > 1), None)
        if twice is not None:
            raise UserError(f"hooks.{hook}={brief(names)} names '{brief(twice)}' twice; each method answers once")
    return answer


def method_classes(config: Config) -> dict[str, type]:
    """The classes of all methods that the run needs: those of `method`, then those that answer single hooks."""
    wanted = {name: f"method={config.method}" for name in config.plugins.names}
    for hook, names in providers(config).items():
        for name in names:
            wanted.setdefault(name, f"hooks.{hook}={'+'.join(names)}")
    local = local_methods(config.plugins.path, wanted)
    return {name: find_method(name, place, local) for name, place in wanted.items()}


def find_method(name: str, place: str, local: Mapping[str, type]) -> type:
    """A method class by name, the user's own file first. Raises UserError when there is none, or it is not one."""
    if name not in local and name not in installed("methods"):
        raise unknown("method", name, [*installed("methods"), *local], place)
    method: type = local.get(name) or load("methods", name, place)
    if not (inspect.isclass(method) and dataclasses.is_dataclass(method)):
        raise UserError(f"method '{name}' must be a dataclass with hook implementations, found {method!r}")
    wrong = [hook for hook in marked_hooks(method) if hook not in HOOKS]
    if wrong:
        raise UserError(
            f"method '{name}' marks '{wrong[0]}' as a hook, and there is none{nearest(wrong[0], HOOKS)}  "
            f"hooks are: {', '.join(HOOKS)}"
        )
    check_options(name, method)
    silent = [hook for hook in HOOKS if callable(getattr(method, hook, None)) and hook not in marked_hooks(method)]
    if silent:
        raise UserError(
            f"method '{name}': its function {silent[0]} is not marked, so nobody would call it: put @hookimpl above it "
            "or give it another name"
        )
    return method


def check_options(name: str, method: type) -> None:
    """Raise UserError for a field that nobody can set on the command line."""
    for option, declared in field_types(method).items():
        kind = declared.kind
        if (
            kind not in OPTION_TYPES
            or declared.optional
            or not all(isinstance(choice, str) for choice in declared.choices)
        ):
            raise UserError(
                f"method '{name}': option {option} is declared as {getattr(kind, '__name__', kind)}; an option is "
                "a str, int, float, bool, a Literal of texts, or a list of one; networks and tensors are made in setup"
            )


def build_methods(config: Config) -> dict[str, Any]:
    """Every method the run needs by name, built from `options.<method>`. Raises UserError for an unknown method, and
    for options that a method does not have or take."""
    with located_by_key(config.locations):
        classes = method_classes(config)
        for name in config.options:
            if name not in classes:
                raise unknown("method", name, classes, f"options.{name} (only the methods of this run take options)")
        return {name: build_method(name, method, config) for name, method in classes.items()}


def build_method(name: str, method: type, config: Config) -> Any:
    options = config.options.get(name, {})
    if not isinstance(options, Mapping):
        raise UserError(f"options.{name} is a section, it takes options.{name}.<field>=value; got '{brief(options)}'")
    return build_typed(method, options, f"options.{name}.")


def with_options(config: Config, methods: Mapping[str, Any]) -> Config:
    """The configuration with every option of its methods, those left at their defaults too."""
    options = {name: {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
               for name, method in methods.items()}  # fmt: skip
    return replace(config, options=config.options | options)


class OneHook:
    """One hook of a method, as pluggy sees it. `wrap` wraps it, unless it is itself a pluggy wrapper."""

    def __init__(self, name: str, method: Any, hook: str, wrap: Wrap | None) -> None:
        function = getattr(method, hook)
        if wrap and not getattr(function, HOOK_MARK)["wrapper"]:
            function = wrap(name, hook, function)
        setattr(self, hook, function)


class HookManager(pluggy.PluginManager):
    """Pluggy's manager for plugins of which only the hooks count."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Looks at hooks alone. Of all other attributes pluggy asks slowly what they are, for each run anew."""
        return super().parse_hookimpl_opts(plugin, name) if name in HOOKS else None


def make_manager(config: Config, methods: Mapping[str, Any], wrap: Wrap | None = None) -> pluggy.PluginManager:
    """The run's plugin manager. Each hook asks its methods from left to right, and the defaults last."""
    from ssss_zoo.engine import defaults

    with located_by_key(config.locations):
        named = providers(config)
        check_providers(named, methods)
    manager = HookManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    everybody = {"default": defaults.Defaults(), **methods}
    for hook in HOOKS:
        asked = list(methods) if hook in UNCHOSEN_HOOKS else named.get(hook, config.plugins.names)
        for name in reversed([*asked, "default"]):  # pluggy asks the last registered first
            if hook in implemented_hooks(type(everybody[name])):
                register(manager, name, OneHook(name, everybody[name], hook, wrap), hook)
    return manager


def register(manager: pluggy.PluginManager, name: str, implementation: OneHook, hook: str) -> None:
    """Raises UserError when the method's function does not fit the hook's specification."""
    given, asked = (inspect.signature(getattr(place, hook)).parameters for place in (hookspecs, implementation))
    extra = [one.name for one in asked.values() if one.default is one.empty and one.name not in given]
    if extra:
        raise UserError(
            f"method '{name}': {hook} takes '{extra[0]}', which this hook does not have{nearest(extra[0], given)}  "
            f"it has, for you to choose from: {', '.join(given)}"
        )
    late = [one.name for one in asked.values() if one.default is not one.empty]
    if late:
        raise UserError(f"method '{name}': {hook} gives '{late[0]}' a default value; a hook's arguments take none")
    try:
        manager.register(implementation, f"{name} {hook}")
    except pluggy.PluginValidationError as error:
        raise UserError(f"method '{name}': {' '.join(str(error).split())}") from None


def check_providers(named: Mapping[str, list[str]], methods: Mapping[str, Any]) -> None:
    """Raise UserError when `hooks.<hook>` names a method that does not answer it."""
    for hook, names in named.items():
        for name in names:
            able = implemented_hooks(type(methods[name]))
            if hook not in able:
                raise UserError(
                    f"hooks.{hook}={'+'.join(names)}: method '{name}' does not answer {hook}; it has: {', '.join(able)}"
                )


def who_answers(hooks: Any) -> dict[str, list[str]]:
    """For each hook of a manager the plugins that will be asked, in order; `default` where no method answers."""
    answer = {}
    for hook in HOOKS:
        names = [i.plugin_name.partition(" ")[0] for i in reversed(getattr(hooks, hook).get_hookimpls())]
        answer[hook] = [name for name in names if name != "default"] or names
    return answer


def hook_summary(hooks: Any) -> list[str]:
    """One text for each hook that a method answers: `pixel_weight fixmatch+farcluss` where answers are combined,
    `make_teacher fixmatch, else farcluss` where the first answer counts."""
    first = {hook for hook in HOOKS if getattr(hookspecs, hook).ssss_zoo_spec["firstresult"]}
    answers = {hook: names for hook, names in who_answers(hooks).items() if names and names != ["default"]}
    return [f"{hook} {(', else ' if hook in first else '+').join(names)}" for hook, names in answers.items()]
