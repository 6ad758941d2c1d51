"""`ssss check-install`: what it finds, and what it says where something is missing."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from ssss_zoo.commands import check_install
from ssss_zoo.commands.cli import command_line
from ssss_zoo.testing.tiny import tiny_overrides

REQUIRES = [
    "torch>=2.6",
    "tomli>=2; python_version < '3'",
    'pooch>=1.8; extra == "benchmarks"',
    'ssss-zoo[polygons]; extra == "benchmarks"',
    'pycocotools>=2.0.8; extra == "polygons"',
    "ruff>=0.9; extra == 'dev'",
]


@pytest.fixture
def packages(monkeypatch) -> dict[str, str]:
    """The installed packages and their versions, to change."""
    installed = {"torch": "2.7.0+cpu", "pooch": "1.9", "pycocotools": "2.0.7", "ssss-zoo": "0.1.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(check_install, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(check_install, "version", version)
    return installed


@pytest.fixture
def no_run(monkeypatch) -> None:
    run = check_install.TrialRun("cpu: x86_64", 2, 1.25, 1.5)
    monkeypatch.setattr(check_install, "train_two_steps", lambda overrides: run)


def test_extras_are_those_of_users_with_the_packages_that_they_lack(packages):
    assert check_install.extra_names() == ["benchmarks", "polygons"]
    assert check_install.missing_packages("") == []
    assert check_install.missing_packages("benchmarks") == ["pycocotools>=2.0.8 (2.0.7 is installed)"]
    packages["pycocotools"] = "2.1.0rc1"
    assert check_install.missing_packages("benchmarks") == []
    del packages["pooch"]
    assert check_install.missing_packages("benchmarks") == ["pooch>=1.8"]


def test_it_prints_a_line_each_for_versions_devices_extras_and_run(packages, no_run, capsys):
    assert command_line(["check-install"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == ["versions", "system", "devices", "extras", "run"]
    assert "ssss-zoo 0.1.0, Python 3." in lines[0]
    assert "cpu (" in lines[2]
    assert lines[3] == ("extras: none (not installed: benchmarks polygons; to add one: pip install 'ssss-zoo[NAME]')")
    assert lines[4] == "run: 2 steps of fixmatch on cpu: x86_64 in 1.2 s, loss 1.500"
    assert lines[5] == "the installation is complete and trains"


def test_json_holds_the_same(packages, no_run, capsys):
    packages["pycocotools"] = "3"
    assert command_line(["check-install", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == {"device": "cpu: x86_64", "steps": 2, "seconds": 1.25, "loss": 1.5}
    assert found["extras"]["benchmarks"] == {"installed": True, "missing": []}
    assert found["versions"]["ssss-zoo"] == "0.1.0"
    assert found["devices"][0].startswith("cpu (")


def says(capsys, *arguments: str) -> str:
    """The one line that the command ends with."""
    assert command_line(["check-install", *arguments]) == 2
    done = capsys.readouterr()
    assert (done.out, done.err.count("\n")) == ("", 1)
    return done.err


def test_an_incomplete_installation_is_one_line_that_says_what_to_install(packages, no_run, capsys):
    packages["torch"] = "1.13"
    assert says(capsys) == "ssss: the installation lacks torch>=2.6 (1.13 is installed): pip install 'torch>=2.6'\n"
    del packages["torch"]
    assert says(capsys) == "ssss: the installation lacks torch>=2.6: pip install 'torch>=2.6'\n"


def test_a_torch_that_does_not_load_is_one_line(packages, no_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch cannot be imported" in says(capsys)


def test_a_run_that_fails_is_one_line(packages, capsys, monkeypatch):
    def fail(config) -> None:
        raise RuntimeError("no kernel\nimage is available")

    monkeypatch.setattr("ssss_zoo.train.run.run_training", fail)
    assert "a run of two steps failed: RuntimeError: no kernel image is available" in says(capsys)


def test_other_arguments_are_refused(capsys):
    assert "takes train.device=cpu, cuda or the like, not method=fixmatch" in says(capsys, "method=fixmatch")


def test_the_run_trains_two_steps_in_silence_and_leaves_nothing(tiny_plugins, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(check_install, "TRIAL_OVERRIDES", tiny_overrides("train.steps=2"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = check_install.train_two_steps(["train.device=cpu"])
    assert run.device.startswith("cpu")
    assert 0 < run.loss < 10
    assert list(tmp_path.glob("ssss-check-*")) == []
    assert capfd.readouterr() == ("", "")
