"""Comparisons of tiny runs."""

from __future__ import annotations

import pytest

from helpers.forks import ForkedProcess
from ssss_zoo.comparison import equal_time, launch, study
from ssss_zoo.comparison.report import html
from ssss_zoo.comparison.run_one import run_one, run_process
from ssss_zoo.comparison.study import run_study
from ssss_zoo.evaluation import network_cost
from ssss_zoo.testing.tiny import tiny_overrides as tiny_overrides


def fork_run(overrides, folder, environment, console) -> ForkedProcess:
    """What `start_process` starts, without the imports of a fresh process."""
    return ForkedProcess(lambda: run_process(overrides, str(folder)), environment, console)


@pytest.fixture
def forked_runs(monkeypatch):
    """Processes of runs are copies of this one."""
    for module in (launch, equal_time):
        monkeypatch.setattr(module, "start_process", fork_run)


@pytest.fixture
def no_charts(monkeypatch):
    """Charts are not drawn, for they take long and read nothing that the rest of a report does not."""
    monkeypatch.setattr(html, "draw_charts", lambda *given: [])


@pytest.fixture
def tiny_compare(no_charts, tiny_compare_with_charts):
    """`tiny_compare_with_charts` for tests that look at no chart."""
    return tiny_compare_with_charts


@pytest.fixture
def tiny_compare_with_charts(tiny_plugins, no_dry_run, tmp_path, monkeypatch):
    """Arguments -> the result of a comparison of tiny runs in this process. `ran`: row and seed of each run that was
    executed; `lines`: those that it printed; `folder`: where it lies."""
    monkeypatch.setattr(study, "BUSY_POLL", 0.01)
    monkeypatch.setattr(network_cost, "TOTAL_SECONDS", 0.0)  # one image at a time alone, and a few calls
    monkeypatch.setattr(network_cost, "FIRST_BATCH_SECONDS", 0.005)
    ran, lines = [], []

    def run_inline(runs, jobs, watch):
        for run in runs:
            ran.append((run.row.name, run.seed))
            yield run, run_one(run.overrides, run.folder.path)

    monkeypatch.setitem(launch.LAUNCHERS, "local", run_inline)
    own = ("method=", "seed=", "output=")
    common = [argument for argument in tiny_overrides("train.steps=2") if not argument.startswith(own)]

    def compare(*more):
        return run_study([*common, f"output={tmp_path / 'cmp'}", *more], lines.append)

    compare.ran, compare.lines, compare.folder = ran, lines, tmp_path / "cmp"
    return compare
