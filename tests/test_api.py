"""The Python names that stay, what they take, and that a strict type checker is content with them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ssss_zoo
from ssss_zoo import api
from ssss_zoo.api import all_overrides
from ssss_zoo.testing.tiny import tiny_overrides

PUBLIC = {
    "CompareResult", "Config", "Interrupted", "RunResult", "SearchResult", "TrainingPlan", "UserError", "compare",
    "configure", "evaluate", "inspect", "load", "plan", "report", "run", "search",
}  # fmt: skip

PROGRAM = """
from pathlib import Path
from ssss_zoo import CompareResult, Config, SearchResult, RunResult, TrainingPlan, UserError
from ssss_zoo import compare, configure, evaluate, inspect, load, plan, report, run, search

def whole(notify: object) -> float:
    config: Config = configure(method="fixmatch", train={"steps": 3})
    result: RunResult = run("train.steps=3", method=config.method, on_eval=lambda step, miou: print(step, miou))
    table: CompareResult = compare(methods=["fixmatch", "cps"], seeds=[0, 1], notify=print)
    found: SearchResult = search(dataset="shapes")
    planned: TrainingPlan = plan(dataset="shapes", time="5m")
    page: Path = report(table.folder)
    figures: dict[str, object] = evaluate(run=result.folder)
    try:
        run(method="fixmach")
    except UserError as error:
        print(error, page, figures, found.command, planned.runs)
    inspect(run=result.folder).save("step.png")
    load(result.folder).predict("photo.jpg").to_image().save("mask.png")
    value: float = result.metrics["val"]["miou"]
    return value
"""


def test_these_names_stay():
    """Adding one is a promise; taking one away breaks somebody's notebook."""
    assert set(ssss_zoo.__all__) == set(api.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(ssss_zoo, name) is getattr(api, name)
        assert getattr(ssss_zoo, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = ssss_zoo.trainer


def test_keywords_are_words():
    given = {"method": "a+b", "train": {"steps": 3, "crop": [8, 16]}, "resume": True, "output": None, "seed": 1}
    assert all_overrides(("optim.lr=1",), given) == [
        "optim.lr=1",
        "method=a+b",
        "train.steps=3",
        "train.crop=[8,16]",
        "resume=True",
        "output=null",
        "seed=1",
    ]
    several = {"methods": ["a", "b:c=1"], "seeds": (0, 1), "vary": {"train": {"crop": [8, 16]}}}
    assert all_overrides((), several) == ["methods=a,b:c=1", "seeds=0,1", "vary.train.crop=8,16"]
    with pytest.raises(ssss_zoo.UserError, match="got 3"):
        all_overrides((3,), {})


def test_functions_do_what_their_commands_do(tiny_plugins, tmp_path):
    seen = []
    words = tiny_overrides("train.steps=2", f"output={tmp_path / 'run'}")
    result = ssss_zoo.run(*words, method="farcluss", seed=3, on_eval=lambda step, miou: seen.append((step, miou)))
    assert result.folder == tmp_path / "run"
    assert result.metrics["method"] == "farcluss"
    assert result.metrics["seed"] == 3
    assert seen == [(2, result.metrics["val"]["miou"])]
    figures = ssss_zoo.evaluate(run=result.folder)
    assert figures["teacher"]["miou"] == pytest.approx(result.metrics["val"]["teacher"]["miou"])
    config = ssss_zoo.configure(config_file=tmp_path / "run/config.yaml", train={"steps": 5})
    assert (config.method, config.train.steps, config.options["farcluss"]["top_k"]) == ("farcluss", 5, 3)


@pytest.mark.long
@pytest.mark.skipif(not find_spec("mypy"), reason="mypy is not installed")
def test_a_strict_type_checker_is_content(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "program.py"]
    environment = {**os.environ, "MYPYPATH": str(Path(__file__).parents[1])}  # it sees no editable installs
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
