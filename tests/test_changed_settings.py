"""The settings of a run that differ from the defaults, the command that repeats it, and the commit it was run from."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import build_methods, with_options
from ssss_zoo.train.changed_settings import changed_settings, repeat_command
from ssss_zoo.train.git_repository import git_commit
from ssss_zoo.train.resume import flat_config
from ssss_zoo.train.tracked_run import run_name

CONFIGURATIONS = (
    ["method=fixmatch", "dataset=shapes"],
    ["method=fixmatch", "train.steps=60", "train.crop=[32,48]", "options.fixmatch.threshold=0.9", "seed=3"],
    ["method=unimatch:release", "dataset=voc", "data.split=1/8", "data.root=/a place", "model.weights=none"],
    ["method=farcluss+fixmatch", "hooks.pixel_weight=farcluss", "data.ignore=[1,2]", "train.channels_last=false"],
    ["method=supervised", "protocol=voc-cps", "optim.decay_all=false", "data.images=lists/a b.txt"],
    ["method=fixmatch", "model.mean=[0.5,0.25,0.125]", "train.epochs=3", "train.steps=null"],
)


def configuration(arguments):
    config = resolve(arguments)
    return with_options(config, build_methods(config))


def test_the_command_makes_the_same_configuration_again():
    for arguments in CONFIGURATIONS:
        config = configuration(arguments)
        command = shlex.split(repeat_command(config))
        assert command[:2] == ["ssss", "run"]
        again = configuration(command[2:])
        assert flat_config(again) == flat_config(config), arguments
        assert again.data.root == config.data.root


def test_a_method_of_a_file_is_named_with_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom ssss_zoo.toolkit import hookimpl\n\n\n@dataclass\nclass Mine:\n"
        '    """Mine."""\n\n    paper = "none"\n    share: float = 0.5\n\n    @hookimpl\n'
        "    def after_step(self, students, progress):\n        return None\n"
    )
    config = configuration([f"method={file}", "options.mine.share=0.25"])
    assert changed_settings(config) == {"options.mine.share": "0.25"}
    assert flat_config(configuration(shlex.split(repeat_command(config))[2:])) == flat_config(config)


def test_only_what_differs_from_the_recipes_is_named():
    assert changed_settings(configuration(["method=fixmatch", "dataset=shapes", "seed=3", "train.workers=2"])) == {}
    given = ["method=fixmatch", "train.steps=60", "options.fixmatch.threshold=0.9", "train.crop=32,48"]
    assert changed_settings(configuration(given)) == {
        "options.fixmatch.threshold": "0.9",
        "train.steps": "60",
        "train.crop": "[32,48]",
    }


def test_the_name_of_a_run_is_short_and_tells_variants_apart():
    names = {
        "farcluss 1/8 seed 0": ["method=farcluss", "data.split=1/8"],
        "farcluss mine seed 3": ["method=farcluss", "data.split=/home/me/lists/mine.csv", "seed=3"],
        "farcluss aaaaaaaaaaaaaaaaaa…aaaaa seed 0": ["method=farcluss", f"data.split={'a' * 40}"],
        "farcluss:top_k=1 all seed 0": ["method=farcluss", "data.split=all", "options.farcluss.top_k=1"],
        "unimatch:release seed 0": ["method=unimatch:release", "dataset=voc", "data.split=92", "tracking.parent=abc"],
    }
    for name, arguments in names.items():
        config = configuration(arguments)
        assert run_name(config, changed_settings(config)) == name


def test_the_commit_is_that_of_the_working_folder(tmp_path, monkeypatch):
    def git(*arguments):
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    git_commit.cache_clear()
    assert git_commit() is None
    git("init", "-q")
    Path("method.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD").strip()
    git_commit.cache_clear()
    assert git_commit() == commit
    Path("method.py").write_text("a = 2\n")
    assert git_commit() == commit  # kept for the process
    git_commit.cache_clear()
    assert git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    git_commit.cache_clear()
    assert git_commit() is None
    git_commit.cache_clear()
