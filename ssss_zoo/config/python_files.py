"""A person's own Python files with methods: where settings name them, and which of them may be run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import Tree, section
from ssss_zoo.config.yaml_text import located
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.text import brief

RELEASE = ":release"  # behind a method: with every switch as its release's figures were made


def split_release(method: str) -> tuple[str, str]:
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
    """`unimatch+./mine.py` as `unimatch+mine`, and the files by the names of their methods. key: the setting that names
    them. Raises UserError for a file that is not there, and one whose name cannot be a method's or is another file's.
    """
    names: list[str] = []
    files: dict[str, Path] = {}
    for part in method.split("+"):
        if not part.endswith(".py"):
            names.append(part)
            continue
        file, shown = full_path(part), f"{key}={brief(method)}"
        if not is_file(file):
            raise UserError(f"{shown}: no such file {brief(part)}; it takes a name or the path of a Python file")
        if not re.fullmatch(r"(?!default$)[A-Za-z_]\w*", file.stem):
            raise UserError(f"{shown}: '{file.stem}' cannot be a method's name; name the file like my_idea.py")
        if files.get(file.stem, file) != file:
            raise UserError(f"{shown} names two files {file.name}; a method has the name of its file: rename one")
        names.append(file.stem)
        files[file.stem] = file
    return "+".join(names), files


def full_path(text: str) -> Path:
    """An absolute path; the text as it is where it can be no path. Raises as `expanded` does."""
    try:
        return expanded(text).resolve()
    except (OSError, ValueError):
        return Path(text)


def is_file(path: Path) -> bool:
    """Whether a file is there; False also for a path that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a NUL character
        return False


def replace_files_by_names(tree: Mapping[str, Any]) -> tuple[Tree, dict[str, Path]]:
    """The tree with names of methods in place of the Python files that its `method` and `hooks.<hook>` name, and these
    files by their methods; they are put first in `plugins.path`. Raises UserError as `local_files` does, and for two
    files of one name."""
    named, hooks = dict(tree), section(tree, "hooks")
    files: dict[str, Path] = {}
    if isinstance(tree.get("method"), str):
        with located(tree["method"]):
            plain, release = split_release(tree["method"])
            short, files = local_files(plain)
        if files:
            named["method"] = short + release
    for hook, text in hooks.items():
        if isinstance(text, str):
            with located(text):
                short, found = local_files(text, f"hooks.{hook}")
                check_one_file_each(files, found, f"hooks.{hook}={brief(text)}")
            files = files | found
            hooks[hook] = short if found else text
    if files:
        paths = dict.fromkeys([*map(str, files.values()), *plugin_paths(tree)])
        named["plugins"] = section(tree, "plugins") | {"path": list(paths)}
    return (named | {"hooks": hooks} if hooks else named), files


def check_one_file_each(files: Mapping[str, Path], more: Mapping[str, Path], shown: str) -> None:
    for name, file in more.items():
        if files.get(name, file) != file:
            raise UserError(f"{shown}: {name}.py and {files[name]} have the same name: rename one")


def plugin_paths(tree: Mapping[str, Any]) -> list[str]:
    """The files that `plugins.path` of a tree names."""
    named = section(tree, "plugins").get("path", [])
    return [part for part in named.split(",") if part] if isinstance(named, str) else list(map(str, named))


def untrusted_paths(file_tree: Mapping[str, Any], command_line: Mapping[str, Any]) -> list[str]:
    """The Python files that a configuration file names and the command line does not."""
    known = {full_path(path) for path in plugin_paths(command_line)}
    return [path for path in plugin_paths(file_tree) if full_path(path) not in known]


def python_files_in(text: Any) -> dict[str, Path]:
    """Everything that looks like a Python file in a text, or in all texts of a tree, by how it is written there."""
    if isinstance(text, Mapping):
        return python_files_in([*text.keys(), *text.values()])
    if isinstance(text, (list, tuple)):
        return {written: file for part in text for written, file in python_files_in(part).items()}
    return {part: full_path(part) for part in re.split(r"[\s,+:=\[\]{}'\"]+", str(text)) if part.endswith(".py")}


def untrusted_file(file: str, named_by: object) -> UserError:
    """The error for a Python `file` that only another file names. named_by: that file, or the setting that names it."""
    return UserError(
        f"{named_by} names a Python file, {file}, which would be run: if you trust it, set plugins.trust=true or name "
        f"it on the command line, as method={file}"
    )
