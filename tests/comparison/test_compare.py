"""`ssss compare` from arguments to files: continues, adds, refuses, survives failures, and equals the single runs."""

import json
import os
import signal

import pytest

from helpers.comparisons import SMALL
from helpers.runs import act_after_step
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import plan_study
from ssss_zoo.comparison.preflight import check_rows_can_run
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts
from ssss_zoo.comparison.report.tables import table_notes
from ssss_zoo.errors import UserError
from ssss_zoo.train import run as run_module


def test_every_row_and_seed_has_a_run_and_a_figure(tiny_compare):
    result = tiny_compare("methods=fixmatch,farcluss:top_k=1", "seeds=0,1")
    assert len(tiny_compare.ran) == 6
    rows = {row["name"]: row for row in result.figures["rows"]}
    assert list(rows) == ["supervised", "fixmatch", "farcluss:top_k=1"]
    for row in rows.values():
        assert row["seeds"] == [0, 1]
        metrics = [json.loads((tiny_compare.folder / "runs").joinpath(f).read_text()) for f in files_of(row)]
        assert row["last"]["values"] == [one["val"]["miou"] for one in metrics]
        assert row["last"]["mean"] == pytest.approx(sum(row["last"]["values"]) / 2)
    assert rows["farcluss:top_k=1"]["network"] == "teacher"
    assert rows["supervised"]["over_supervised"] is None
    gap = rows["fixmatch"]["over_supervised"]
    assert gap["mean"] == pytest.approx(rows["fixmatch"]["last"]["mean"] - rows["supervised"]["last"]["mean"], abs=1e-9)
    assert not result.figures["protocols_differ"]
    scores = read_per_image_counts(ComparisonFolder(tiny_compare.folder).run("fixmatch", 0))
    right, true, predicted = scores.counts.sum(axis=0)
    matrix = scores.confusion  # true classes in rows
    assert [*matrix.diagonal()] == [*right]
    assert [*matrix.sum(axis=1)] == [*true]
    assert [*matrix.sum(axis=0)] == [*predicted]
    for name in ("compare.json", "compare.csv", "compare.md", "compare.tex", "study.json"):
        assert (tiny_compare.folder / name).is_file()


def files_of(row):
    slug = row["name"].replace(":", "_").replace("=", "_")
    return [f"{slug}/seed{seed}/metrics.json" for seed in row["seeds"]]


def test_finished_runs_are_not_run_again_and_more_can_be_added(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    before = (tiny_compare.folder / "runs/fixmatch/seed0/metrics.json").stat().st_mtime_ns
    result = tiny_compare("methods=fixmatch,cps", "seeds=0,1")
    assert sorted(tiny_compare.ran[2:]) == [("cps", 0), ("cps", 1), ("fixmatch", 1), ("supervised", 1)]
    assert (tiny_compare.folder / "runs/fixmatch/seed0/metrics.json").stat().st_mtime_ns == before
    assert [row["seeds"] for row in result.figures["rows"]] == [[0, 1]] * 3


def test_runs_that_are_no_longer_named_are_listed(tiny_compare):
    assert tiny_compare("methods=fixmatch", "seeds=0,1").figures["left_out"] == []
    record = tiny_compare("methods=cps", "seeds=0").record
    assert record.left_out == ("fixmatch/seed0", "fixmatch/seed1", "supervised/seed1")
    first, *_, last = table_notes(record)
    assert last.endswith("not named by the command: fixmatch/seed0, fixmatch/seed1, supervised/seed1.")
    assert "network" in first
    assert first.endswith("; seed 0.")


def test_a_stopped_run_continues(tiny_compare, monkeypatch):
    def stop_after_one(engine, stage, step):
        if engine.config.method == "fixmatch" and step == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        act_after_step(patch, stop_after_one)
        figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert figures["missing"] == [["fixmatch", 0]]
    figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert figures["missing"] == figures["failed"] == []
    assert "resuming at step 1" in (tiny_compare.folder / "runs/fixmatch/seed0/run.log").read_text()


def test_a_failure_is_shown_and_stops_nothing(tiny_compare, monkeypatch):
    def fail(engine, stage, step):
        if engine.config.method == "fixmatch":
            raise UserError("the disk is on fire")

    with monkeypatch.context() as patch:
        act_after_step(patch, fail)
        result = tiny_compare("methods=fixmatch,cps", "seeds=0")
    assert result.figures["failed"] == [{"row": "fixmatch", "seed": 0, "reason": "the disk is on fire"}]
    assert [row["seeds"] for row in result.figures["rows"]] == [[0], [], [0]]
    text = (tiny_compare.folder / "compare.md").read_text()
    assert "Failed: fixmatch, seed 0: the disk is on fire." in text
    assert tiny_compare("methods=fixmatch,cps", "seeds=0").figures["failed"] == []


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:13] DefaultCPUAllocator: can't allocate memory: 9")],
)
def test_a_run_out_of_memory_names_what_helps(tiny_compare, monkeypatch, error):
    real = run_module.run_training

    def out_of_memory(config, *rest):
        if config.method == "fixmatch":
            raise error
        return real(config, *rest)

    monkeypatch.setattr(run_module, "run_training", out_of_memory)
    figures = tiny_compare("methods=fixmatch,cps", "seeds=0").figures
    assert [one["row"] for one in figures["failed"]] == ["fixmatch"]
    assert "train.accumulate" in figures["failed"][0]["reason"]
    assert [row["seeds"] for row in figures["rows"]] == [[0], [], [0]]


def test_another_comparison_in_the_folder_is_refused(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    with pytest.raises(UserError, match=r"holds another comparison, with train\.batch=.*, now train\.batch=1"):
        tiny_compare("methods=fixmatch", "seeds=0", "train.batch=1")
    (tiny_compare.folder / "study.json").unlink()
    with pytest.raises(UserError, match="holds files that are not of a comparison"):
        tiny_compare("methods=fixmatch", "seeds=0")


def test_rows_of_another_protocol_are_named_loudly(tiny_compare):
    result = tiny_compare("methods=fixmatch,cps:evaluate.absent=zero", "seeds=0")
    assert result.figures["protocols_differ"]
    said = (tiny_compare.folder / "compare.md").read_text()
    assert "NOT COMPARABLE" in said
    assert (
        "cps:evaluate.absent=zero is scored in another way than supervised: evaluate.absent=zero, not exclude" in said
    )


def test_nothing_starts_where_a_row_cannot_run(tiny_compare):
    with pytest.raises(UserError, match="fixmach: unknown method"):
        tiny_compare("methods=fixmach,cps", "seeds=0")
    assert tiny_compare.ran == []
    assert not tiny_compare.folder.exists()


def test_rows_that_cannot_run_on_the_network_or_data_are_told_of_before_anything_starts(tiny_compare):
    with pytest.raises(UserError) as caught:
        tiny_compare("methods=fixmatch,farcluss:top_k=0,cps:data.hold_out=0.99", "seeds=0")
    said = str(caught.value)
    assert "farcluss:top_k=0: " in said
    assert "cps:data.hold_out=0.99: " in said
    assert "fixmatch: " not in said
    assert tiny_compare.ran == []
    assert not tiny_compare.folder.exists()


def test_rows_on_other_images_or_classes_are_refused_before_anything_starts(tiny_compare):
    for word, said in (
        ("val=3", "3 validation images of 5 classes"),
        ("classes=4", "2 validation images of 4 classes"),
    ):
        with pytest.raises(UserError, match=f"cps:data.split={word} on {said}.*cannot be compared"):
            tiny_compare(f"methods=fixmatch,cps:data.split={word}", "seeds=0")
    with pytest.raises(UserError, match="a comparison needs validation images"):
        tiny_compare("methods=fixmatch", "data.split=val=0")
    assert tiny_compare.ran == []


def test_data_that_changed_under_a_comparison_are_told_of(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    for file in tiny_compare.folder.glob("runs/*/*/metrics.json"):  # as if there had been three images
        metrics = json.loads(file.read_text())
        metrics["data"]["val"] = 3
        file.write_text(json.dumps(metrics))
    with pytest.raises(
        UserError, match=r"as it was trained is scored on 3 validation images .* restore the files of the data"
    ):
        tiny_compare("methods=fixmatch", "seeds=0,1")


def test_hidden_masks_are_compared_with_pseudo_labels_unless_told_otherwise(tiny_compare):
    figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    row = figures["rows"][1]
    assert "diagnose=true" in figures["words"]
    assert [point["step"] for point in row["pseudo_labels_over_time"]] == [1, 2]
    assert set(row["pseudo_label_classes"]) == set(figures["classes"])
    figures = tiny_compare("methods=fixmatch", "seeds=0,1", "diagnose=false").figures
    assert "diagnose=true" not in figures["words"]


def test_half_precision_of_a_gpu_passes_the_look_at_the_rows(tmp_path):
    """The look is on the CPU, where fp16 is refused; the cells' device decides."""
    check_rows_can_run(
        plan_study(["methods=fixmatch", "seeds=0", *SMALL, "train.precision=fp16", f"output={tmp_path / 'cmp'}"])
    )


@pytest.mark.long
def test_mlflow_shows_the_runs_under_the_comparison(tiny_compare, store):
    from mlflow.tracking import MlflowClient

    for seeds in ("seeds=0", "seeds=0,1"):  # the same parent when it goes on
        result = tiny_compare("methods=fixmatch", seeds, f"tracking.uri={store}")
    client = MlflowClient(tracking_uri=store)
    number = client.get_experiment_by_name("ssss-zoo").experiment_id
    runs = client.search_runs([number])
    parents = [run for run in runs if "comparison" in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    over = result.record.finished()["fixmatch"].over_supervised
    own = {"over_supervised/fixmatch": over.mean, "over_supervised_low/fixmatch": over.low,
           "over_supervised_high/fixmatch": over.high}  # fmt: skip
    for name, row in result.record.finished().items():
        own |= {f"miou/{name}": row.last.mean, f"miou_sd/{name}": row.last.std}
    assert parents[0].data.metrics == pytest.approx(own)
    assert parents[0].info.run_name == "compare fixmatch all"
    assert parents[0].data.tags["seeds"] == "0, 1"
    note = parents[0].data.tags["mlflow.note.content"]
    assert "ssss compare methods=fixmatch seeds=0,1 " in note
    assert f"| fixmatch | 2 | {100 * own['miou/fixmatch']:.2f} " in note
    assert result.views == (f"MLflow: ssss ui uri={store}",)
    names = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "compare.md"} <= names
    cells = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted((run.data.tags["method"], run.data.tags["seed"]) for run in cells) == [
        ("fixmatch", "0"),
        ("fixmatch", "1"),
        ("supervised", "0"),
        ("supervised", "1"),
    ]
    assert all(len(run.data.tags["protocol_digest"]) == 16 for run in cells)
