"""Methods in files of one's own: found, mixed, refused in one line; and whose Python is run."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from helpers.methods import MINE, answers, configured, file_of, message
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.engine.registry import (
    build_methods,
    load,
    local_methods,
    make_manager,
    method_classes,
    replaces_installed,
    who_answers,
)
from ssss_zoo.errors import UserError

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
        assert replaces_installed(name, method) == expected
    assert not replaces_installed("fixmatch", load("methods", "fixmatch"))
    (tmp_path / "default.py").write_text(MINE)
    with pytest.raises(UserError, match="'default' cannot be a method's name"):
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
    [("gone.py", "no such file"), ("my-idea.py", "'my-idea' cannot be a method's name; name the file like my_idea.py")],
)
def test_a_file_that_cannot_be_a_method(tmp_path, name, said):
    file_of(tmp_path, MINE, "my-idea.py")
    with pytest.raises(UserError, match=said):
        configured(f"method={tmp_path / name}")


# --- files that are refused -----------------------------------------------------------------------------------------


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
        "method 'mine': its function class_weight is not marked, so nobody would call it: put @hookimpl above it"
    )


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
    with pytest.raises(UserError, match=r"config\.yaml: plugins\.trust is allowed on the command line only"):
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
