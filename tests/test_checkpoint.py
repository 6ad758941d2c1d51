"""A kill or a full disk at any instant leaves a whole checkpoint; foreign files are refused in one line."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.errors import refusal
from helpers.failures import FULL_DISK, Killed, raising
from helpers.forks import in_a_fork
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import FORMAT, CheckpointRecord
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpoint import (
    find_folder,
    load_module_weights,
    load_state,
    load_typed,
    network_names,
    save_folder,
)

CHECKPOINT, FLUSH = "ssss_zoo.train.checkpoint", "ssss_zoo.atomic_write.flush_to_disk"


def save(folder: Path, value: float) -> None:
    save_folder(folder, {"student": {"w": torch.full((3,), float(value))}, "methods": {}}, {"step": int(value)})


def value(folder: Path) -> float:
    """What the whole checkpoint at `folder` holds; its weights and its state are of the same step."""
    found = find_folder(folder)
    assert found is not None
    module = nn.Module()
    module.register_buffer("w", torch.zeros(3))
    load_module_weights(found, "student", module)
    assert load_state(found)["step"] == module.w[0]
    return module.w[0].item()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- whole or not at all --------------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back(tmp_path):
    weights = {"student": {"a": torch.randn(2, 3), "n": torch.tensor(7)}}
    state = {"step": 3, "best": {"miou": 0.5, "iou": {"sky": None}}, "optimizer": torch.optim.SGD(
        nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9).state_dict()}  # fmt: skip
    save_folder(tmp_path / "runs" / "last", weights, state)
    assert load_state(tmp_path / "runs" / "last") == {"format": FORMAT, **state}
    assert names(tmp_path / "runs") == ["last"]
    assert names(tmp_path / "runs" / "last") == ["digests.json", "state.pt", "student.safetensors"]


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path):
    save(tmp_path / "last", 1)
    (tmp_path / "last" / "old.safetensors").write_text("of a network that is no more")
    save(tmp_path / "last", 2)
    assert value(tmp_path / "last") == 2
    assert names(tmp_path) == ["last"]
    assert names(tmp_path / "last") == ["digests.json", "methods.safetensors", "state.pt", "student.safetensors"]


def test_weights_of_any_layout_and_with_gradient_are_saved(tmp_path):
    kernel = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    save_folder(tmp_path / "last", {"student": {"w": kernel}}, {})
    module = nn.Module()
    module.register_buffer("w", torch.zeros(2, 3, 4, 5))
    load_module_weights(tmp_path / "last", "student", module)
    assert torch.equal(module.w, kernel.detach())


def test_tied_weights_are_saved(tmp_path):
    first = nn.Linear(3, 3, bias=False)
    tied = nn.Sequential(first, nn.Linear(3, 3, bias=False))
    tied[1].weight = first.weight
    save_folder(tmp_path / "last", {"student": tied.state_dict()}, {})
    other = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    load_module_weights(tmp_path / "last", "student", other)
    assert torch.equal(other[1].weight, first.weight)


@pytest.mark.parametrize("where", [f"{CHECKPOINT}.save_file", f"{CHECKPOINT}.torch.save", FLUSH])
def test_a_disk_that_refuses_leaves_the_old_checkpoint_and_one_line(where, tmp_path, monkeypatch):
    save(tmp_path / "last", 1)
    with monkeypatch.context() as patch:
        patch.setattr(where, raising(FULL_DISK))
        with pytest.raises(UserError) as caught:
            save(tmp_path / "last", 2)
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'last'}: ")
    assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert value(tmp_path / "last") == 1
    assert names(tmp_path) == ["last"]
    save(tmp_path / "last", 3)  # there is room again
    assert value(tmp_path / "last") == 3


def save_where_files_may_not_grow(folder: Path, weights: dict, state: dict) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return refusal(partial(save_folder, folder, {"student": weights}, state))


def test_files_that_may_not_grow_leave_the_old_checkpoint_and_one_line(tmp_path):
    """The errors that safetensors and torch really raise."""
    small, large = {"w": torch.zeros(3)}, torch.zeros(200_000)
    for weights, state in (({"w": large}, {"step": 2}), (small, {"step": large})):
        save_folder(tmp_path / "last", {"student": small}, {"step": 1})
        told = in_a_fork(save_where_files_may_not_grow, tmp_path / "last", weights, state)
        assert told is not None
        assert told.startswith("cannot write")
        assert load_state(tmp_path / "last")["step"] == 1
        assert names(tmp_path) == ["last"]


STOPS = [
    "mkdir",
    f"{CHECKPOINT}.save_file",
    f"{CHECKPOINT}.torch.save",
    FLUSH,
    "first rename",
    "second rename",
    "last removal",
]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("stop", STOPS)
def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(stop, again, tmp_path, monkeypatch):
    """again: after the kill, the continuation is killed in the same place."""
    save(tmp_path / "last", 1)
    for step in (2, 3) if again else (2,):
        with monkeypatch.context() as patch:
            kill_at(stop, patch)
            with pytest.raises(Killed):
                save(tmp_path / "last", step)
        assert value(tmp_path / "last") >= 1
        if stop == "last removal":
            assert value(tmp_path / "last") == step
    save(tmp_path / "last", 4)
    assert value(tmp_path / "last") == 4
    assert names(tmp_path) == ["last"]


def kill_at(stop: str, patch: pytest.MonkeyPatch) -> None:
    """Make `save_folder` die at this point."""
    if "rename" in stop:
        calls = []
        rename = Path.rename

        def dying(path: Path, target: Path) -> Path:
            calls.append(target)
            if path.name.endswith(".new") if stop == "second rename" else len(calls) == 1:
                raise Killed
            return rename(path, target)

        patch.setattr(Path, "rename", dying)
    elif stop == "last removal":
        remove, gone = shutil.rmtree, []

        def removing(path: Path, ignore_errors: bool = False) -> None:
            gone.append(path)
            if len(gone) == 3:
                raise Killed
            remove(path, ignore_errors=ignore_errors)

        patch.setattr(shutil, "rmtree", removing)
    elif stop == "mkdir":
        patch.setattr(Path, "mkdir", raising(Killed()))
    else:
        patch.setattr(stop, raising(Killed()))


def test_a_half_written_folder_is_never_found(tmp_path):
    save(tmp_path / "last.new", 2)
    (tmp_path / "last.new" / "state.pt").write_bytes((tmp_path / "last.new" / "state.pt").read_bytes()[:100])
    assert find_folder(tmp_path / "last") is None
    save(tmp_path / "last.old", 1)
    assert find_folder(tmp_path / "last") == tmp_path / "last.old"
    (tmp_path / "last.old" / "state.pt").unlink()
    assert find_folder(tmp_path / "last") is None


def test_the_folder_itself_is_preferred_then_the_newer_neighbour(tmp_path):
    for suffix, number in ((".old", 1), (".new", 2), ("", 3)):
        save(tmp_path / "elsewhere", number)
        (tmp_path / "elsewhere").rename(tmp_path / f"last{suffix}")
    assert value(tmp_path / "last") == 3
    shutil.rmtree(tmp_path / "last")
    assert value(tmp_path / "last") == 2
    shutil.rmtree(tmp_path / "last.new")
    assert value(tmp_path / "last") == 1


def test_a_checkpoint_found_beside_its_place_survives_a_failing_save(tmp_path, monkeypatch):
    """`last.new` is all there is; a save that dies half way must not have taken it away."""
    weights, place = {"student": {"weight": torch.ones(2)}}, tmp_path / "last"
    save_folder(place, weights, {"step": 3})
    place.rename(tmp_path / "last.new")
    assert load_state(find_folder(place))["step"] == 3

    monkeypatch.setattr(checkpoint, "save_file", raising(Killed()))
    with pytest.raises(Killed):
        save_folder(place, weights, {"step": 6})
    found = find_folder(place)
    assert found is not None
    assert load_state(found)["step"] == 3


def test_a_save_that_the_disk_refuses_leaves_the_one_before(tmp_path, monkeypatch):
    weights, place = {"student": {"weight": torch.ones(2)}}, tmp_path / "last"
    save_folder(place, weights, {"step": 3})

    monkeypatch.setattr(torch, "save", raising(FULL_DISK))
    with pytest.raises(UserError, match="No space left"):
        save_folder(place, weights, {"step": 6})
    assert load_state(place)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


# --- foreign files --------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return (os.mkdir, (os.environ["EVIL"],))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_malicious_state_is_refused_and_does_nothing(how, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "was-here"))
    if how == "pickle":
        (tmp_path / "state.pt").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"step": Evil()}, tmp_path / "state.pt")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'state.pt'} is not a checkpoint of ours: ")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice would run it
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04rubbish"])
def test_a_damaged_file_is_one_line(content, tmp_path):
    for name in ("state.pt", "student.safetensors"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="is not a checkpoint of ours"):
        load_state(tmp_path)
    with pytest.raises(UserError, match="cannot read the weights"):
        load_module_weights(tmp_path, "student", nn.Linear(1, 1))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the weights .*teacher.safetensors"):
        load_module_weights(tmp_path, "teacher", nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("saved", "counts", "example"),
    [
        (nn.Linear(2, 3, bias=False), "1 tensors missing, 0 unknown, 0 of another shape, 0 of another type", "bias"),
        (nn.ParameterDict({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "extra": torch.zeros(1)}),
         "0 tensors missing, 1 unknown, 0 of another shape, 0 of another type", "extra"),
        (nn.Linear(2, 4), "0 tensors missing, 0 unknown, 2 of another shape, 0 of another type", ""),
        (nn.Linear(2, 3).half(), "0 tensors missing, 0 unknown, 0 of another shape, 2 of another type", "weight"),
        (nn.ParameterDict({"weight": torch.ones(3, 2), "bias": nn.Parameter(torch.ones(3).long(), False)}),
         "0 tensors missing, 0 unknown, 0 of another shape, 1 of another type", "bias"),
    ],
)  # fmt: skip
def test_weights_of_another_network_say_what_differs_and_change_nothing(saved, counts, example, tmp_path):
    save_folder(tmp_path / "last", {"student": saved.state_dict()}, {})
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(UserError) as caught:
        load_module_weights(tmp_path / "last", "student", module)
    assert "student.safetensors holds another network or method: " + counts in str(caught.value)
    assert f"such as '{example}" in str(caught.value)
    assert torch.equal(module.weight, before)


# --- damage ---------------------------------------------------------------------------------------------------------


def flipped(file: Path, place: float) -> None:
    """One bit of a file flipped, at a share of its length."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 8
    file.write_bytes(content)


def read_all(folder: Path) -> None:
    load_state(folder)
    load_module_weights(folder, "student", nn.Linear(2, 3))


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("name", ["state.pt", "student.safetensors"])
def test_a_single_bit_is_noticed_wherever_it_lies(name, place, tmp_path):
    save_folder(tmp_path / "last", {"student": nn.Linear(2, 3).state_dict()}, {"step": 3, "kept": torch.rand(100)})
    read_all(tmp_path / "last")
    flipped(tmp_path / "last" / name, place)
    with pytest.raises(UserError) as caught:
        read_all(tmp_path / "last")
    assert str(caught.value).startswith(f"{tmp_path / 'last' / name} is not as it was written: it is damaged, or ")
    assert str(caught.value).endswith("; bring a whole copy of it back, or start the run anew with overwrite=true")


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[]", b'{"sha256": {"state.pt": 1}}', b'{"format": 9}', b"\xff"]
)
def test_digests_that_are_gone_or_damaged_are_named(content, tmp_path):
    save_folder(tmp_path / "last", {"student": nn.Linear(2, 3).state_dict()}, {})
    file = tmp_path / "last" / "digests.json"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_all(tmp_path / "last")
    assert str(caught.value).startswith(str(file))


def test_files_that_are_gone_are_named(tmp_path):
    save_folder(tmp_path / "last", {"student": {}, "teacher": {}}, {})
    assert network_names(tmp_path / "last") == ["student", "teacher"]
    (tmp_path / "last" / "student.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot read .*student.safetensors: No such file or directory; bring a whole"):
        read_all(tmp_path / "last")
    (tmp_path / "last" / "digests.json").unlink()  # as an older version left it
    with pytest.raises(UserError, match=r"student.safetensors is not there; bring a whole"):
        network_names(tmp_path / "last")


def test_a_half_written_neighbour_is_known_by_its_weights_too(tmp_path):
    save(tmp_path / "last.new", 2)
    save(tmp_path / "last.old", 1)
    flipped(tmp_path / "last.new" / "student.safetensors", 0.999)
    assert find_folder(tmp_path / "last") == tmp_path / "last.old"


def older(folder: Path) -> None:
    """Make of a checkpoint what a version without formats would have left."""
    (folder / "digests.json").unlink()
    torch.save({key: value for key, value in torch.load(folder / "state.pt").items() if key != "format"},
               folder / "state.pt")  # fmt: skip


def test_a_checkpoint_from_before_digests_is_read(tmp_path):
    save(tmp_path / "last", 1)
    older(tmp_path / "last")
    assert value(tmp_path / "last") == 1


@pytest.mark.parametrize(("number", "expected"), [(FORMAT + 1, "written by a newer ssss-zoo"), ("1", "whole number")])
def test_a_state_of_another_format_is_refused(number, expected, tmp_path):
    save_folder(tmp_path / "last", {}, {"format": number})
    with pytest.raises(UserError, match=rf"state.pt .*{expected}"):
        load_state(tmp_path / "last")


@pytest.mark.parametrize("state", [[], None, 3, "text", torch.zeros(2)])
def test_a_state_that_is_no_mapping_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state.pt is damaged: it holds"):
        load_state(tmp_path)


@pytest.mark.parametrize("wrong", [{}, {"step": 1.5}, {"step": True}, {"reported": None}, {"classes": "sky"}])
def test_a_state_is_read_by_its_types(wrong, tmp_path):
    whole = {"step": 1, "global_step": 1, "reported": "student"}
    save_folder(tmp_path / "last", {}, whole)
    assert load_typed(tmp_path / "last", CheckpointRecord)["global_step"] == 1
    save_folder(tmp_path / "last", {}, (whole | wrong) if wrong else {})
    with pytest.raises(UserError, match=r"state.pt is damaged, or of another version: '(step|reported|classes)"):
        load_typed(tmp_path / "last", CheckpointRecord)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_network_that_is_not_finite_is_refused_and_what_methods_keep_may_be(value, tmp_path):
    weights = {"weight": torch.full((3, 2), value), "bias": torch.zeros(3)}
    save_folder(tmp_path / "last", {"student": weights, "methods": weights}, {})
    load_module_weights(tmp_path / "last", "methods", nn.Linear(2, 3))
    with pytest.raises(
        UserError, match=r"student.safetensors holds numbers that are not finite in 1 of 2 tensors, such"
    ):
        load_module_weights(tmp_path / "last", "student", nn.Linear(2, 3))
