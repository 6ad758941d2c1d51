"""`ssss new`: what it writes runs, is listed, mixes, compares and passes its own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.packages import write_metadata
from ssss_zoo.commands.cli import command_line
from ssss_zoo.commands.new import values_from_name, write_method
from ssss_zoo.config.resolve import resolve
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import make_tiny_run, tiny_overrides

ROOT = Path(__file__).parents[1]


def test_a_single_file_is_short_and_trains(tmp_path, tiny_plugins):
    file, test = write_method("my-idea", tmp_path, single=True)
    assert (file, test) == (tmp_path / "my_idea.py", tmp_path / "test_my_idea.py")
    assert 'with_name("my_idea.py")' in test.read_text()
    assert len(file.read_text().splitlines()) < 40
    made = make_tiny_run(
        resolve(tiny_overrides(f"method=unimatch+{file}", f"output={tmp_path / 'run'}", "options.my_idea.decay=0.5"))
    )
    assert list(made.methods) == ["unimatch", "my_idea"]
    assert all(loss["total"] > 0 for loss in made.steps(2))


@pytest.mark.parametrize(
    ("name", "small", "camel", "title"),
    [("mine", "mine", "Mine", "Mine"), ("My-Idea", "my_idea", "MyIdea", "My idea"), ("x2_y", "x2_y", "X2Y", "X2 y")],
)
def test_names_that_follow_from_one(name, small, camel, title):
    found = values_from_name(name)
    assert (found["name"], found["class"], found["title"]) == (small, camel, title)
    assert found["module"].startswith("ssss_")


@pytest.mark.parametrize("name", ["3x", "", "a b", "class", "../x", "ä"])
def test_what_is_no_name(name, tmp_path):
    with pytest.raises(UserError, match="is no name for a method"):
        write_method(name, tmp_path, single=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fixmatch", "default", "unimatch-v2"])
def test_a_name_that_is_taken_is_refused(name, tmp_path):
    owner = "(a method of ssss-zoo already|the engine's name for its own)"
    with pytest.raises(UserError, match=rf"^'{name.replace('-', '_')}' is {owner}; choose another name$"):
        write_method(name, tmp_path, single=True)
    assert not list(tmp_path.iterdir())


def test_nothing_that_lies_there_is_written_over(tmp_path, capsys):
    for words_ in (["new", "mine", "--file"], ["new", "mine"]):
        command = [*words_, f"--output={tmp_path}"]
        assert command_line(command) == 0
        assert command_line(command) == 2
        assert "exists already" in capsys.readouterr().err


@pytest.fixture
def package(tmp_path) -> Path:
    """The folder of a new package, with what pip would write beside it: it is installed where it is on the path."""
    files = write_method("their-idea", tmp_path)
    folder = tmp_path / "their-idea"
    assert {str(file.relative_to(folder)) for file in files} >= {"LICENSE", "README.md", ".github/workflows/ci.yml"}
    write_metadata(folder, folder)
    return folder


def test_a_file_becomes_a_package_with_its_recipe(tmp_path):
    source = tmp_path / "margin.py"
    source.write_text((ROOT / "docs/examples/margin.py").read_text())
    source.with_suffix(".yaml").write_text("train: {steps: 77}\n")
    write_method("margin", tmp_path, source)
    module = tmp_path / "margin/ssss_margin"
    assert (module / "margin.py").read_text() == source.read_text()
    assert (module / "margin.yaml").read_text() == "train: {steps: 77}\n"
    card = (module / "margin.md").read_text()
    assert "`make_teacher`, `pixel_weight`" in card
    assert "a pixel counts by how far" in card
    assert "`power` (2.0), `decay` (0.9)" in card
    assert 'margin = "ssss_margin.margin:Margin"' in (tmp_path / "margin/pyproject.toml").read_text()
    compile((tmp_path / "margin/tests/test_margin.py").read_text(), "test_margin.py", "exec")
    assert "threshold" not in (tmp_path / "margin/tests/test_margin.py").read_text()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("other", "", "a file gives its method its name; ssss new margin --from"),
        ("margin", "x = 1\n", "holds no method"),
        ("margin", None, "no such file"),
    ],
)
def test_what_cannot_become_a_package_leaves_nothing(name, text, said, tmp_path):
    source = tmp_path / "margin.py"
    if text is not None:
        source.write_text(text)
    with pytest.raises(UserError, match=said):
        write_method(name, tmp_path, source)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} <= {"__pycache__"}  # Python's, of the file


def test_a_package_is_listed_has_a_card_and_its_recipe_counts(package, monkeypatch, capsys):
    monkeypatch.syspath_prepend(package)

    def ssss(*arguments: str) -> str:
        capsys.readouterr()
        assert command_line(arguments) == 0
        return capsys.readouterr().out

    assert "their_idea" in ssss("list", "methods")
    assert "Their idea" in ssss("card", "their_idea")
    resolved = ssss("config", "method=unimatch+their_idea", "dataset=shapes")
    assert "threshold: 0.8" in resolved  # of the recipe; the class says 0.9


@pytest.mark.slow
def test_a_package_works_in_a_fresh_environment_with_our_wheel(tmp_path):
    """Two wheels in an environment of their own, far from this repository. Needs the package registry."""
    write_method("their-idea", tmp_path)
    place = tmp_path / "venv/bin"

    def must(*command: str) -> None:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    must(sys.executable, "-m", "venv", "venv")
    pip = (f"{place}/python", "-m", "pip")
    must(*pip, "wheel", "-q", "--no-deps", "-w", "wheels", str(ROOT), "./their-idea")
    must(*pip, "install", "-q", *map(str, (tmp_path / "wheels").glob("*.whl")), "pytest")
    must(f"{place}/python", "-m", "pytest", "-q", "their-idea/tests")
    must(f"{place}/ssss", "run", "method=their_idea", "dataset=shapes", "train.steps=2")
    must(f"{place}/ssss", "compare", "methods=their_idea", "dataset=shapes", "train.steps=2", "seeds=0")
