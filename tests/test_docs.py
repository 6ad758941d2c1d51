"""The documentation says what is so: examples run, the drawing follows the engine, commands are commands, no hook and
no setting is left out."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ssss_zoo.api import configure
from ssss_zoo.cli import command_line, main
from ssss_zoo.config import Config
from ssss_zoo.place import flat_config
from ssss_zoo.plugins import CHOSEN, HOOKS, installed
from ssss_zoo.testing import MethodContract
from ssss_zoo.testing.tiny import make_method

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


generate, examples = module(DOCS / "generate.py"), module(DOCS / "examples" / "hooks.py")


# --- pages made from the code ---------------------------------------------------------------------------------------


def test_every_hook_and_every_method_has_a_page():
    made = generate.pages()
    assert {f"hooks/{hook}.md" for hook in HOOKS} <= set(made)
    assert {f"methods/{name}.md" for name in installed("methods")} <= set(made)
    for hook in HOOKS:
        page = made[f"hooks/{hook}.md"]
        assert f"def {hook}(self" in page, "no smallest example"
        assert len(page.split("```")[2]) > 150, "a hook without a text"
        for argument in inspect.signature(getattr(generate.specs, hook)).parameters:
            assert argument in page


def test_every_setting_is_on_the_page():
    page = generate.settings_page()
    missing = [key for key in flat_config(Config()) if f"`{key}`" not in page]
    assert not missing


def test_every_protocol_is_on_the_page():
    page = generate.protocols_page()
    assert all(f"## {path.stem}" in page for path in (ROOT / "configs/protocol").glob("*.yaml"))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_smallest_example_of_a_hook_runs(hook, tiny_shelf, tiny_run):
    example = getattr(examples, "".join(part.capitalize() for part in hook.split("_")))
    tiny_shelf.offer("methods", "example", example)
    rig = tiny_run("method=example")
    assert all(losses["total"] > 0 for losses in rig.steps(2))
    if hook == "after_eval":
        example().after_eval({"iou": {"road": 0.5, "car": 0.1, "sky": None}})
    if hook == "setup":
        assert rig.run.modules["setup_example"].confident.shape == (5,)


# --- the drawing ----------------------------------------------------------------------------------------------------


def test_the_drawing_of_a_step_follows_the_engine(tiny_shelf, tiny_run):
    """The hooks stand in the drawing in the order in which a step asks them, with a teacher of its own passes."""
    asked = []
    silent = {
        hook: speaks(hook, asked) for hook in HOOKS if hook not in ("make_students", "make_teacher", "plan_stages")
    }
    tiny_shelf.offer("methods", "silent", make_method("Silent", **silent))
    rig = tiny_run("method=silent")
    asked.clear()
    rig.steps(1)
    drawing = (DOCS / "step.md").read_text().split("```")[1]
    drawn = [word for word in re.findall(r"\w+", drawing) if word in HOOKS]
    assert [hook for hook in drawn if hook in asked] == list(dict.fromkeys(asked))
    assert set(drawn) | {"make_students", "setup", "plan_stages"} == set(HOOKS)


def speaks(hook, asked):
    """A function with the hook's name that notes that it was asked."""
    arguments = "progress" if "progress" in inspect.signature(getattr(generate.specs, hook)).parameters else "info"
    space = {"note": lambda: asked.append(hook)}
    exec(f"def {hook}(self, {arguments}): note()", space)
    return space[hook]


# --- the worked example ---------------------------------------------------------------------------------------------


class TestWorkedExample(MethodContract):
    method = str(DOCS / "examples" / "margin.py")


def test_the_worked_example_by_hand():
    import torch

    margin = module(DOCS / "examples" / "margin.py").Margin
    probs = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    assert margin(power=2.0).pixel_weight(probs).item() == pytest.approx(0.09)
    assert margin(power=0.0).pixel_weight(probs).item() == 1


# --- commands and snippets ------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Every `ssss ...` line of README and documentation: of code blocks, and whole commands in the text."""
    found = []
    for path in TEXTS:
        text = path.read_text()
        for line in re.findall(r"^(?: {4})?((?:pip .*&& )?ssss .*)$", text, re.MULTILINE):
            found += [part.strip() for part in line.split("  #")[0].split("&&") if part.strip().startswith("ssss")]
        found += [" ".join(one.split()) for one in re.findall(r"`(ssss [^`]+)`", text)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documentation_is_one(command, tmp_path, monkeypatch):
    """Every command is known, and every word that sets something resolves; those that need nothing are carried out."""
    name, *words = shlex.split(command)[1:]
    assert name in main.commands
    for file in ("margin.py", "my_idea.py") if name != "new" else ():
        (tmp_path / file).write_text((DOCS / "examples/margin.py").read_text())
    study = next(block for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "compare.md").read_text(), re.DOTALL))
    (tmp_path / "my-study.yaml").write_text(study)
    monkeypatch.chdir(tmp_path)
    words = [word for word in words if "..." not in word and not word.isupper() and "=NAME" not in word]
    if name in ("list", "config") or (name in ("card", "new") and words):
        assert command_line([name, *words]) == 0
    elif name == "compare":
        from ssss_zoo.comparison.study import read_study

        for cell in read_study(words or ["methods=fixmatch"]).cells():
            cell.config()
    elif name == "data" and "data.root=my_data" in words:
        someones_folder(tmp_path / "my_data")
        assert command_line([name, *words]) in (0, 1)  # 1: with warnings
    elif name in ("run", "inspect"):
        given = [
            word for word in words if word.partition("=")[0] not in ("after", "file", "images") and "=DIR" not in word
        ]
        configure(*[word for word in given if "=" in word], train={"steps": 1})


def someones_folder(folder):
    """Sixteen pictures of noise with masks of three classes, as the page on own images has them."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(rng.integers(0, 3, (40, 48), dtype=np.uint8)).save(folder / f"masks/{number}.png")
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")


def test_there_are_commands_to_try():
    assert len(commands()) > 40
    assert {"run", "compare", "inspect", "new", "data", "search"} <= {shlex.split(line)[1] for line in commands()}


def test_python_snippets_are_python():
    for path in TEXTS:
        for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
            if "8<" not in block:
                ast.parse(block)


def test_pages_in_the_navigation_are_there():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = [next(iter(entry.values())) for entry in yaml.safe_load(text)["nav"]]
    assert all((DOCS / page).exists() or page in generate.pages() or page.endswith("/") for page in pages)
    assert {path.name for path in DOCS.glob("*.md")} - {"protocols-head.md"} <= set(pages)


def test_hooks_of_the_readme_are_all_of_them():
    table = (ROOT / "README.md").read_text()
    assert all(f"`{hook}`" in table for hook in CHOSEN)


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the extra docs is not installed")
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    import subprocess
    import sys

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.glob("site/**/*.html"):
        asked = re.findall(r'(?:src|href)="(https?://[^"]+)"', page.read_text())
        loaded = [address for address in asked if address.endswith((".js", ".css", ".woff2"))]
        assert not loaded, f"{page.name} loads {loaded} from elsewhere"
