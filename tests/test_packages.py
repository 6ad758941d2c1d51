"""Somebody else's package of a method: one that `ssss new` writes now, and one of each API that is promised to go on
working.

The folder `fixtures/plugin-api-N` holds a package as `ssss new` wrote it when `ssss_zoo.toolkit.API` was N. Nothing in
it is mended: where it fails, `API` has to be raised, and the package of the new API is added beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.packages import write_metadata
from ssss_zoo import toolkit
from ssss_zoo.commands.cli import command_line
from ssss_zoo.commands.new import write_method
from ssss_zoo.testing.tiny import tiny_overrides

KEPT = Path(__file__).parent / "fixtures" / f"plugin-api-{toolkit.API}" / "kept-idea"


@pytest.fixture(scope="module")
def own_tests(tmp_path_factory) -> str:
    """What pytest prints of the own tests of both packages, in one fresh process."""
    place = tmp_path_factory.mktemp("packages")
    write_method("their-idea", place)
    for package in (place / "their-idea", KEPT):
        write_metadata(package, place)
    path = os.pathsep.join(map(str, (place, place / "their-idea", KEPT)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(place),
    ]
    tests = [str(place / "their-idea/tests"), str(KEPT / "tests")]
    done = subprocess.run([*command, *tests], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("name", ["their_idea", "kept_idea"])
def test_a_package_passes_its_own_tests(name, own_tests):
    ends = re.findall(rf"test_{name}\.py::.* (PASSED|SKIPPED|FAILED|ERROR) ", own_tests)
    assert ends.count("PASSED") > 30
    assert {"FAILED", "ERROR"}.isdisjoint(ends), own_tests[-3000:]


@pytest.fixture
def kept(tmp_path, monkeypatch) -> None:
    write_metadata(KEPT, tmp_path)
    monkeypatch.syspath_prepend(KEPT)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_package_of_an_earlier_day_is_listed_mixes_and_runs(kept, tiny_plugins, tmp_path, capsys):
    assert command_line(["list", "methods"]) == 0
    assert "kept_idea" in capsys.readouterr().out
    assert command_line(["card", "kept_idea"]) == 0
    assert "Kept idea" in capsys.readouterr().out
    for method in ("kept_idea", "unimatch+kept_idea"):
        folder = tmp_path / method
        assert command_line(["run", *tiny_overrides("train.steps=2", f"method={method}", f"output={folder}")]) == 0
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["status"], metrics["method"]) == ("finished", method)
