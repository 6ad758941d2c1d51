"""`budget=time`: rows train for the same time instead of the same steps."""

from dataclasses import replace

import pytest

from helpers.comparisons import SMALL
from ssss_zoo.comparison import equal_time
from ssss_zoo.comparison.plan import plan_study
from ssss_zoo.errors import UserError


def test_equal_time_gives_slow_rows_fewer_steps(tiny_compare, monkeypatch):
    speeds = {"supervised": 10.0, "fixmatch": 4.0, "cps": 2.5}
    asked = []
    monkeypatch.setattr(equal_time, "measure_rate", lambda row, plan: asked.append(row.name) or speeds[row.name])
    for _ in range(2):  # measured once
        figures = tiny_compare("methods=fixmatch,cps", "seeds=0", "train.steps=8", "budget=time").figures
    assert asked == ["supervised", "fixmatch", "cps"]
    assert [row["steps"] for row in figures["rows"]] == [8, 3, 2]
    assert figures["budget"] == "time"


@pytest.mark.long
def test_a_row_is_timed_by_a_short_run(forked_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(equal_time, "TIMED_STEPS", 3)
    plan = plan_study(["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"])
    assert 0.1 < equal_time.measure_rate(plan.rows[0], plan) < 1000


@pytest.mark.slow
def test_a_row_that_cannot_be_timed_is_named(forked_runs, tmp_path):
    plan = plan_study(["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"])
    bad = replace(plan.rows[0], overrides=("method=supervised", "optim.lr=1000", "train.precision=fp16"))
    with pytest.raises(UserError, match="supervised cannot be timed"):
        equal_time.measure_rate(replace(bad, overrides=(*bad.overrides, "data.root=none")), plan)
