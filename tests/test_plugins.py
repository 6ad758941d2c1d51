"""Methods by name: found, built from their options, registered for the chosen hooks alone, broken ones contained."""

from __future__ import annotations

import dataclasses
import functools
import logging
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import Config, as_yaml, resolve
from ssss_zoo.engine import registry as plugins
from ssss_zoo.engine.catalog import listing
from ssss_zoo.engine.registry import (
    ALWAYS,
    CHOSEN,
    HOOKS,
    build_methods,
    implements,
    installed,
    load,
    local_methods,
    make_manager,
    method_classes,
    stands_in,
    who_answers,
)
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import make_method
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.types import Progress, PseudoLabel, Views

BUILT_IN = {"farcluss", "fixmatch", "supervised", "unimatch"}

MINE = '''"""A method of one's own."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import Tensor
from ssss_zoo.toolkit.types import PseudoLabel
from ssss_zoo.toolkit.hookspecs import hookimpl

class Helper:
    pass

@dataclass(eq=False)
class Mine:
    paper: ClassVar[str] = "none yet"
    share: float = 0.5

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return torch.full_like(label.confidence, self.share)
'''


def configured(*words: str) -> Config:
    return resolve([*words])


def answers(*words: str) -> dict[str, list[str]]:
    config = configured(*words)
    return who_answers(make_manager(config, build_methods(config)).hook)


def message(*words: str) -> str:
    """The one-line error of a choice of methods that must not come to a run."""
    config = configured(*words)
    with pytest.raises(UserError) as caught:
        make_manager(config, build_methods(config))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def file_of(tmp_path: Path, text: str, name: str = "mine.py") -> str:
    path = tmp_path / name
    path.write_text(text)
    return f"plugins.path={path}"


@pytest.fixture
def add_entry_points(monkeypatch):
    """Entry points of a package that is not there, beside the real ones."""

    def add(*points: EntryPoint) -> None:
        monkeypatch.setattr(
            plugins,
            "entry_points",
            lambda group: [*entry_points(group=group), *(point for point in points if point.group == group)],
        )

    return add


@dataclass(eq=False)
class Weigher:
    """A method with one hook, for this file."""

    value: float = 2.0
    paper: ClassVar[str] = "none"

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return torch.full_like(label.confidence, self.value)


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_hooks_are_those_of_the_specification():
    assert set(HOOKS) == {
        "setup", "make_students", "make_teacher", "plan_stages", "make_views", "pseudo_label", "pixel_weight",
        "refine", "class_weight", "regularize", "after_step", "after_eval",
    }  # fmt: skip
    assert set(CHOSEN) == set(HOOKS) - set(ALWAYS)


def test_installed_names_nothing_but_entry_points_of_the_kind():
    assert set(installed("methods")) >= BUILT_IN
    assert set(installed("datasets")) >= {"voc", "cityscapes", "camvid", "folder", "shapes"}
    assert set(installed("models")) >= {"deeplabv3plus"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method=fixmach"], "unknown method 'fixmach' in method=fixmach; did you mean 'fixmatch'?  known: "),
        (["method=fixmatch+unimtch"], "unknown method 'unimtch' in method=fixmatch+unimtch; did you mean 'unimatch'?"),
        (["hooks.pixel_weight=farclus"], "unknown method 'farclus' in hooks.pixel_weight=farclus; did you mean 'far"),
        (["hooks.pixel_wieght=fixmatch"], "unknown hook 'pixel_wieght' in hooks.pixel_wieght=fixmatch; did you mean '"),
        (["hooks.setup=fixmatch"], "unknown hook 'setup' in hooks.setup=fixmatch"),
        (["method=fixmatch", "options.fixmtch.threshold=1"], "unknown method 'fixmtch' in options.fixmtch (only the m"),
        (["method=fixmatch", "options.unimatch.threshold=1"], "unknown method 'unimatch' in options.unimatch"),
        (["method=fixmatch", "options.fixmatch.treshold=1"], "unknown key 'options.fixmatch.treshold'; did you mean"),
        (["method=fixmatch", "options.fixmatch.threshold=2"], "options.fixmatch.threshold must be between 0 and 1;"),
        (["method=fixmatch", "options.fixmatch.threshold=x"], "options.fixmatch.threshold takes a number; got 'x'"),
        (["method=fixmatch", "options.fixmatch.partner=nxt"], "options.fixmatch.partner must be one of"),
        (["method=farcluss", "options.farcluss.top_k=1.5"], "options.farcluss.top_k takes a whole number"),
        (["method=fixmatch", "hooks.class_weight=unimatch"], "hooks.class_weight=unimatch: method 'unimatch' does not"),
        (["method=fixmatch+"], "unknown method ''"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest_right_one(words, expected):
    assert message(*words).startswith(expected)


def test_an_option_that_is_no_section_is_one_line():
    assert "options.fixmatch" in message("method=fixmatch", "options.fixmatch=0.9")


def test_an_unknown_data_set_or_network_names_the_nearest():
    with pytest.raises(UserError, match="unknown data set 'shaps' in dataset=shaps; did you mean 'shapes'"):
        load("datasets", "shaps", "dataset=shaps")
    with pytest.raises(UserError, match=r"unknown model 'deeplab'.*known: deeplabv3plus"):
        load("models", "deeplab")


# --- somebody else's package ----------------------------------------------------------------------------------------


def test_a_broken_plugin_is_listed_as_broken_and_hurts_nobody_else(add_entry_points):
    add_entry_points(
        EntryPoint("gone", "no_such_package.at_all:Thing", "ssss_zoo.methods"),
        EntryPoint("renamed", "ssss_zoo.plugins.baselines.fixmatch:NoSuchClass", "ssss_zoo.methods"),
    )
    found = {item["name"]: item for item in listing("methods")}
    assert found.keys() >= {*BUILT_IN, "gone", "renamed"}
    assert found["gone"]["about"].startswith("BROKEN: ")
    assert "ModuleNotFoundError: No module named 'no_such_package'" in found["gone"]["about"]
    assert "NoSuchClass" in found["renamed"]["about"]
    assert not any(found[name]["about"].startswith("BROKEN") for name in BUILT_IN)
    assert answers("method=fixmatch")["pixel_weight"] == ["fixmatch"]
    answered = {item["name"]: item["answered_by"] for item in listing("hooks")}
    assert "gone" not in answered["pixel_weight"]
    assert "fixmatch" in answered["pixel_weight"]


def test_using_a_broken_plugin_names_its_package_and_fault(add_entry_points):
    add_entry_points(EntryPoint("gone", "no_such_package.at_all:Thing", "ssss_zoo.methods"))
    assert message("method=gone").startswith("method 'gone' of package no_such_package.at_all:Thing cannot be loaded: ")


def test_a_plugin_that_is_no_dataclass_is_refused(add_entry_points):
    add_entry_points(
        EntryPoint("json", "json:JSONDecoder", "ssss_zoo.methods"), EntryPoint("f", "json:dumps", "ssss_zoo.methods")
    )
    assert "method 'json' must be a dataclass with hook implementations" in message("method=json")
    assert "method 'f' must be a dataclass with hook implementations" in message("method=f")


def test_a_third_party_method_works_as_a_built_in_one_does(add_entry_points):
    add_entry_points(EntryPoint("weigher", f"{__name__}:Weigher", "ssss_zoo.methods"))
    config = configured("method=weigher", "options.weigher.value=3")
    methods = build_methods(config)
    assert methods["weigher"].value == 3.0
    assert who_answers(make_manager(config, methods).hook)["pixel_weight"] == ["weigher"]
    assert answers("method=fixmatch", "hooks.pixel_weight=weigher")["pixel_weight"] == ["weigher"]


def test_only_what_is_selected_is_imported():
    code = (
        "import sys\n"
        "from ssss_zoo.config.schema import resolve\n"
        "from ssss_zoo.engine.registry import build_methods, installed, make_manager\n"
        "config = resolve(['method=supervised'])\n"
        "make_manager(config, build_methods(config))\n"
        "assert 'farcluss' in installed('methods')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('ssss_zoo.plugins.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ssss_zoo.plugins.baselines", "ssss_zoo.plugins.baselines.supervised"]


# --- a file of one's own --------------------------------------------------------------------------------------------


def test_a_method_of_a_local_file_runs_by_the_small_name_of_its_class(tmp_path):
    config = configured("method=mine", file_of(tmp_path, MINE), "options.mine.share=0.25")
    methods = build_methods(config)
    assert list(methods) == ["mine"]
    assert methods["mine"].share == 0.25
    assert who_answers(make_manager(config, methods).hook)["pixel_weight"] == ["mine"]


def test_a_local_method_may_answer_a_single_hook(tmp_path):
    found = answers("method=fixmatch", "hooks.pixel_weight=mine", file_of(tmp_path, MINE))
    assert found["pixel_weight"] == ["mine"]
    assert found["make_views"] == ["fixmatch"]


def test_a_hook_may_be_given_to_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    config = resolve(["method=fixmatch", f"hooks.pixel_weight=farcluss+{tmp_path / 'mine.py'}"])
    assert config.hooks == {"pixel_weight": "farcluss+mine"}
    assert answers("method=fixmatch", f"hooks.pixel_weight={tmp_path / 'mine.py'}")["pixel_weight"] == ["mine"]
    with pytest.raises(UserError, match=r"^hooks\.pixel_weight=gone\.py: no such file gone\.py"):
        configured("hooks.pixel_weight=gone.py")


def test_a_file_that_takes_an_installed_methods_place_is_told_of(tmp_path):
    (tmp_path / "fixmatch.py").write_text(MINE)
    (tmp_path / "mine.py").write_text(MINE)
    for name, expected in (("fixmatch", True), ("mine", False)):
        (method,) = method_classes(configured(f"method={tmp_path / name}.py")).values()
        assert stands_in(name, method) == expected
    assert not stands_in("fixmatch", load("methods", "fixmatch"))
    (tmp_path / "default.py").write_text(MINE)
    with pytest.raises(UserError, match="'default' is no name for a method"):
        configured(f"method={tmp_path / 'default.py'}")


def test_a_local_class_may_name_itself(tmp_path):
    text = MINE.replace("    share: float", '    name: ClassVar[str] = "best"\n    share: float')
    assert list(local_methods([file_of(tmp_path, text).partition("=")[2]])) == ["best", "mine"]


def test_a_file_is_a_method_by_the_files_name(tmp_path):
    file_of(tmp_path, MINE, "my_idea.py")
    config = configured(f"method=fixmatch+{tmp_path / 'my_idea.py'}", "options.my_idea.share=0.25")
    assert config.method == "fixmatch+my_idea"
    assert config.plugins.path == [str((tmp_path / "my_idea.py").resolve())]
    methods = build_methods(config)
    assert list(methods) == ["fixmatch", "my_idea"]
    assert methods["my_idea"].share == 0.25
    assert who_answers(make_manager(config, methods).hook)["pixel_weight"] == ["fixmatch", "my_idea"]


def test_two_files_mix(tmp_path):
    for name in ("one", "two"):
        file_of(tmp_path, MINE, f"{name}.py")
    config = configured(f"method={tmp_path / 'one.py'}+{tmp_path / 'two.py'}")
    assert list(build_methods(config)) == ["one", "two"]


def test_a_recipe_lies_beside_the_file_and_none_of_ours_is_taken_for_it(tmp_path):
    file_of(tmp_path, MINE, "farcluss.py")
    plain = configured(f"method={tmp_path / 'farcluss.py'}", "dataset=camvid")
    assert "farcluss" not in plain.options
    text = "base: fixmatch\noptim: {lr: 0.5}\ndatasets: {camvid: {train: {batch: 3}}}\n"
    (tmp_path / "farcluss.yaml").write_text(text)
    config = configured(f"method={tmp_path / 'farcluss.py'}", "dataset=camvid")
    assert config.plugins.names == ["fixmatch", "farcluss"]
    assert (config.optim.lr, config.train.batch) == (0.5, 3)
    assert configured(f"method={tmp_path / 'farcluss.py'}", "dataset=shapes").train.batch != 3


def test_a_recipe_of_a_package_lies_beside_its_module(tmp_path, monkeypatch):
    (tmp_path / "their_methods").mkdir()
    (tmp_path / "their_methods/__init__.py").write_text("")
    (tmp_path / "their_methods/idea.py").write_text(MINE)
    (tmp_path / "their_methods/clever.yaml").write_text("optim: {lr: 0.25}\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("clever", "their_methods.idea:Mine", "ssss_zoo.methods")
    monkeypatch.setattr("ssss_zoo.config.layers.entry_points", lambda group: [point])
    assert configured("method=clever").optim.lr == 0.25
    assert configured("method=fixmatch+clever").optim.lr == 0.25


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone.py", "no such file"), ("my-idea.py", "'my-idea' is no name for a method; call the file like my_idea.py")],
)
def test_a_file_that_cannot_be_a_method(tmp_path, name, said):
    file_of(tmp_path, MINE, "my-idea.py")
    with pytest.raises(UserError, match=said):
        configured(f"method={tmp_path / name}")


# --- whose Python is run --------------------------------------------------------------------------------------------

TRAP = """from pathlib import Path
Path(__file__).with_name("ran").touch()
""" + MINE[MINE.index("import dataclasses") :]
NAMED_BY_A_FILE = {  # a file of a stranger's -> the words of the person who looks at it
    "plugins: {path: [TRAP]}": [],
    "plugins: {path: 'TRAP,TRAP'}": ["method=fixmatch"],
    "method: TRAP": [],
    "method: fixmatch+TRAP": [],
    "hooks: {pixel_weight: TRAP}": ["method=fixmatch"],
    "plugins: {path: [TRAP], names: [trap]}\nmethod: trap": [],
}


@pytest.fixture
def trap(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/trap.py").write_text(TRAP)
    return tmp_path / "theirs/trap.py"


@pytest.mark.parametrize(("text", "words"), NAMED_BY_A_FILE.items(), ids=range(len(NAMED_BY_A_FILE)))
def test_python_that_a_file_names_is_run_only_where_the_person_says_so(text, words, trap, tmp_path):
    own = tmp_path / "config.yaml"
    own.write_text(text.replace("TRAP", str(trap)))

    def built(*more: str) -> dict[str, Any]:
        return build_methods(resolve([*words, "train.steps=1", *more], own))

    for more in ([], ["plugins.trust=false"]):
        with pytest.raises(
            UserError, match=r"config\.yaml names a Python file, .*trap\.py, which would be run: .*trust=true"
        ):
            built(*more)
    assert not trap.with_name("ran").exists()
    for more in (["plugins.trust=true"], [f"plugins.path={trap}"]):
        trap.with_name("ran").unlink(missing_ok=True)
        built(*more)
        assert trap.with_name("ran").exists()


def test_no_file_can_trust_itself(trap, tmp_path):
    own = tmp_path / "config.yaml"
    own.write_text(f"plugins: {{path: [{trap}], trust: true}}\n")
    with pytest.raises(UserError, match=r"config\.yaml: plugins\.trust counts on the command line alone"):
        resolve([], own)


@pytest.mark.parametrize("part", ["plugins: {path: [TRAP]}", "datasets: {shapes: {plugins: {path: [TRAP]}}}"])
def test_no_recipe_names_a_file(part, trap, tmp_path):
    file_of(tmp_path, MINE)
    (tmp_path / "mine.yaml").write_text(part.replace("TRAP", str(trap)))
    with pytest.raises(UserError, match="names plugins where none have a place"):
        configured(f"method={tmp_path / 'mine.py'}")
    assert not trap.with_name("ran").exists()


@pytest.mark.parametrize("part", ["datasets: 5", "datasets: {shapes: 5}", "base: [a, b]", "plugins: {names: {a: b}}"])
def test_a_recipe_of_ones_own_that_says_nonsense_is_one_line(part, tmp_path):
    file_of(tmp_path, MINE)
    (tmp_path / "mine.yaml").write_text(part)
    with pytest.raises(UserError, match="takes"):
        configured(f"method={tmp_path / 'mine.py'}")


def test_what_a_run_wrote_of_a_file_is_read_by_the_same_words_and_by_evaluate(tmp_path):
    file_of(tmp_path, MINE)
    mine = f"method={tmp_path / 'mine.py'}"
    first = configured(mine, "train.steps=1")
    (tmp_path / "config.yaml").write_text(as_yaml(first))
    assert resolve([mine], tmp_path / "config.yaml") == first
    assert resolve([mine, "plugins.trust=true"], tmp_path / "config.yaml") == first
    alone = resolve([], tmp_path / "config.yaml", methods=False)
    assert (alone.method, alone.plugins.path) == ("mine", [])  # nothing of it can be run by mistake


def test_one_name_for_two_files_is_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        file_of(tmp_path / folder, MINE)
    one, two = tmp_path / "a/mine.py", tmp_path / "b/mine.py"
    for words in ([f"method={one}+{two}"], [f"method={one}", f"hooks.pixel_weight={two}"]):
        with pytest.raises(UserError, match=r"mine\.py.*rename one"):
            configured(*words)
    for folder in ("a", "b"):
        (tmp_path / folder / "mine.py").rename(tmp_path / folder / f"{folder}.py")
    path = f"plugins.path={tmp_path / 'a/a.py'},{tmp_path / 'b/b.py'}"
    assert "both hold a method 'mine': rename one" in message("method=mine", "train.steps=1", path)
    assert build_methods(configured("method=a+b", "train.steps=1", path))


def test_a_method_that_answers_one_hook_twice_is_refused():
    for hook in ("pixel_weight", "regularize"):
        assert message(f"hooks.{hook}=farcluss+farcluss") == (
            f"hooks.{hook}=farcluss+farcluss names 'farcluss' twice; each method answers once"
        )


@pytest.mark.parametrize(("kind", "name"), [("methods", "fixmatch"), ("datasets", "shapes"), ("models", "dpt")])
def test_a_name_that_two_packages_register_is_refused_where_it_is_used(kind, name, add_entry_points):
    add_entry_points(EntryPoint(name, "their_package.idea:Mine", f"ssss_zoo.{kind}"))
    with pytest.raises(UserError, match=rf"'{name}' is registered by several packages, ssss-zoo and their_package"):
        load(kind, name)
    item = next(item for item in listing(kind) if item["name"] == name)
    assert "their_package" in item["package"]
    assert item["about"].startswith("BROKEN: ")
    assert load("methods", "unimatch")  # nobody else is hurt


def test_a_file_of_several_methods_names_them(tmp_path):
    file_of(tmp_path, MINE + MINE[MINE.index("@dataclass") :].replace("class Mine", "class Other"), "both.py")
    assert "unknown method 'both'" in message(f"method={tmp_path / 'both.py'}")
    assert "mine" in message(f"method={tmp_path / 'both.py'}")


def test_a_local_file_that_is_not_there_or_is_no_python(tmp_path):
    gone = f"plugins.path={tmp_path / 'gone.py'}"
    assert message("method=mine", gone) == f"{gone}: no such file; it takes the path of one Python file"
    assert "its name must end in .py" in message("method=mine", file_of(tmp_path, MINE, "mine.txt"))
    assert "no such file" in message("method=mine", f"plugins.path={tmp_path}")


def test_a_local_file_that_fails_names_the_line(tmp_path):
    assert "fails at line 2: ZeroDivisionError: division by zero" in message(
        "method=mine", file_of(tmp_path, "x = 0\ny = 1 / x\n")
    )
    syntax = message("method=mine", file_of(tmp_path, "x = 0\n\ndef broken(:\n    pass\n"))
    assert "fails at line 3: SyntaxError" in syntax


def test_a_local_file_without_a_method_says_so(tmp_path):
    path = file_of(tmp_path, "class Helper:\n    pass\n")
    assert "holds no method" in message("method=mine", path)
    assert "mine.py" in message("method=mine", path)


def test_a_wrong_name_beside_a_local_file_names_what_the_file_has(tmp_path):
    found = message("method=mien", file_of(tmp_path, MINE))
    assert "unknown method 'mien'" in found
    assert "did you mean 'mine'?" in found


def test_a_local_method_must_be_a_dataclass_too(tmp_path):
    plain = MINE.replace("@dataclass(eq=False)\n", "")
    assert "must be a dataclass" in message("method=mine", file_of(tmp_path, plain))


def test_a_misspelt_hook_is_named_with_the_hooks_there_are(tmp_path):
    text = MINE.replace("def pixel_weight", "def pixel_wieght") + (
        "\n    @hookimpl\n    def class_weight(self) -> Tensor:\n        return torch.ones(3)\n"
    )
    found = message("method=mine", file_of(tmp_path, text))
    assert "pixel_wieght" in found
    assert "hooks are: setup, make_students" in found


def test_a_file_whose_only_hook_is_misspelt_names_it(tmp_path):
    found = message("method=mine", file_of(tmp_path, MINE.replace("def pixel_weight", "def pixel_wieght")))
    assert "pixel_wieght" in found


def test_a_wrong_argument_of_a_hook_is_named(tmp_path):
    text = MINE.replace("label: PseudoLabel) ", "lable: PseudoLabel) ").replace("label.conf", "lable.conf")
    found = message("method=mine", file_of(tmp_path, text))
    assert found == (
        "method 'mine': pixel_weight takes 'lable', which this hook does not have; did you mean 'label'?  it has, for "
        "you to choose from: probs, label, stream, progress"
    )


def test_a_hook_that_is_not_marked_is_not_passed_over_in_silence(tmp_path):
    text = MINE + "\n    def class_weight(self) -> Tensor:\n        return torch.ones(3)\n"
    assert message("method=mine", file_of(tmp_path, text)).startswith(
        "method 'mine': its function class_weight is not marked, so nobody would ask it: put @hookimpl above it"
    )


# --- who answers ----------------------------------------------------------------------------------------------------


def test_a_method_answers_what_it_implements_and_defaults_the_rest():
    found = answers("method=fixmatch")
    assert found["make_views"] == found["pixel_weight"] == found["make_teacher"] == ["fixmatch"]
    assert found["pseudo_label"] == found["plan_stages"] == found["make_students"] == ["default"]
    assert found["class_weight"] == []


def test_the_leftmost_method_is_asked_first():
    assert answers("method=unimatch+fixmatch")["pixel_weight"] == ["unimatch", "fixmatch"]
    assert answers("method=fixmatch+unimatch")["make_views"] == ["fixmatch", "unimatch"]
    config = configured("method=unimatch+supervised")
    views = make_manager(config, build_methods(config)).hook.make_views(size=(2, 8, 8), progress=Progress(0, 2, 1))
    assert len(views.views) == 3  # unimatch's, not supervised's none
    config = configured("method=supervised+unimatch")
    views = make_manager(config, build_methods(config)).hook.make_views(size=(2, 8, 8), progress=Progress(0, 2, 1))
    assert isinstance(views, Views)
    assert views.views == ()


def test_a_named_hook_is_answered_by_those_named_and_nobody_else():
    found = answers("method=fixmatch", "hooks.pixel_weight=farcluss", "hooks.pseudo_label=farcluss")
    assert found["pixel_weight"] == found["pseudo_label"] == ["farcluss"]
    assert found["make_views"] == found["make_teacher"] == ["fixmatch"]  # farcluss was not chosen for them
    assert found["regularize"] == []
    assert found["setup"] == found["after_step"] == ["farcluss"]  # its state hooks come along


def test_the_leftmost_named_for_a_hook_is_asked_first_whatever_the_method_is():
    assert answers("method=fixmatch", "hooks.make_views=unimatch+fixmatch")["make_views"] == ["unimatch", "fixmatch"]


def test_a_hook_of_a_method_that_is_not_named_is_not_asked():
    found = answers("method=unimatch+farcluss", "hooks.pixel_weight=unimatch")
    assert found["pixel_weight"] == ["unimatch"]
    assert found["class_weight"] == ["farcluss"]


def test_none_silences_a_hook():
    found = answers("method=farcluss", "hooks.regularize=none", "hooks.pseudo_label=none")
    assert found["regularize"] == []
    assert found["pseudo_label"] == ["default"]


def test_options_are_typed_and_written_back_in_full():
    config = configured("method=fixmatch", "options.fixmatch.threshold=1")
    methods = build_methods(config)
    assert config.options.keys() == {"fixmatch"}
    assert config.options["fixmatch"].keys() == {field.name for field in dataclasses.fields(methods["fixmatch"])}
    assert config.options["fixmatch"]["partner"] == "stream"
    assert isinstance(config.options["fixmatch"]["threshold"], float)
    assert methods["fixmatch"].threshold == 1.0
    assert isinstance(methods["fixmatch"].threshold, float)


def test_options_of_a_method_that_answers_one_hook_are_read():
    config = configured("method=fixmatch", "hooks.class_weight=farcluss", "options.farcluss.rebalance=off")
    assert build_methods(config)["farcluss"].rebalance == "off"


def test_written_back_options_build_the_same_method_again():
    config = configured("method=farcluss", "options.farcluss.top_k=2", "options.farcluss.contrast=off")
    first = build_methods(config)["farcluss"]
    again = build_methods(config)["farcluss"]
    assert vars(first) == vars(again)


def test_implements_names_marked_functions_only():
    class Some:
        @hookimpl
        def setup(self) -> None: ...

        def pixel_weight(self) -> None: ...

    assert implements(Some) == ["setup"]


def test_watch_sees_every_answer_with_plugin_and_hook():
    seen: list[tuple[str, str]] = []

    def watch(plugin: str, hook: str, function: Any) -> Any:
        @functools.wraps(function)
        def watched(*arguments: Any) -> Any:
            seen.append((plugin, hook))
            return function(*arguments)

        return watched

    config = configured("method=fixmatch")
    manager = make_manager(config, build_methods(config), watch)
    label = PseudoLabel(torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 2), torch.ones(1, 2, 2).bool())
    asked = {"probs": torch.ones(1, 3, 2, 2) / 3, "label": label, "stream": "unlabelled", "progress": Progress(0, 1, 1)}
    assert len(manager.hook.pixel_weight(**asked)) == 1
    manager.hook.make_students(make_network=lambda: torch.nn.Identity())
    assert seen == [("fixmatch", "pixel_weight"), ("default", "make_students")]


def test_one_manager_a_run():
    config = configured("method=fixmatch")
    methods = build_methods(config)
    assert make_manager(config, methods) is not make_manager(config, methods)


# --- what is listed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["methods", "hooks", "datasets", "models"])
def test_everything_listed_has_a_name_and_a_line_about_it(kind):
    items = listing(kind)
    assert items
    for item in items:
        assert item["name"]
        assert item["about"]
        assert "\n" not in item["about"]
        assert not item["about"].startswith(("BROKEN", "no description"))


def test_methods_are_listed_with_their_paper_and_hooks():
    found = {item["name"]: item for item in listing("methods")}
    assert "arXiv 2506.11142" in found["farcluss"]["about"]
    assert found["fixmatch"]["hooks"] == ["make_teacher", "make_views", "pixel_weight"]
    assert found["fixmatch"]["package"] == "ssss-zoo"


def test_hooks_are_listed_with_who_answers_them():
    found = {item["name"]: item for item in listing("hooks")}
    assert "farcluss" in found["class_weight"]["answered_by"]
    assert "supervised" not in found["class_weight"]["answered_by"]
    assert found["class_weight"]["choosable"]
    assert not found["setup"]["choosable"]


def test_what_setup_makes_and_does_not_return_is_told_of(tiny_shelf, tiny_run, caplog):
    def forgets(self, info):
        self.memory, self.count = nn.Linear(1, 1), torch.zeros(2)

    def keeps(self, info):
        self.memory, self.first = nn.ModuleDict({"inner": nn.Linear(1, 1)}), info.students[0]
        self.inner = self.memory["inner"]
        return {"keeps": self.memory}

    for name, setup in (("forgets", forgets), ("keeps", keeps)):
        tiny_shelf.offer("methods", name, make_method(name.capitalize(), setup=setup))
        with caplog.at_level(logging.WARNING, logger="ssss_zoo"):
            tiny_run(f"method={name}")
    told = [record.getMessage().partition(" is in")[0] for record in caplog.records if "setup" in record.getMessage()]
    assert told == ["forgets: self.memory", "forgets: self.count"]
