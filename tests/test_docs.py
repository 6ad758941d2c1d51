"""The documentation says what is so: examples run, the drawing follows the engine, commands are commands, no hook and
no setting is left out."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import ssss_zoo
from helpers.doc_pages import DOCS, ROOT, generate, load_module
from helpers.hub import serving_hub, use_hub
from ssss_zoo import api
from ssss_zoo.commands.cli import command_line, main
from ssss_zoo.comparison import launch
from ssss_zoo.comparison.report import html
from ssss_zoo.comparison.run_one import run_one
from ssss_zoo.config.schema import Config
from ssss_zoo.data.benchmarks import camvid, shapes
from ssss_zoo.deploy import demo
from ssss_zoo.engine import plugin_source
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import CHOOSABLE_HOOKS, HOOKS
from ssss_zoo.testing import MethodContract
from ssss_zoo.testing.tiny import make_method, tiny_entry_points, tiny_overrides
from ssss_zoo.train.resume import flat_config

TEXTS = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


# --- pages made from the code ---------------------------------------------------------------------------------------


def test_every_hook_and_every_method_has_a_page():
    made = generate.pages()
    assert {f"hooks/{hook}.md" for hook in HOOKS} <= set(made)
    assert {f"methods/{name}.md" for name in installed("methods")} <= set(made)
    for hook in HOOKS:
        page = made[f"hooks/{hook}.md"]
        assert f"def {hook}(self" in page, "no smallest example"
        assert len(page.split("```")[2]) > 150, "a hook without a text"
        for argument in inspect.signature(getattr(generate.hookspecs, hook)).parameters:
            assert argument in page


def test_every_setting_is_on_the_page():
    page = generate.settings_page()
    missing = [key for key in flat_config(Config()) if f"`{key}`" not in page]
    assert not missing


def test_every_protocol_is_on_the_page():
    page = generate.protocols_page()
    assert all(f"## {path.stem}" in page for path in (ROOT / "configs/protocol").glob("*.yaml"))


@pytest.mark.parametrize("hook", HOOKS)
def test_the_smallest_example_of_a_hook_runs_as_it_is_shown(hook, tmp_path, tiny_run):
    file = tmp_path / "example.py"
    file.write_text(generate.example_of(hook))
    rig = tiny_run(f"method={file}")
    assert all(losses["total"] > 0 for losses in rig.steps(2))
    if hook == "after_eval":
        rig.methods["example"].after_eval({"iou": {"road": 0.5, "car": 0.1, "sky": None}})
    if hook == "setup":
        assert rig.run.modules["setup_example"].confident.shape == (5,)


# --- the drawing ----------------------------------------------------------------------------------------------------


def test_the_drawing_of_a_step_follows_the_engine(tiny_plugins, tiny_run):
    """The hooks stand in the drawing in the order in which a step asks them, with a teacher of its own passes."""
    asked = []
    silent = {
        hook: speaks(hook, asked) for hook in HOOKS if hook not in ("make_students", "make_teacher", "plan_stages")
    }
    tiny_plugins.add("methods", "silent", make_method("Silent", **silent))
    rig = tiny_run("method=silent")
    asked.clear()
    rig.steps(1)
    drawing = (DOCS / "pictures/step.svg").read_text()
    drawn = [word for word in re.findall(r">(\w+)</text>", drawing) if word in HOOKS]
    assert [hook for hook in drawn if hook in asked] == list(dict.fromkeys(asked))
    assert set(drawn) | {"make_students", "setup", "plan_stages"} == set(HOOKS)


def speaks(hook, asked):
    """A function with the hook's name that notes that it was asked."""
    arguments = "progress" if "progress" in inspect.signature(getattr(generate.hookspecs, hook)).parameters else "info"
    space = {"note": lambda: asked.append(hook)}
    exec(f"def {hook}(self, {arguments}): note()", space)
    return space[hook]


# --- the worked example ---------------------------------------------------------------------------------------------


class TestWorkedExample(MethodContract):
    method = str(DOCS / "examples" / "margin.py")


def test_the_worked_example_by_hand():
    import torch

    margin = load_module(DOCS / "examples" / "margin.py").Margin
    probs = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    assert margin(power=2.0).pixel_weight(probs).item() == pytest.approx(0.09)
    assert margin(power=0.0).pixel_weight(probs).item() == 1


def test_the_method_of_the_readme_trains(tmp_path, tiny_run):
    file = tmp_path / "margin.py"
    file.write_text(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0])
    assert all(losses["total"] > 0 for losses in tiny_run(f"method={file}").steps(2))


def test_the_table_of_methods_has_all_with_the_arxiv_numbers_of_their_cards():
    table = (ROOT / "README.md").read_text()
    for file in [*(ROOT / "plugins/baselines").glob("*.md"), ROOT / "plugins/farcluss/farcluss.md"]:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{file.stem}`"))
        number = row.split("|")[-2].strip()
        assert number in ("", "none") or f"arXiv {number}" in file.read_text(), row


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


# what stands for something in a command, and what makes it small
STANDS = {
    "METHOD": "farcluss", "method=...": "method=farcluss", "dataset=...": "dataset=shapes", "DIR": "compared",
    ".../config.yaml": "first/config.yaml", "run=DIR": "run=first", "run=DIR2": "run=first",
    "input=photos": "input=my_data/images", "count=20": "count=2", "output=DIR": "output=again",
    "after=20": "after=1", "after=60": "after=1", "trials=30": "trials=2", "seeds=0,1,2": "seeds=0",
}  # fmt: skip
SMALL = [word for word in tiny_overrides("train.steps=2") if not re.match("method=|dataset=|seed=|output=", word)]
NAMED = (
    "ssss demo",
    "ssss export",
    "ssss predict",
    "ssss compare",
    "ssss card",
    "ssss data check",
    "ssss data prepare",
    "ssss label",
    "ssss plan",
    "ssss search",
    "ssss ui",
    "ssss check-install",
)  # in sentences, without the words that they need; and two that tests of their own carry out
LONG_COMMANDS = tuple(f"ssss {name}" for name in ("compare", "export", "inspect", "label", "plan", "run", "search"))
TRAINS = ("run", "plan", "inspect", "compare", "search")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished run, `first`, and a finished comparison, `compared`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin_source, "entry_points", tiny_entry_points().entry_points)
        patch.setitem(shapes.SCENES_PER_PART, "val", 6)
        patch.setitem(launch.LAUNCHERS, "local", inline)
        patch.setattr(html, "draw_charts", lambda *given: [])
        patch.chdir(folder)
        assert command_line(["run", "method=fixmatch", "dataset=shapes", *SMALL, "output=first"]) == 0
        rows = ["methods=fixmatch", "seeds=0", "dataset=shapes", "output=compared"]
        assert command_line(["compare", *rows, *SMALL]) == 0
    return folder


@pytest.fixture
def shared_run(finished, tiny_plugins, tmp_path, monkeypatch):
    """A hub on 127.0.0.1 that has the finished run as me/street-scenes."""
    with serving_hub() as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        assert command_line(["push", f"run={finished / 'first'}", "repo=me/street-scenes"]) == 0
        yield


@pytest.mark.usefixtures("no_dry_run")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.long if command.startswith(LONG_COMMANDS) else ())
        for command in commands()
    ],
)
def test_a_command_of_the_documentation_works(command, finished, tiny_plugins, tmp_path, monkeypatch, capsys, request):
    """Each is carried out as it stands, but for two steps of a tiny network on tiny crops, one seed, and few images."""
    monkeypatch.setitem(shapes.SCENES_PER_PART, "val", 6)
    name, *words = [STANDS.get(word, word) for word in shlex.split(command)[1:]]
    assert name in main.commands
    if command in NAMED:
        return
    if command.startswith("ssss data prepare"):
        pytest.skip("carried out against a server of its own in tests/data/test_prepare.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(launch.LAUNCHERS, "local", inline)
    furnish(command, tmp_path, finished)
    monkeypatch.setattr(demo.DemoServer, "serve_forever", lambda server: None)  # it would serve until Ctrl-C
    if "me/street-scenes" in command:
        request.getfixturevalue("shared_run")
    if name == "compare":  # `ssss report DIR` draws them, too
        monkeypatch.setattr(html, "draw_charts", lambda *given: [])
    fewer = SMALL if name in TRAINS and "--config" not in words and "run=first" not in words else []
    fewer = [*fewer, "seeds=0"] if name == "compare" else fewer
    fewer = ["dataset=folder", "data.root=my_data"] if command == "ssss data check --json" else fewer
    done = command_line([name, *words, *fewer])
    assert done in ((0, 1) if command.startswith("ssss data check") else (0,)), capsys.readouterr().err


def inline(runs, jobs, watch):
    """The runs of a comparison in this process, where there is a tiny network."""
    for run in runs:
        yield run, run_one(run.overrides, run.folder.path)


def furnish(command, folder, finished):
    """What the command finds where it is typed."""
    if "new" not in shlex.split(command) or "--from" in command:
        for file in ("margin.py", "my_idea.py"):
            (folder / file).write_text((DOCS / "examples/margin.py").read_text())
    study = next(block for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "compare.md").read_text(), re.DOTALL))
    (folder / "my-study.yaml").write_text(study)
    someones_folder(folder / "my_data")
    if "VOC2012" in command:
        benchmark(folder / "VOC2012", "JPEGImages/{}.jpg", "SegmentationClass/{}.png", "splits/366", "splits/val.txt")
    if "CamVid" in command:
        (folder / "CamVid").mkdir()
        (folder / "CamVid/classes.txt").write_text("\n".join(camvid.CAMVID_CLASSES))
        benchmark(folder / "CamVid", "images/train/{}.png", "masks/train/{}.png", "splits/1_8", "splits/val.txt")
    if command.startswith("ssss label"):
        own_images = ["dataset=folder", "data.root=my_data", "data.split=1/2"]
        assert command_line(["run", "method=fixmatch", *own_images, *SMALL, "output=first"]) == 0
        if "take=to_label" in command:
            assert command_line(["label", "run=first", "count=2", "output=to_label"]) == 0
    elif ".../config.yaml" in command or "run=DIR" in command:
        shutil.copytree(finished / "first", folder / "first")
    if command == "ssss report DIR":
        shutil.copytree(finished / "compared", folder / "compared")


def benchmark(root, images, masks, lists, val):
    """Six images of noise in the layout of a benchmark, two of them labelled, two for validation."""
    rng = np.random.default_rng(0)
    for number in range(6):
        for name, shape in ((images, (40, 48, 3)), (masks, (40, 48))):
            file = root / name.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256 if len(shape) == 3 else 3, shape, dtype=np.uint8)).save(file)
    (root / lists).mkdir(parents=True)
    lines = [f"{images.format(number)} {masks.format(number)}\n" for number in range(6)]
    for file, part in (("labeled.txt", lines[:2]), ("unlabeled.txt", lines[2:4])):
        (root / lists / file).write_text("".join(part))
    (root / val).write_text("".join(lines[4:]))


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


SNIPPETS = [
    pytest.param(block, id=f"{path.stem}{number}")
    for path in TEXTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
    if "8<" not in block  # a file that is shown, and asked everything by the kit above
]


@pytest.mark.long
@pytest.mark.usefixtures("no_dry_run")
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_python_snippet_works(snippet, finished, tiny_plugins, tmp_path, monkeypatch):
    """As the commands: with two steps, one seed, a tiny network, few images."""
    monkeypatch.setitem(shapes.SCENES_PER_PART, "val", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(launch.LAUNCHERS, "local", inline)
    monkeypatch.setattr(ssss_zoo, "run", small(api.run))
    monkeypatch.setattr(ssss_zoo, "compare", small(api.compare, seeds=0))
    place = types.ModuleType("snippet")
    place.__file__ = str(tmp_path / "snippet.py")
    monkeypatch.setitem(sys.modules, "snippet", place)  # dataclasses look their module up
    if "load(" in snippet:
        folder = "runs/folder/fixmatch/all/seed0"
        shutil.copytree(finished / "first", folder)
        Image.new("RGB", (48, 40)).save("photo.jpg")
    exec(snippet, vars(place))


def small(function, **more):
    return lambda **keys: function(*SMALL, **{**keys, "train": {"steps": 2}, **more})


def test_there_are_snippets_to_try():
    assert len(SNIPPETS) >= 3


def test_the_words_of_methods_are_there_and_say_what_they_are():
    """What the page promises; mkdocstrings leaves out a name that is gone without a word."""
    promised = re.findall(r"::: (\S+)\n.*?members:\s*\[([^\]]+)\]", (DOCS / "words.md").read_text(), re.DOTALL)
    names = [(place, name.strip()) for place, listed in promised for name in listed.split(",")]
    assert len(names) > 50
    for place, name in names:
        thing = getattr(importlib.import_module(place), name)
        assert thing.__doc__, f"{place}.{name} says nothing"


def test_pages_in_the_navigation_are_there():
    text = (ROOT / "mkdocs.yml").read_text()
    tabs = yaml.safe_load(text)["nav"]
    pages = [page for tab in tabs for entries in tab.values() for entry in entries for page in entry.values()]
    assert all((DOCS / page).exists() or page in generate.pages() or page.endswith("/") for page in pages)
    assert {path.name for path in DOCS.glob("*.md")} - {"protocols-head.md", "code-head.md"} <= set(pages)


def test_the_table_of_hooks_has_all_of_them():
    table = (DOCS / "mix.md").read_text()
    assert all(f"`{hook}`" in table for hook in CHOOSABLE_HOOKS)


@pytest.mark.long
@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the extra docs is not installed")
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.glob("site/**/*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(https?:[^"]+)"', text
        )
        assert not loaded, f"{page.name} loads {loaded} from elsewhere"
