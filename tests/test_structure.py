"""The shape of the code: imports point down, no method is known by name, names mean one thing, functions are short.

Each test lists all offenders at once.
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click

import ssss_zoo
from ssss_zoo.commands.cli import main
from ssss_zoo.engine.plugin_source import installed

ROOT = Path(__file__).parents[1]
CORE = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "ssss_zoo").rglob("*.py")}
METHODS = [path for path in (ROOT / "plugins").rglob("*.py") if path.name != "__init__.py"]
EVERYTHING = [*CORE.values(), *METHODS]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LAYERS = (  # a module imports from lines above its own, or from its own folder
    "text stopping memory",
    "errors",
    "record_files lock atomic_write hub progress_display notebook",
    "config",
    "toolkit",
    "models data",
    "engine evaluation",
    "train",
    "comparison testing deploy",
    "planning",
    "api",
    "commands",
    "__main__",
)
MAY_USE = ("ssss_zoo.errors", "ssss_zoo.toolkit", "ssss_zoo.evaluation")  # what a method may import from
LONGEST_FUNCTION = 40  # lines
LONGEST_STORY = 80
STORIES = {
    "step.py: Engine.losses",
    "make_plan.py: plan_training",
    "study.py: run_study",
    "trainer.py: Trainer.train",
}  # functions that tell a whole procedure in order, with a comment a paragraph
LONGEST_TEST_FILE = 500
NEEDS_DOCSTRING = 12  # lines from which on a public function must say what it does

# Names of an earlier private language, each replaced by a noun of the field: a newcomer should not have to learn it.
OLD_NAMES = (
    "relay Relay Speaker watching Lesson Ticket Shown listen attend rehearse rehearsal Rehearsal "
    "Job make_job Training make_training rescore diary Diary health Feed Careful Crops peek screen "
    "loose beside Look LOOKS OURS OWN SURE NEVER MOST PLAIN FEW KINDS FREE LAST "
    "smeared Waits joins labelled_share labelled_look normaliser directions as_cells to_grid average_ "
    "warmed_decay fewest_with_mass settle understand to_best typed"
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, anywhere in it."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in CORE else node.module or "" for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(name with its class, function) for every function of a file."""
    for node in nodes(path):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{getattr(node, 'name', '')}.{child.name}".lstrip("."), child


# --- imports --------------------------------------------------------------------------------------------------------


def layer_and_folder(module: str) -> tuple[int, str]:
    """The line of LAYERS that a module stands in, and the word there: its folder, or the module itself."""
    name = module.removeprefix("ssss_zoo").lstrip(".").split(".")[0]
    for depth, line in enumerate(LAYERS):
        if name in line.split():
            return depth, name
    raise AssertionError(f"ssss_zoo/{name}: add it to LAYERS of {Path(__file__).name}")


def points_down(module: str, other: str) -> bool:
    """Whether `module` may import `other`."""
    if other.startswith(("ssss_zoo.plugins", "ssss_zoo.configs")):
        return False
    if other.startswith("ssss_zoo."):
        here, there = layer_and_folder(module), layer_and_folder(other)
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


def plugin_module(path: Path) -> str:
    """The name by which a file of `plugins` is imported."""
    return ".".join(["ssss_zoo.plugins", *path.relative_to(ROOT / "plugins").with_suffix("").parts])


def parts_of_methods() -> dict[str, set[str]]:
    """The modules that belong to a method of several files: those of its folder that are no entry points, which it
    imports; by the method's module."""
    entry_points = {point.value.partition(":")[0] for point in installed("methods").values()}
    parts = {}
    for path in METHODS:
        beside = {plugin_module(other) for other in METHODS if other.parent == path.parent} - entry_points
        parts[plugin_module(path)] = beside & set(imports(path))
    return parts


def test_methods_import_the_toolkit_and_never_each_other():
    parts = parts_of_methods()
    assert [
        f"{path.name} imports {other}"
        for path in METHODS
        for other in imports(path)
        if other.startswith("ssss_") and not other.startswith((*MAY_USE, *parts[plugin_module(path)]))
    ] == []


def test_no_star_imports_and_no_asserts_on_tuples():
    star = [path for path in EVERYTHING for node in nodes(path)
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]  # fmt: skip
    always_true = [f"{path}: {node.lineno}" for path in EVERYTHING for node in nodes(path)
                   if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple)]  # fmt: skip
    assert star + always_true == []


# --- packages -------------------------------------------------------------------------------------------------------


def test_every_method_file_is_an_entry_point_or_a_part_of_one_and_every_entry_point_a_file():
    entry_points = {point.value.partition(":")[0] for point in installed("methods").values()
                    if point.value.startswith("ssss_zoo.plugins")}  # fmt: skip
    parts = parts_of_methods()
    assert {plugin_module(path) for path in METHODS} == entry_points.union(*(parts[name] for name in entry_points))


def test_every_folder_is_a_package_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for top in ("ssss_zoo", "plugins", "configs")
               for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".yaml")}  # fmt: skip
    named = {".".join(folder.parts) for folder in folders}
    named = {name if name.startswith("ssss_zoo") else f"ssss_zoo.{name}" for name in named}
    assert set(project["packages"]) == named


def test_no_folder_hides_a_public_function():
    """The import of `ssss_zoo.x` sets the attribute `x` of the package, before its `__getattr__` is asked."""
    assert {path.stem for path in (ROOT / "ssss_zoo").iterdir()} & set(ssss_zoo.__all__) == set()


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_core_compares_nothing_with_the_name_of_a_method_or_a_data_set():
    names = {*installed("methods"), *installed("datasets")}
    asked = []
    for path in CORE.values():
        for node in nodes(path):
            if isinstance(node, (ast.Compare, ast.Match)):
                compared = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & names
                asked += [f"{path.name}:{node.lineno} asks for {name}" for name in compared]
    assert not asked


def commands() -> set[str]:
    """The names of all commands, those of `ssss data` among them."""
    groups = [main, *(command for command in main.commands.values() if isinstance(command, click.Group))]
    return {name for group in groups for name in group.commands}


def top_level_names(path: Path) -> Iterator[str]:
    """The functions, classes and constants that a file defines."""
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_name_is_defined_in_one_module_only():
    """Who reads or searches for a name finds one thing. A command is called as the function that does its work."""
    where = defaultdict(list)
    for path in EVERYTHING:
        allowed = {"log", "__all__", *(commands() if path == CORE["ssss_zoo.commands.cli"] else ())}
        if "templates" not in path.parts:
            for name in set(top_level_names(path)) - allowed:
                where[name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """(name, line) of everything that a file names: variables, attributes, arguments, definitions, imports."""
    for node in nodes(path):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield node.id, line
        elif isinstance(node, ast.Attribute):
            yield node.attr, line
        elif isinstance(node, (ast.arg, ast.keyword)):
            yield node.arg or "", line
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, line
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.rpartition(".")[2], line


def test_no_name_of_the_old_private_language_is_back():
    old = set(OLD_NAMES.split())
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in EVERYTHING
        for name, line in identifiers(path)
        if name in old
    ] == []


# --- size and docs --------------------------------------------------------------------------------------------------


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def test_no_function_is_longer_than_a_page():
    every = {f"{path.name}: {name}": length(f) for path in EVERYTHING for name, f in functions(path)}
    most = {name: LONGEST_STORY if name in STORIES else LONGEST_FUNCTION for name in every}
    assert [(name, lines) for name, lines in every.items() if lines > most[name]] == []
    assert sorted(STORIES - set(every)) == [], "a story that is not told any more"


def test_modules_classes_and_longer_public_functions_say_what_they_are():
    """A function of few lines may speak for itself, a hook's implementation is documented by its specification, and a
    method's class by its `paper`."""
    assert {path.name: silent for path in EVERYTHING if (silent := without_docstring(path))} == {}


def without_docstring(path: Path) -> list[str]:
    """The definitions of a file that should have a docstring and have none."""
    module = tree(path)
    silent = [] if ast.get_docstring(module) or not module.body else ["the module"]
    for node in nodes(path):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)
                      and isinstance(part.target, ast.Name)}  # fmt: skip
            silent += [] if "paper" in fields else [node.name]
    for name, function in functions(path):
        marked = any("hookimpl" in ast.unparse(decorator) for decorator in function.decorator_list)
        long = length(function) > NEEDS_DOCSTRING
        if long and not (marked or function.name.startswith("_") or ast.get_docstring(function)):
            silent.append(f"{name} (line {function.lineno})")
    return silent


def test_every_function_of_the_core_is_typed():
    bare = []
    for path in EVERYTHING:
        for name, function in functions(path):
            taken = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            untyped = [a.arg for a in taken if a.annotation is None and a.arg not in ("self", "cls")]
            untyped += [] if function.returns is not None else ["what it returns"]
            bare += [f"{path.name}: {name}: {what}" for what in untyped]
    assert not bare


# --- the tests themselves -------------------------------------------------------------------------------------------


def test_no_test_imports_another():
    """What several test files share stands in `tests/helpers`."""
    files = {path.stem for path in TESTS if path.name.startswith("test_")}
    assert [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in TESTS
        for other in imports(path)
        if other.split(".")[0] in files
    ] == []


def test_no_test_file_is_too_long_to_find_one_s_way_in():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in TESTS}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_TEST_FILE} == {}


# --- what a reader sees first ---------------------------------------------------------------------------------------


def test_every_command_says_what_it_does():
    from ssss_zoo.commands.cli import main

    assert {"run", "config", "list", "evaluate"} <= set(main.commands)
    assert [name for name, command in main.commands.items() if not command.help
            or len(command.help.strip().splitlines()[0]) <= 10] == []  # fmt: skip
