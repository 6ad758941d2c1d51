"""A comparison's folder, read back: of earlier versions, moved, damaged. A line says what is wrong, or it is mended."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.comparisons import KEPT_COMPARISONS, NEWEST_COMPARISON
from ssss_zoo.comparison import scored_run
from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.records import figures_tree, read_figures
from ssss_zoo.comparison.report import html as report
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.report.tables import as_csv, as_latex, as_markdown, screen_table
from ssss_zoo.comparison.run_files import damaged_files, is_done
from ssss_zoo.comparison.study_display import StudyDisplay
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import FORMAT

COMMAND = ("methods=fixmatch", "seeds=0,1")


def copied(source: Path, place: Path) -> Path:
    shutil.copytree(source, place)
    return place


@pytest.mark.parametrize("source", KEPT_COMPARISONS, ids=lambda path: path.name)
def test_a_comparison_of_every_version_is_reported_and_gone_on_with(source, tiny_compare_with_charts, monkeypatch):
    """Its runs were trained elsewhere, and are not trained again."""
    tiny_compare = tiny_compare_with_charts
    folder = copied(source, tiny_compare.folder)
    before = figures_tree(read_figures(ComparisonFolder(folder)))
    assert write_report(ComparisonFolder(folder)).read_text().count("<svg") == 5
    monkeypatch.setattr(report, "draw_charts", lambda *given: [])
    figures = tiny_compare(*COMMAND).figures
    assert tiny_compare.ran == []
    for old, new in zip(before["rows"], figures["rows"], strict=True):
        assert old["last"]["values"] == pytest.approx(new["last"]["values"])
        assert list(new["folders"].values()) == [f"runs/{new['name']}/seed{seed}" for seed in (0, 1)]
    assert tiny_compare(*COMMAND[:1], "seeds=0,1,2").figures["missing"] == []
    assert [seed for _, seed in tiny_compare.ran] == [2, 2]


def test_there_is_a_fixture_of_every_format():
    assert [read_figures(ComparisonFolder(source)).format for source in KEPT_COMPARISONS] == list(range(FORMAT + 1))


# --- figures --------------------------------------------------------------------------------------------------------


def places(tree: Any, under: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything in a record that is no leaf of a long list."""
    items = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else []
    return [place for key, value in items for place in ((*under, key), *places(value, (*under, key)))]


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at `place` changed; `...` takes it away."""
    tree = part = copy.deepcopy(tree)
    for key in place[:-1]:
        part = part[key]
    if value is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return tree


@pytest.fixture
def shown(tmp_path, no_charts):
    """A copy of a comparison, whose report has no charts."""
    return copied(NEWEST_COMPARISON, tmp_path / "cmp")


def what_is_said(folder: Path) -> str | None:
    """Of a folder whose report and tables cannot be made."""
    try:
        figures = read_figures(ComparisonFolder(folder))
        report.template_values(figures, ComparisonFolder(folder))
        for table in (as_markdown, as_csv, as_latex, screen_table):
            table(figures)
    except UserError as error:
        return str(error)
    return None


DAMAGES = [..., None, [], {"a": None}, "text", -1]


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2))])
@pytest.mark.parametrize("value", DAMAGES, ids=repr)
@pytest.mark.parametrize("file", ["compare.json", "pictures/pictures.json"])
def test_a_report_of_a_damaged_record_names_it_and_the_remedy(shown, file, value, part):
    """Every place meets two of the six damages in each part."""
    whole = json.loads((shown / file).read_text())
    for number, place in enumerate(places(whole)):
        if (number + DAMAGES.index(value)) % 3 != part or (isinstance(place[-1], int) and value is ...):
            continue
        (shown / file).write_text(json.dumps(changed(whole, place, value)))
        said = what_is_said(shown)
        assert said is None or re.fullmatch(rf"{re.escape(str(shown))}.*; the same `ssss compare` command.*", said), (
            place
        )


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{}", b"3", b'"a"', b"\xff\xfe", b"[" * 9999, b'{"format": 99}']
)
@pytest.mark.parametrize("file", ["compare.json", "pictures/pictures.json"])
def test_a_report_of_a_file_that_is_no_record(shown, file, text):
    (shown / file).write_bytes(text)
    with pytest.raises(UserError, match=r"makes it anew$|newer ssss-zoo .* upgrade$"):
        write_report(ComparisonFolder(shown))


@pytest.mark.parametrize(
    "lost", ["pictures/0.jpg", "runs/supervised/seed0/scores.npz", "runs/supervised/seed0/shown/0.png"]
)
def test_a_report_without_one_of_its_files(shown, lost):
    (shown / lost).unlink()
    if "pictures" not in lost:
        with pytest.raises(UserError, match=r"is missing.*makes it anew"):
            write_report(ComparisonFolder(shown))
        return
    with pytest.raises(
        UserError, match=r"pictures.json names '0.jpg', which is not a picture in its folder.*makes it anew"
    ):
        write_report(ComparisonFolder(shown))


def test_a_report_shows_no_file_from_elsewhere(shown, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    index = json.loads((shown / "pictures/pictures.json").read_text())
    index["images"][0]["files"]["image"] = "../../secret.png"
    (shown / "pictures/pictures.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="which is not a picture in its folder"):
        write_report(ComparisonFolder(shown))


# --- runs and study -------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another(file: Path) -> None:
    file.write_text("[1, 2]")


DAMAGED = {"metrics.json": "fixmatch/seed0", "scores.npz": "fixmatch/seed1", "config.yaml": "supervised/seed0",
           "cell.json": "supervised/seed1", "network_cost.json": "supervised/seed1"}  # fmt: skip


def test_damaged_records_of_runs_are_made_again(tiny_compare, monkeypatch):
    """Of each run one or two, in three ways one after the other. All runs have one network, which is measured once."""
    measured = []
    real = scored_run.measure_network_cost
    monkeypatch.setattr(scored_run, "measure_network_cost", lambda *a: measured.append(1) or real(*a))
    before = tiny_compare(*COMMAND).figures
    assert len(measured) == 1
    assert before["rows"][0]["network_cost"]["parameters"] > 0
    for damage in (cut, empty, another):
        for name, run in DAMAGED.items():
            folder = tiny_compare.folder / "runs" / run
            damage(folder / name)
            if name not in ("cell.json", "config.yaml"):  # of YAML a part may be whole
                assert damaged_files(ComparedRunFolder(folder)) == [folder / name]
        tiny_compare.lines.clear()
        after = tiny_compare(*COMMAND).figures
        told = "\n".join(tiny_compare.lines)
        assert "fixmatch, seed 0: metrics.json is damaged and will be made again" in told
        assert "fixmatch, seed 1: scores.npz is damaged and will be made again" in told
        assert "supervised, seed 1: network_cost.json is damaged and will be made again" in told
        assert all(is_done(ComparedRunFolder(tiny_compare.folder / "runs" / run)) for run in DAMAGED.values())
        for key in ("last", "network_cost"):
            assert [row[key] for row in after["rows"]] == [row[key] for row in before["rows"]]
        assert after["failed"] == after["missing"] == []
    assert len(measured) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"common": [], "rows": {}}', '{"common": {}, "rows": {"a": "b"}}', '{"common": {}}'],
)
def test_a_damaged_study_is_refused(tiny_compare, text):
    copied(NEWEST_COMPARISON, tiny_compare.folder)
    (tiny_compare.folder / "study.json").write_text(text)
    with pytest.raises(UserError, match=r"study\.json is damaged.*restore it from a copy, or choose another output="):
        tiny_compare(*COMMAND)


def test_what_a_newer_version_wrote_is_not_made_again(tiny_compare):
    folder = copied(NEWEST_COMPARISON, tiny_compare.folder)
    file = folder / "runs/fixmatch/seed0/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(UserError, match=r"metrics\.json was written by a newer ssss-zoo"):
        tiny_compare(*COMMAND)


def test_the_runs_at_a_time_are_recorded_and_may_change(tiny_compare, monkeypatch):
    folder, told = copied(NEWEST_COMPARISON, tiny_compare.folder), []
    monkeypatch.setattr(
        StudyDisplay, "begin_study", lambda self, runs, missing, jobs, earlier_tell: told.append((jobs, earlier_tell))
    )
    for argument, recorded in (("jobs=2", 2), ("jobs=2", 2), ("output=" + str(folder), None)):
        tiny_compare(*COMMAND, argument)
        assert json.loads((folder / "study.json").read_text()).get("jobs") == recorded
    assert told == [(2, False), (2, True), (None, False)]


def test_a_setting_that_is_new_changes_no_comparison(tiny_compare):
    folder = copied(NEWEST_COMPARISON, tiny_compare.folder)
    study = json.loads((folder / "study.json").read_text())
    del study["common"]["evaluate.pad_label"]
    study["common"]["data.of_an_earlier_version"] = "1"
    (folder / "study.json").write_text(json.dumps(study))
    assert tiny_compare(*COMMAND).figures["missing"] == []
    with pytest.raises(UserError, match=r"with evaluate\.pad_label=255, now evaluate\.pad_label=0"):
        tiny_compare(*COMMAND, "evaluate.pad_label=0")
