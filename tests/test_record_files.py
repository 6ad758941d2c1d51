"""What a run left behind is read back by its types: whatever is wrong with a file is one line that names it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from ssss_zoo.commands.cli import command_line
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import FORMAT, Metrics, ResumeRecord, check_record, read_metrics, read_record
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.train import checkpoint
from ssss_zoo.train.history import read_history
from ssss_zoo.train.reevaluate import evaluate_run

SCORES = {"miou": 0.5, "iou": {"sky": 0.5, "sea": None}, "pixel_accuracy": 0.75}
VAL = {"step": 4, "network": "student", **SCORES, "student": SCORES}
METRICS: dict[str, Any] = {
    "format": FORMAT, "status": "finished", "method": "fixmatch", "dataset": "shapes", "split": "all", "seed": 0,
    "step": 4, "val": VAL, "best": VAL, "time": {"train_seconds": 1, "evaluate_seconds": 0.5, "data_wait_seconds": 0.0,
    "steps_per_second": None, "peak_memory_bytes": None}, "environment": {}, "data": {"labelled": 1, "unlabelled": 2,
    "val": 3, "fingerprint": "a"}, "pseudo_labels": None, "absent_classes": "exclude",
    "protocol": {"name": None, "digest": "b", "settings": {}, "lists": {}},
}  # fmt: skip
REMEDY = "train it again"
OPTIONAL = {"format", "val.pixel_accuracy", "best.pixel_accuracy", "val.student.pixel_accuracy",
            "best.student.pixel_accuracy"}  # fmt: skip


def places(tree: dict[str, Any], under: str = "") -> list[str]:
    """The place of each key that the record must have, `a.b.c`; names of classes are nobody's keys."""
    found = []
    for key, value in tree.items():
        found.append(f"{under}{key}")
        found += places(value, f"{under}{key}.") if isinstance(value, dict) and key != "iou" else []
    return found


def changed(place: str, change) -> dict[str, Any]:
    """METRICS with the mapping that holds `place` changed by `change(mapping, key)`."""
    tree = part = json.loads(json.dumps(METRICS))
    *above, key = place.split(".")
    for name in above:
        part = part[name]
    change(part, key)
    return tree


def refused(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_metrics(file, REMEDY)
    assert str(caught.value).startswith((f"{file} is ", f"cannot read {file}: "))
    assert str(caught.value).endswith(f"; {REMEDY}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_record_comes_back_as_it_was_written_with_keys_of_later_versions(tmp_path):
    file = tmp_path / "metrics.json"
    for record in (METRICS, METRICS | {"later": [1]}, changed("format", dict.__delitem__), METRICS | {"val": {}}):
        file.write_text(json.dumps(record))
        assert read_metrics(file, REMEDY) == record


DAMAGED = {
    "empty": (b"", "it is empty"),
    "a mapping of nothing": (b"{}", "'status' is missing (and 13 more)"),
    "a list": (b"[]", "it holds a list, not keys and values"),
    "null": (b"null", "it holds nothing, not keys and values"),
    "text": (b'"finished"', "it holds text, not keys and values"),
    "not UTF-8": (b"\xff\xfe{}", "it is not text in UTF-8"),
    "cut in half": (json.dumps(METRICS).encode()[:300], "it is not JSON"),
    "no number": (b'{"step": NaN}', "NaN is no number"),
    "too large a number": (b'{"step": 1e999}', "1e999 is no number"),
    "too long a number": (b'{"step": ' + b"1" * 5000 + b"}", "it is not JSON"),
    "nested": (b"[" * 100_000, "it is nested too deeply"),
}


@pytest.mark.parametrize(("content", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_one_line_that_names_the_file_and_what_to_do(content, expected, tmp_path):
    file = tmp_path / "metrics.json"
    file.write_bytes(content)
    assert expected in refused(file)


def test_a_key_that_is_missing_is_named(tmp_path):
    file = tmp_path / "metrics.json"
    for place in sorted({*places(METRICS)} - OPTIONAL):
        file.write_text(json.dumps(changed(place, dict.__delitem__)))
        assert f"'{place}' is missing" in refused(file)


def value_at(place):
    value = METRICS
    for part in place.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("value", [True, "x" * 200, [1]], ids=["true", "long text", "list"])
def test_a_value_of_another_type_is_named_and_cut_to_a_length(value, tmp_path):
    file = tmp_path / "metrics.json"
    for place in sorted({*places(METRICS)} - {"format"}):
        takes_text = isinstance(value_at(place), str) or place == "protocol.name"
        if not (isinstance(value, str) and takes_text):
            file.write_text(json.dumps(changed(place, lambda part, key: part.__setitem__(key, value))))
            message = refused(file)
            assert f"'{place}' should be " in message
            assert len(message) < len(str(file)) + 250


def test_what_is_not_there_or_no_file_is_said(tmp_path):
    assert "is not there" in refused(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").mkdir()
    assert "is not a file" in refused(tmp_path / "metrics.json")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(tmp_path / "pipe")


def test_a_record_of_a_newer_version_asks_for_an_upgrade_before_anything_else(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({"format": FORMAT + 2}))
    with pytest.raises(UserError) as caught:
        read_record(file, Metrics, REMEDY)
    assert str(caught.value) == (
        f"{file} was written by a newer ssss-zoo (format {FORMAT + 2}, this one reads up to {FORMAT}): upgrade"
    )


@pytest.mark.parametrize("number", [True, "1", 1.0, -1, None])
def test_a_format_that_is_no_number_is_damage(number, tmp_path):
    with pytest.raises(UserError, match="'format' should be a whole number"):
        check_record(METRICS | {"format": number}, Metrics, tmp_path, REMEDY)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # the default alphabet takes seconds to make
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(TEXT, LEAVES, max_size=3)


@given(st.sampled_from(places(METRICS)), VALUES)
def test_whatever_a_key_holds_a_record_is_read_or_refused_in_one_line(place, value):
    said = "m.json "
    try:
        check_record(changed(place, lambda part, key: part.__setitem__(key, value)), Metrics, Path("m.json"), REMEDY)
    except UserError as error:
        said = str(error)
    assert said.startswith("m.json ")
    assert said.isprintable()


# --- runs that were left behind, by this version and by earlier ones ------------------------------------------------

RUNS = Path(__file__).parent / "fixtures"
SMALL = tiny_overrides("options.fixmatch.ema_decay=0.9", "output=run")
READERS = {
    "resume": ["run", *SMALL, "resume=true"],
    "evaluate": ["evaluate", "run=run"],
    "inspect": ["inspect", "run=run"],
}


@pytest.fixture
def ssss(tiny_plugins, capsys, tmp_path, monkeypatch):
    """(words of the command line) -> exit code, lines of stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*given: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = command_line(given)
        return code, capsys.readouterr().err.splitlines()

    return call


def left_behind(form: int, kind: str) -> Path:
    """A copy, as `run`, of a run that was kept. form: the number of its format; kind: `finished`, or `stopped` at step
    4 of 6."""
    return Path(shutil.copytree(RUNS / f"run-format-{form}" / kind, "run", dirs_exist_ok=True))


@pytest.mark.parametrize("form", range(FORMAT + 1))
def test_a_run_of_each_format_is_evaluated_and_looked_at(form, ssss):
    folder = left_behind(form, "finished")
    said = read_metrics(folder / "metrics.json", REMEDY)
    assert said.get("format", 0) == form
    figures = evaluate_run(["run=run"])
    assert figures["teacher"]["miou"] == pytest.approx(said["val"]["teacher"]["miou"], abs=0.01)
    assert evaluate_run(["run=run", "weights=best"])["step"] == said["best"]["step"]
    assert ssss("inspect", "run=run")[0] == 0
    code, lines = ssss("run", *SMALL)
    assert code == 2
    assert "model.weights=run/last/student.safetensors" in lines[-1]


@pytest.mark.parametrize("form", range(FORMAT + 1))
def test_a_run_of_each_format_goes_on_to_its_end(form, ssss):
    folder = left_behind(form, "stopped")
    assert ssss(*READERS["resume"])[0] == 0
    metrics = read_metrics(folder / "metrics.json", REMEDY)
    assert (metrics["format"], metrics["status"], metrics["step"]) == (FORMAT, "finished", 6)
    assert [line["step"] for line in read_history(folder / "history.jsonl") if "lr" in line] == [1, 2, 3, 4, 5, 6]


def flipped(content: bytes) -> bytes:
    place = int(0.7 * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]


DAMAGE = {
    "removed": lambda content: None,
    "empty": lambda content: b"",
    "{}": lambda content: b"{}",
    "[]": lambda content: b"[]",
    "null": lambda content: b"null",
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "cut in half": lambda content: content[: len(content) // 2],
    "newer": lambda content: b'{"format": 99}',
}
WEIGHTS = {name: DAMAGE[name] for name in ("removed", "empty", "cut in half")} | {"a bit": flipped}
READ = {  # what each command reads, and so refuses; the rest it writes anew, or leaves
    ("resume", "metrics.json"): {name: change for name, change in DAMAGE.items() if name != "removed"},
    ("resume", "last/digests.json"): DAMAGE,
    ("resume", "last/state.pt"): WEIGHTS,
    ("resume", "last/teacher.safetensors"): WEIGHTS,
    ("resume", "last/methods.safetensors"): WEIGHTS,
    ("evaluate", "config.yaml"): DAMAGE,
    ("evaluate", "last/digests.json"): DAMAGE,
    ("evaluate", "last/state.pt"): WEIGHTS,
    ("evaluate", "last/student.safetensors"): WEIGHTS,
    ("inspect", "config.yaml"): {"cut in half": DAMAGE["cut in half"]},
    ("inspect", "last/state.pt"): {"removed": DAMAGE["removed"], "a bit": flipped},
    ("inspect", "last/teacher.safetensors"): {"a bit": flipped},
}


@pytest.mark.parametrize(("command", "name"), READ)
def test_a_file_that_is_damaged_is_one_line_and_nothing_is_lost(command, name, ssss):
    for damage, change in READ[command, name].items():
        folder = left_behind(FORMAT, "stopped")
        content = change((folder / name).read_bytes())
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        code, lines = ssss(*READERS[command])
        lines = [line for line in lines if line.startswith("ssss: ")]
        assert (code, len(lines)) == (2, 1), damage
        expected = "run=run holds no run" if (name, damage) == ("config.yaml", "removed") else f"run/{name}"
        assert expected in lines[0], damage
        after = {path: path.read_bytes() for path in before if path.name != "run.log"}
        assert after == {path: before[path] for path in after}, damage


NEEDED = [key for key, hint in get_type_hints(ResumeRecord, include_extras=True).items()
          if get_origin(hint) is not NotRequired]  # fmt: skip


@pytest.mark.parametrize("key", sorted(NEEDED))
def test_a_state_that_lacks_a_key_is_named_with_it(key, ssss):
    folder = left_behind(0, "stopped")  # nothing else knows of the damage
    state = torch.load(folder / "last" / "state.pt")
    torch.save({name: value for name, value in state.items() if name != key}, folder / "last" / "state.pt")
    code, lines = ssss(*READERS["resume"])
    assert code == 2
    assert f"run/last/state.pt is damaged, or of another version: '{key}' is missing" in lines[-1]


GONE = ["last/state.pt", "last", "last best", "last best history.jsonl", "last best metrics.json",
        "last history.jsonl metrics.json"]  # fmt: skip


@pytest.mark.parametrize("gone", GONE)
def test_a_run_whose_checkpoint_is_gone_is_not_begun_anew(gone, ssss):
    folder = left_behind(FORMAT, "stopped")
    for name in gone.split():
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, lines = ssss(*READERS["resume"])
    assert code == 2
    assert "run/last/state.pt is missing, although the run had reached step " in lines[-1]
    assert ("weights=best" in lines[-1]) == ("best" not in gone)
    assert {path: path.read_bytes() for path in before} == before
    assert ssss("run", *SMALL, "overwrite=true")[0] == 0


def test_a_damaged_history_costs_its_damaged_lines_alone(ssss):
    folder = left_behind(FORMAT, "stopped")
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    lines[1] = lines[1][:20] + "\n"
    (folder / "history.jsonl").write_text("".join(lines))
    code, said = ssss(*READERS["resume"])
    assert code == 0
    assert any("line 2 is damaged" in line for line in said)
    assert [line["step"] for line in read_history(folder / "history.jsonl") if "lr" in line] == [1, 3, 4, 5, 6]
    assert (folder / "history.jsonl.damaged").read_text() == "".join(lines)


# --- the data that a run began with, and those of now ---------------------------------------------------------------


def make_data(root: Path, classes: str = "a b c", labelled: int = 6) -> None:
    """Images whose three levels are three classes; ids of masks follow the order of `classes` (a: dark, c: bright)."""
    for name in ("images", "masks", "unlabelled"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes.split()) + "\n")
    ids = np.array(["abc".index(name[0]) for name in classes.split()]).argsort()
    for number in range(labelled + 2):
        shown = np.random.default_rng(number).integers(0, 3, (6, 6)).repeat(4, axis=0).repeat(4, axis=1)
        image = Image.fromarray((60 + 60 * shown[..., None] + np.zeros(3)).astype(np.uint8))
        image.save(root / ("images" if number < labelled else "unlabelled") / f"{number}.png")
        if number < labelled:
            Image.fromarray(ids[shown].astype(np.uint8)).save(root / "masks" / f"{number}.png")


OWN = ["dataset=folder", "data.root=data"]


@pytest.fixture
def begun(ssss, tmp_path):
    """The folder of a run on `data`, stopped after 3 of 6 steps."""
    make_data(tmp_path / "data")
    assert ssss("run", *SMALL, *OWN, "train.steps=6")[0] == 0
    folder = tmp_path / "run"
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text().replace('"finished"', '"stopped"'))
    state = checkpoint.load_state(folder / "last")
    weights = {name: load_file(folder / "last" / f"{name}.safetensors") for name in ("student", "teacher", "methods")}
    checkpoint.save_folder(folder / "last", weights, state | {"step": 3, "global_step": 3})
    return folder


def exchange(root: Path) -> None:
    for file in (root / "masks").iterdir():
        mask = np.array(Image.open(file))
        Image.fromarray(np.array([0, 2, 1], np.uint8)[mask]).save(file)


CHANGES = {
    "masks": (exchange, "masks changed ("),
    "an image": (lambda root: (root / "images" / "0.png").write_bytes((root / "images" / "1.png").read_bytes()),
                 " image"),
    "one more unlabelled": (lambda root: shutil.copy(root / "images" / "1.png", root / "unlabelled" / "x.png"),
                            "added ("),
    "one less": (lambda root: (root / "unlabelled" / "7.png").unlink(), "removed ("),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_run_does_not_go_on_with_other_data_unasked(change, expected, begun, ssss, tmp_path):
    change(tmp_path / "data")
    history = (begun / "history.jsonl").read_text()
    code, lines = ssss("run", *SMALL, *OWN, "resume=true")
    assert code == 2
    assert lines[-1].startswith("ssss: run began with other data: ")
    assert expected in lines[-1]
    assert "continue with data.changed=allow" in lines[-1]
    assert (begun / "history.jsonl").read_text() == history


def test_asked_to_it_goes_on_with_other_data_and_says_so(begun, ssss, tmp_path, caplog):
    exchange(tmp_path / "data")
    assert ssss("run", *SMALL, *OWN, "resume=true", "data.changed=allow")[0] == 0
    assert "the data have changed since run began: " in caplog.text
    assert read_metrics(begun / "metrics.json", REMEDY)["step"] == 6


def test_data_that_were_moved_are_the_same_data(begun, ssss, tmp_path):
    (tmp_path / "data").rename(tmp_path / "moved")
    assert ssss("run", *SMALL, "dataset=folder", "data.root=moved", "resume=true")[0] == 0


@pytest.mark.parametrize("classes", ["c b a", "a b c d", "a b"])
def test_with_other_classes_no_word_lets_a_run_go_on(classes, begun, ssss, tmp_path):
    make_data(tmp_path / "data", "c b a" if classes == "c b a" else "a b c")
    (tmp_path / "data" / "classes.txt").write_text("\n".join(classes.split()) + "\n")
    code, lines = ssss("run", *SMALL, *OWN, "resume=true", "data.changed=allow", "data.ignore=[2]")
    assert code == 2
    assert "data.changed=allow" not in lines[-1]


def test_evaluating_on_data_that_changed_says_so_in_a_line(begun, ssss, tmp_path, caplog):
    assert ssss("evaluate", "run=run")[0] == 0
    assert "not the data" not in caplog.text
    exchange(tmp_path / "data")
    assert ssss("evaluate", "run=run")[0] == 0
    assert "these are not the data that the run was trained on: " in caplog.text
    assert "masks changed (" in caplog.text


def test_classes_of_another_folder_are_taken_by_their_names(begun, ssss, tmp_path, caplog):
    before = evaluate_run(["run=run", "on=labelled"])
    make_data(tmp_path / "other", "c a b")
    after = evaluate_run(["run=run", "on=labelled", "data.root=other"])
    assert list(after["student"]["iou"]) == ["c", "a", "b"]
    assert after["student"]["miou"] == pytest.approx(before["student"]["miou"])
    assert after["student"]["iou"] == before["student"]["iou"]
    assert "another order than the run does: classes are matched by name" in caplog.text


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("a b c d", "has 3 classes, the data have 4: d not in the run; name the classes"),
        ("a b x", "has 3 classes, the data have 3: c not in the data; x not in the run; name the classes"),
    ],
)
def test_other_classes_are_refused_by_their_names(classes, expected, begun, ssss, tmp_path):
    make_data(tmp_path / "other", "a b c")
    (tmp_path / "other" / "classes.txt").write_text("\n".join(classes.split()) + "\n")
    code, lines = ssss("evaluate", "run=run", "data.root=other")
    assert code == 2
    assert expected in lines[-1]


def test_a_network_that_predicts_nothing_finite_is_not_scored(begun, ssss):
    weights = {name: load_file(begun / "last" / f"{name}.safetensors") for name in ("student", "teacher", "methods")}
    broken = {key: value * 1e30 if value.is_floating_point() else value for key, value in weights["student"].items()}
    checkpoint.save_folder(begun / "last", weights | {"student": broken}, checkpoint.load_state(begun / "last"))
    code, lines = ssss("evaluate", "run=run")
    assert code == 2
    assert lines[-1].startswith("ssss: the predictions of the student are not finite: its training diverged; ")
