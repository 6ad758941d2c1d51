"""The pages that are made from the code: hooks, methods, settings, protocols. Run by MkDocs; tests call it, too."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import sys
import typing
from functools import cache
from pathlib import Path
from typing import Any

from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.catalog import first_sentence, full_card, list_hooks, listing
from ssss_zoo.engine.registry import HOOKS, UNCHOSEN_HOOKS
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit import hookspecs

SEARCH_BOOST = {  # of pages in the search; 2 for the others, and 1 for those of a hook or a method
    "your-images.md": 4,
    "write-a-method.md": 4,
    **dict.fromkeys(("words.md", "settings.md", "python.md", "protocols.md", "code.md", "tracking.md"), 0.3),
}
EXAMPLES = Path(__file__).parent / "examples" / "hooks.py"


def on_config(config: Any) -> Any:
    """MkDocs has read mkdocs.yml: put the pages of hooks and methods in place of their folders."""
    for tab in config["nav"]:
        for entry in itertools.chain.from_iterable(tab.values()):
            for title, place in entry.items():
                if place.endswith("/"):
                    entry[title] = [f"{place}index.md", *ordered_pages(place)]
    return config


def ordered_pages(place: str) -> list[str]:
    """The made pages of a folder but its first: hooks in the order of a step, others by name."""
    if place == "hooks/":
        return [f"{place}{hook}.md" for hook in HOOKS]
    return sorted(name for name in pages() if name.startswith(place) and not name.endswith("/index.md"))


def on_files(files: Any, config: Any) -> Any:
    """MkDocs asks which files there are: add ours."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> None:
    """In the search, guides come before reference: it lists every argument, and would be found for every word."""
    page.meta["search"] = {"boost": SEARCH_BOOST.get(page.file.src_uri, 1 if "/" in page.file.src_uri else 2)}


@cache
def pages() -> dict[str, str]:
    """Markdown of every made page by its path."""
    made = {f"hooks/{hook}.md": hook_page(hook) for hook in HOOKS}
    made |= {f"methods/{item['name']}.md": method_page(item["name"]) for item in listing("methods")}
    made["hooks/index.md"] = hook_index()
    made["methods/index.md"] = method_index()
    made["settings.md"] = settings_page()
    made["protocols.md"] = protocols_page()
    made["code.md"] = code_page()
    return made


# --- hooks ----------------------------------------------------------------------------------------------------------


def example_of(hook: str) -> str:
    """The source of the class in examples/hooks.py that answers `hook` as its smallest example."""
    wanted = "".join(part.capitalize() for part in hook.split("_"))
    text = EXAMPLES.read_text()
    node = next(one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == wanted)
    first = min(node.lineno, *(decorator.lineno for decorator in node.decorator_list))
    source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return "\n".join([*imports_of(text, source), "", "", source])


def imports_of(text: str, source: str) -> list[str]:
    """The import lines of `text`, cut down to the names that `source` uses."""
    used, lines = set(re.findall(r"\w+", source)), []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [name for name in node.names if name.name in used]
            lines += [ast.unparse(node)] if node.names else []
    return lines


def rule_of(hook: str) -> str:
    """How answers combine, as the hook's mark and its text say."""
    text = " ".join((getattr(hookspecs, hook).__doc__ or "").split())
    if getattr(hookspecs, hook).ssss_zoo_spec["firstresult"]:
        return "the first answer counts"
    known = {"multiplied": "answers are multiplied", "summed": "terms are summed"}
    return next((said for word, said in known.items() if word in text), "everybody is asked")


def hook_page(hook: str) -> str:
    """Signature, text, combination, users and smallest example of a hook."""
    function = getattr(hookspecs, hook)
    item = next(one for one in list_hooks() if one["name"] == hook)
    users = ", ".join(f"[`{name}`](../methods/{name}.md)" for name in item["answered_by"]) or "no method yet"
    signature = re.sub(r"(?:[a-z_]+\.)+(?=[A-Za-z])", "", str(inspect.signature(function))).replace("'", "")
    chosen = (
        ""
        if hook in UNCHOSEN_HOOKS
        else f" `hooks.{hook}=NAME` lets a method answer it alone, `hooks.{hook}=none` nobody."
    )
    return "\n\n".join(
        [
            f"# {hook}",
            f"```python\n{hook}{signature}\n```",
            text_of(function),
            f"**Types**: {types_of(hook)}.",
            f"**Combination**: {rule_of(hook)}.{chosen}",
            f"**Answered by**: {users}.",
            "## Smallest example",
            f"```python\n{example_of(hook)}\n```",
            "",
        ]
    )


def types_of(hook: str) -> str:
    """Links to the records and teachers that the hook's signature names."""
    text = str(inspect.signature(getattr(hookspecs, hook)))
    known = {
        one: one.__module__ for one in map(vars(hookspecs).get, re.findall(r"[A-Z]\w+", text)) if inspect.isclass(one)
    }
    ours = {one.__name__: place for one, place in known.items() if place.startswith("ssss_zoo.")}
    links = (f"[`{name}`](../words.md#{place}.{name})" for name, place in ours.items())
    return ", ".join(links) or "plain tensors and networks"


def text_of(thing: Any) -> str:
    """Its docstring as Markdown: `<` begins no tag, and a path in quotes stays."""
    return inspect.cleandoc(thing.__doc__ or "").replace("<", "&lt;")


def hook_index() -> str:
    """All hooks in the order in which they are asked."""
    rows = [
        f"| [`{hook}`]({hook}.md) | {first_sentence(getattr(hookspecs, hook).__doc__ or '')} | {rule_of(hook)} |"
        for hook in HOOKS
    ]
    head = ["# Hooks", "", text_of(hookspecs), "", "| hook | what it decides | combination |"]
    head.append("|---|---|---|")
    return "\n".join([*head, *rows, ""])


# --- methods --------------------------------------------------------------------------------------------------------


def method_page(name: str) -> str:
    try:
        return full_card(name)
    except UserError as error:
        return f"# {name}\n\n{error}\n"


def method_index() -> str:
    """What `ssss list methods` says, with links."""
    rows = []
    for item in listing("methods"):
        source, _, answered = item["about"].partition("  [")
        links = ", ".join(f"[`{hook}`](../hooks/{hook}.md)" for hook in answered.rstrip("]").split())
        rows.append(f"| [`{item['name']}`]({item['name']}.md) | {source} | {links} |")
    return "\n".join(["# Methods", "", "| method | source | hooks |", "|---|---|---|", *rows, ""])


# --- settings and protocols -----------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every key of the configuration with its type and default, by section."""
    parts = [
        "# Every setting",
        "`key=value` on the command line, the last one wins. Below it lie the recipes of data set and method, and the "
        "defaults named here. `ssss config method=NAME dataset=NAME` prints what a run would use. "
        "A key in American spelling (`unlabeled`, `gray`, `center`, `color`) is taken for ours.",
        *section("", Config),
    ]
    return "\n\n".join(parts) + "\n"


def section(prefix: str, schema: type) -> list[str]:
    """Heading, text and table of a section, then of those inside it."""
    texts, rows, inner = field_texts(schema), [], []
    defaults = schema()
    for name, declared in field_types(schema).items():
        if dataclasses.is_dataclass(declared.kind):
            inner += section(f"{prefix}{name}.", typing.cast(type, declared.kind))
            continue
        default = getattr(defaults, name)
        shown = "" if default in (None, [], {}) else f"`{default}`"
        rows.append(f"| `{prefix}{name}` | {declared} | {shown} | {texts.get(name, '')} |")
    table = "\n".join(["| key | takes | default | meaning |", "|---|---|---|---|", *rows])
    return [f"## {prefix.rstrip('.') or 'A run'}", text_of(schema), table, *inner]


def field_texts(schema: type) -> dict[str, str]:
    """The texts that stand below the fields of a dataclass, each on one line."""
    (node,) = ast.parse(inspect.getsource(schema)).body
    texts = {}
    for field, below in itertools.pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            parts = " ".join(below.value.value.split()).split("`")  # every second one is code, which needs no escape
            parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
            texts[field.target.id] = "`".join(parts)
    return texts


def protocols_page() -> str:
    """Why numbers differ, and each protocol with its settings."""
    parts = [Path(__file__).with_name("protocols-head.md").read_text()]
    for name, path in sorted(recipes("protocol").items()):
        first, *rest = path.read_text().splitlines()
        parts.append(f"## {name}\n\n{first.removeprefix('# ')}\n\n```yaml\n" + "\n".join(rest) + "\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(pages()[name])


# --- code -----------------------------------------------------------------------------------------------------------


def code_page() -> str:
    """The text about the code, and the step as it stands in the source."""
    source = inspect.cleandoc("\n" + inspect.getsource(Engine.losses))
    head = Path(__file__).with_name("code-head.md").read_text()
    return f'{head}\n```python title="ssss_zoo/engine/step.py"\n{source}\n```\n'
