"""A run's folder: where it lies, what is called what in it, and that nothing but a run's own files is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssss_zoo.config.resolve import resolve
from ssss_zoo.data.folder.file_tree import RESULT_FILES
from ssss_zoo.train.run_folder import RunFolder, output_folder, split_folder_name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["method=unimatch:release"], "runs/shapes/unimatch-release/1_32/seed0"),
        (["method=fixmatch", "seed=3", "data.split=1/8"], "runs/shapes/fixmatch/1_8/seed3"),
        (["method=fixmatch", "output=elsewhere/x"], "elsewhere/x"),
    ],
)
def test_a_run_lies_where_output_says_else_by_dataset_method_split_and_seed(words, expected):
    assert str(output_folder(resolve(words))) == expected


def test_a_list_file_gives_the_folder_its_name():
    names = {"1/8": "1_8", "lists/mine.csv": "mine", "mine.txt": "mine", "val=30": "val=30", "all": "all"}
    names["/home/me/mine"] = "mine"
    assert {split: split_folder_name(split) for split in names} == names


def test_clearing_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.last, folder.best, folder.stages, folder.pseudo_labels, folder.not_finite, folder.dry_run):
        path.mkdir()
        (path / "file").touch()
    (tmp_path / "last.old").mkdir()
    for path in folder.written():
        if not path.exists():
            path.touch()
    for name in ("notes.txt", "config.yaml.old", "best.png"):
        (tmp_path / name).touch()
    folder.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.png", "config.yaml.old", "notes.txt"]


def test_a_folder_holds_a_run_where_any_file_of_one_lies(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "notes.txt").touch()
    folder.log.touch()
    assert not folder.holds_run()
    for path in (folder.config, folder.metrics, folder.history, folder.last, folder.best):
        path.mkdir()
        assert folder.holds_run()
        path.rmdir()


def test_the_data_set_passes_over_the_folders_of_runs():
    folder = RunFolder(Path("run"))
    assert (folder.config.name, folder.history.name) in RESULT_FILES
