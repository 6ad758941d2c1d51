"""The shape of the code: imports point down, no method is known by name, functions are short, hooks are documented."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ssss_zoo.engine.registry import HOOKS, MARK, installed
from ssss_zoo.toolkit import hookspecs

ROOT = Path(__file__).parents[1]
CORE = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "ssss_zoo").rglob("*.py")}
METHODS = [path for path in (ROOT / "plugins").rglob("*.py") if path.name != "__init__.py"]
EVERYTHING = [*CORE.values(), *METHODS]

LAYERS = (  # a module imports from lines above its own, or from its own folder
    "text stopping",
    "errors",
    "record_files lock",
    "config",
    "toolkit",
    "models data",
    "engine evaluation",
    "train",
    "comparison testing",
    "api",
    "commands",
    "__main__",
)
MAY_USE = ("ssss_zoo.errors", "ssss_zoo.toolkit", "ssss_zoo.evaluation")  # what a method may import from
LONGEST, SHORT = 40, 12  # lines of a function at most; lines from which on a public one must say what it does


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, anywhere in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in CORE else node.module or "" for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name with its class, function) for every function of a file."""
    for node in ast.walk(tree(path)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{getattr(node, 'name', '')}.{child.name}".lstrip("."), child


def place(module: str) -> tuple[int, str]:
    """The layer of a module and the folder, or the module, that it is in it."""
    name = module.removeprefix("ssss_zoo").lstrip(".").split(".")[0]
    for depth, line in enumerate(LAYERS):
        if name in line.split():
            return depth, name
    raise AssertionError(f"ssss_zoo/{name}: give it a place in LAYERS of {Path(__file__).name}")


# --- imports --------------------------------------------------------------------------------------------------------


def points_down(module: str, other: str) -> bool:
    """Whether `module` may import `other`."""
    if other.startswith(("ssss_zoo.plugins", "ssss_zoo.configs")):
        return False
    if other.startswith("ssss_zoo."):
        here, there = place(module), place(other)
        return there[0] < here[0] or there == here
    return True


def test_imports_point_down():
    modules = sorted(set(CORE) - {"ssss_zoo.__init__"})
    assert [
        f"{module} imports {other}"
        for module in modules
        for other in imports(CORE[module])
        if not points_down(module, other)
    ] == []


def test_the_engine_knows_neither_plugins_nor_run_nor_data():
    found = set(imports(CORE["ssss_zoo.engine.step"]))
    above = ("ssss_zoo.engine.registry", "ssss_zoo.plugins", "ssss_zoo.train", "ssss_zoo.data")
    assert not {name for name in found if name.startswith(above)}


def test_methods_use_only_the_words_made_for_them_and_never_each_other():
    assert [
        f"{path.name} imports {other}"
        for path in METHODS
        for other in imports(path)
        if other.startswith("ssss_") and not other.startswith(MAY_USE)
    ] == []


def test_every_method_file_is_an_entry_point_and_every_entry_point_a_file():
    modules = {point.value.partition(":")[0] for point in installed("methods").values()
               if point.value.startswith("ssss_zoo.plugins")}  # fmt: skip
    files = {
        "ssss_zoo.plugins." + ".".join(path.relative_to(ROOT / "plugins").with_suffix("").parts) for path in METHODS
    }
    assert modules == files


def test_every_folder_is_a_package_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for top in ("ssss_zoo", "plugins", "configs")
               for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".yaml")}  # fmt: skip
    named = {".".join(folder.parts) for folder in folders}
    named = {name if name.startswith("ssss_zoo") else f"ssss_zoo.{name}" for name in named}
    assert set(project["packages"]) == named


def test_no_folder_hides_a_public_function():
    """Each public name is what it was once every module is imported."""
    code = (
        "import importlib, pkgutil, ssss_zoo\n"
        "for module in pkgutil.walk_packages(ssss_zoo.__path__, 'ssss_zoo.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "from types import ModuleType\n"
        "print([name for name in ssss_zoo.__all__ if isinstance(getattr(ssss_zoo, name), ModuleType)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_star_imports_and_no_asserts_on_tuples():
    for path in EVERYTHING:
        for node in ast.walk(tree(path)):
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), path
            assert not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple)), path


# --- no method, no data set by name ---------------------------------------------------------------------------------


def test_the_core_compares_nothing_with_the_name_of_a_method_or_a_data_set():
    names = {*installed("methods"), *installed("datasets")}
    asked = []
    for path in CORE.values():
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.Compare, ast.Match)):
                words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & names
                asked += [f"{path.name}:{node.lineno} asks for {word}" for word in words]
    assert not asked


# --- size and docs --------------------------------------------------------------------------------------------------


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_no_function_is_longer_than_a_page():
    every = [(f"{path.name}: {name}", length(f)) for path in EVERYTHING for name, f in functions(path)]
    assert [(name, lines) for name, lines in every if lines > LONGEST] == []


def test_modules_classes_and_longer_public_functions_say_what_they_are():
    """A function of few lines may speak for itself, a hook's implementation is documented by its specification, and a
    method's class by its `paper`."""
    assert {path.name: silent for path in EVERYTHING if (silent := without_docstring(path))} == {}


def without_docstring(path: Path) -> list[str]:
    """What of a file should have one."""
    module = tree(path)
    silent = [] if ast.get_docstring(module) or not module.body else ["the module"]
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)
                      and isinstance(part.target, ast.Name)}  # fmt: skip
            silent += [] if "paper" in fields else [node.name]
    for name, function in functions(path):
        marked = any("hookimpl" in ast.unparse(decorator) for decorator in function.decorator_list)
        if length(function) > SHORT and not (marked or function.name.startswith("_") or ast.get_docstring(function)):
            silent.append(f"{name} (line {function.lineno})")
    return silent


def test_every_function_of_the_core_is_typed():
    bare = []
    for path in EVERYTHING:
        for name, function in functions(path):
            spoken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            untyped = [a.arg for a in spoken if a.annotation is None and a.arg not in ("self", "cls")]
            untyped += [] if function.returns is not None else ["what it returns"]
            bare += [f"{path.name}: {name}: {what}" for what in untyped]
    assert not bare


# --- the hooks ------------------------------------------------------------------------------------------------------


def arguments(hook: str) -> list[str]:
    return list(inspect.signature(getattr(hookspecs, hook)).parameters)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_how_answers_combine_what_comes_back_and_what_silence_means(hook):
    function = getattr(hookspecs, hook)
    words = " ".join((function.__doc__ or "").split())
    first = function.ssss_zoo_spec["firstresult"]
    assert ("The first answer counts" in words) == first
    if function.__annotations__["return"] in ("None", None):
        assert words.startswith("Called")
        return
    if not first:
        assert re.search(r"(Every plugin|Every loaded plugin) is asked", words)
        assert re.search(r"answers are multiplied|terms are summed|Returns named modules", words)
    assert re.search(r"Silence means|None means", words)
    assert re.search(r"[Rr]eturns|The networks to train", words)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_specification_takes_no_default_values_and_does_nothing(hook):
    parameters = inspect.signature(getattr(hookspecs, hook)).parameters.values()
    assert all(parameter.default is inspect.Parameter.empty for parameter in parameters)
    (definition,) = [f for name, f in functions(CORE["ssss_zoo.toolkit.hookspecs"]) if name == hook]
    assert [type(node) for node in definition.body] == [ast.Expr]  # its docstring


def test_an_implementation_names_arguments_of_its_specification_without_defaults():
    everything = [(f"{path.stem}.{name}", function) for path in METHODS for name, function in functions(path)]
    for name, function in everything:
        if not any("hookimpl" in ast.unparse(decorator) for decorator in function.decorator_list):
            continue
        hook = name.split(".")[-1]
        assert hook in HOOKS, name
        assert {a.arg for a in function.args.args} - {"self"} <= set(arguments(hook)), name
        assert not function.args.defaults, name


def test_every_hook_is_answered_by_some_method_or_by_the_defaults():
    from ssss_zoo.engine.defaults import Defaults
    from ssss_zoo.engine.registry import implements, load

    answered = set(implements(Defaults))
    for name in installed("methods"):
        answered |= set(implements(load("methods", name)))
    assert set(HOOKS) - answered <= {"after_eval"}, "no new hook without a method that uses it"


def test_the_mark_is_the_one_that_pluggy_leaves():
    from ssss_zoo.engine.defaults import Defaults

    assert hasattr(Defaults.make_students, MARK)


# --- the command line starts quickly --------------------------------------------------------------------------------


def commands() -> list[str]:
    from ssss_zoo.commands.cli import main

    return sorted(main.commands)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, json\n"
        "from ssss_zoo.commands.cli import command_line\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'kornia', 'timm', 'omegaconf', 'yaml', 'rich', 'pluggy'}\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = command_line(words)\n"
        "    print('CHECK', code, sorted(heavy & set(sys.modules)), words)\n"
    )
    asked = [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in commands())]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(asked)], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("CHECK")]
    assert lines == [f"CHECK 0 [] {words}" for words in asked]
    assert done.stdout.count("Usage: ssss") == len(asked) - 1  # --version has none


def test_every_command_says_what_it_does():
    from ssss_zoo.commands.cli import main

    assert {"run", "config", "list", "evaluate"} <= set(main.commands)
    for name, command in main.commands.items():
        assert command.help, name
        assert len(command.help.strip().splitlines()[0]) > 10, name


def test_the_readme_prints_the_real_file_of_fixmatch():
    root = Path(__file__).parents[1]
    assert (root / "plugins" / "baselines" / "fixmatch.py").read_text() in (root / "README.md").read_text()
