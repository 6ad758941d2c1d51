"""Runs on the hub: uploaded, predicted with, evaluated, refused. The hub is a stand-in on 127.0.0.1."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from helpers.hub import READER, WRITER, Repository, digest_of, serving_hub, use_hub
from ssss_zoo import hub as hub_module
from ssss_zoo import load
from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.resolve import resolve
from ssss_zoo.deploy.push import card_on_hub, shared_config
from ssss_zoo.errors import UserError
from ssss_zoo.hub import HubName, download_run, parse_hub_name
from ssss_zoo.models.encoders import read_weights, weights_file
from ssss_zoo.testing.tiny import TinyData
from ssss_zoo.train.run_folder import find_run

PACKAGE = {"README.md", "config.yaml", "classes.txt", "best/digests.json", "best/state.pt", "best/student.safetensors",
           "best/teacher.safetensors"}  # fmt: skip


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(kept_run, trained, tiny_plugins):
    """A finished run with student and teacher, made once; no test changes it."""
    if not kept_run.exists():
        secrets = ("data.root=/home/me/secret", "method=farcluss")
        shutil.copytree(trained("run", *secrets), kept_run)
    return kept_run


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, and this process as one that may write to it."""
    with serving_hub() as serving:
        use_hub(monkeypatch, serving, tmp_path / "cache")
        yield serving


@pytest.fixture
def ssss(capsys):
    """Words -> exit code, output, and the last line of stderr."""

    def call(*words):
        capsys.readouterr()
        code = command_line(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, line=(err.splitlines() or [""])[-1])

    return call


def image_of(run):
    data = TinyData(resolve(["dataset=shapes"]).data)
    return data.read_image(data.val[0])


# --- there and back -------------------------------------------------------------------------------------------------


def test_a_run_that_was_uploaded_predicts_and_evaluates_as_the_run(run, hub, ssss):
    done = ssss("push", f"run={run}", "repo=me/street")
    assert done.code == 0, done.err
    assert "private: you and your organisation see it" in done.out
    assert set(hub.files("me/street")) == PACKAGE
    assert hub.repositories["me/street"].private
    there, here = load("hf://me/street"), load(run)
    assert there.source == here.source.replace(str(run), "hf://me/street")
    assert there.class_names == here.class_names
    expected = here.predict(image_of(run)).probabilities
    np.testing.assert_array_equal(there.predict(image_of(run)).probabilities, expected)
    done = ssss("evaluate", "run=hf://me/street", "--json")
    assert done.code == 0, done.err
    figures, metrics = json.loads(done.out), json.loads((run / "metrics.json").read_text())
    assert (figures["run"], figures["weights"]) == ("hf://me/street", "best")
    assert figures["teacher"]["iou"] == metrics["best"]["teacher"]["iou"]
    reported = weights_file("hf://me/street")
    assert reported.name == "teacher.safetensors"
    assert read_weights(reported).keys() == read_weights(run / "best/teacher.safetensors").keys()


def test_nothing_is_uploaded_that_is_of_this_machine_alone(run, hub, ssss):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    files = hub.files("me/street")
    everything = b"".join(files.values())
    for secret in (b"secret", str(run).encode(), b"sqlite", WRITER.encode(), b"optimizer", b"mlflow_run"):
        assert secret not in everything, secret
    card = files["README.md"].decode()
    assert "ssss predict run=hf://me/street input=PHOTOS" in card
    assert "FOLDER" not in card
    assert files["classes.txt"].decode().split() == [f"class{index}" for index in range(5)]


def test_settings_that_may_hold_a_path_or_a_password_are_left_out():
    config = resolve(["dataset=folder", "data.root=/home/me", "tracking.uri=https://me:word@host",
                      "output=/home/me/out",
                      "data.unlabelled=/home/me/more", "model.weights=/home/me/w.pth"])  # fmt: skip
    config = replace(config, data=replace(config.data, split="/home/me/lists/mine.txt"))
    shared = shared_config(config)
    assert "/home/me" not in repr(replace(shared, locations={}))
    assert "word@" not in repr(shared)
    assert (shared.data.split, shared.model.weights, shared.optim) == ("all", "none", config.optim)
    assert shared_config(replace(config, data=replace(config.data, split="1/8"))).data.split == "1/8"


def test_a_second_upload_replaces_the_first_which_its_revision_still_names(run, hub, ssss):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    assert ssss("push", f"run={run}", "repo=me/street", "weights=last").code == 0
    assert set(hub.files("me/street")) == {name.replace("best/", "last/") for name in PACKAGE}
    assert "last teacher" in load("hf://me/street").source
    assert "best teacher" in load(f"hf://me/street@{digest_of(1)}").source


def test_what_was_downloaded_is_used_without_the_hub(run, hub, ssss, monkeypatch):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    folder = find_run("hf://me/street")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert find_run("hf://me/street") == folder
    with pytest.raises(
        UserError, match=r"hf://me/other: the hub \(http://127.0.0.1:9\) cannot be reached, because it do"
    ):
        download_run("hf://me/other")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot be reached, because HF_HUB_OFFLINE is set"):
        download_run("hf://me/other")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_mistake_before_an_upload_is_one_line_and_uploads_nothing(run, hub, ssss, tmp_path, monkeypatch):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "card.md").unlink()
    hub.repositories["me/public"] = Repository(private=False)
    hub.repositories["me/other"] = Repository(private=True, commits=[{"model.bin": b"0"}])
    whole = f"run={run}"
    wrong = [
        ([whole], "give repo=: ssss push run=DIR repo=OWNER/NAME"),
        ([whole, "repo=me/a b"], "'me/a b' is not the name of a repository on the hub: give OWNER/NAME"),
        ([whole, "repo=me/a@v1"], "repo=me/a@v1: a run is uploaded to the main branch; leave '@v1' out"),
        ([whole, "repo=me/a@"], "'me/a@' names no revision after the '@'"),
        ([whole, "repo=me/a@../../x"], "'me/a@../../x' names no revision after the '@'"),
        (["run=hf://me/a", "repo=me/a"], "run=hf://me/a is on the hub already"),
        ([f"run={tmp_path}", "repo=me/a"], "holds no run (no config.yaml)"),
        ([f"run={unfinished}", "repo=me/a"], "has no model card (card.md), which a run writes as it ends"),
        ([whole, "repo=me/a", "token=hf_secret"], "unknown key 'token'"),
        ([whole, "repo=you/a"], "repo=you/a: the token has no permission for this"),
        ([whole, "repo=me/public"], "repo=me/public is public: add private=false to upload there"),
        ([whole, "repo=me/other"], "repo=me/other holds files that are not of a run, such as model.bin"),
    ]
    for words, message in wrong:
        done = ssss("push", *words)
        assert (done.code, message in done.line) == (2, True), (words, done.err)
    assert ssss("push", whole, "repo=me/public", "private=false").code == 0
    assert [len(repository.commits) for repository in hub.repositories.values()] == [2, 1]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "repo=me/a: uploading needs a token with write access: set HF_TOKEN, or log in"),
        (READER, "repo=me/a: the token has no permission for this"),
        ("hf_expired_secret", "repo=me/a: the hub does not know this token, which may have expired"),
        ("hf_é_secret", "repo=me/a: the token has characters that no request can carry"),
    ],
)
def test_a_token_that_is_refused_is_not_printed(run, hub, ssss, monkeypatch, tmp_path, token, message):
    use_hub(monkeypatch, hub, tmp_path / "cache", token)
    done = ssss("push", f"run={run}", "repo=me/a")
    assert (done.code, message in done.line) == (2, True), done.err
    assert "secret" not in done.out + done.err
    assert hub.repositories == {}


class LocalProtocolError(RuntimeError):
    """The name that httpx has for a header that it refuses."""


def test_a_failure_hides_the_token(hub):
    with (
        pytest.raises(UserError, match="the token has characters that no request can carry"),
        hub_module.readable_errors("repo=me/a"),
    ):
        raise LocalProtocolError("Illegal header value b'Bearer hf_x'")
    for text in (f"header {WRITER} is odd", "Illegal header value b'Bearer hf_x\\x01'"):
        with pytest.raises(UserError) as caught, hub_module.readable_errors("repo=me/a"):
            raise RuntimeError(text)
        assert "(token)" in str(caught.value)
        assert "hf_" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_mistake_before_a_download_is_one_line(run, hub, ssss, monkeypatch, tmp_path):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    hub.repositories["me/other"] = Repository(private=True, commits=[{"model.bin": b"0", "README.md": b"x"}])
    wrong = [
        ("hf://me/nothing", "hf://me/nothing: the hub has no such repository, or a private one"),
        ("hf://me/street@v9", "hf://me/street@v9: the repository has no such revision"),
        ("hf://", "'hf://' is not the name of a repository on the hub"),
        ("hf://a/b/c", "'hf://a/b/c' is not the name of a repository on the hub"),
        ("hf://me/other", "hf://me/other holds no run of ssss-zoo (no config.yaml)"),
    ]
    for name, message in wrong:
        done = ssss("evaluate", f"run={name}")
        assert (done.code, message in done.line) == (2, True), (name, done.err)
    hub.status = 500
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own tries
    done = ssss("evaluate", "run=hf://me/nothing")
    assert (done.code, "hf://me/nothing: the hub answers with an error (500, " in done.line) == (2, True), done.err
    hub.status = None
    use_hub(monkeypatch, hub, tmp_path / "empty", None)
    with pytest.raises(
        UserError, match=r"hf://me/street: the hub has no such repository, or a private one .* HF_TOKEN"
    ):
        download_run("hf://me/street")


def test_a_file_that_came_cut_short_is_named(run, hub, ssss):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    hub.cut.add("best/student.safetensors")
    done = ssss("evaluate", "run=hf://me/street")
    assert (done.code, "hf://me/street" in done.line) == (2, True), done.err
    assert "cut short" in done.line
    hub.cut.clear()
    assert ssss("evaluate", "run=hf://me/street").code == 0


class Program:
    """A pickle of it would write a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_no_pickle_of_the_hub_is_run_and_no_other_file_is_downloaded(run, hub, ssss, tmp_path):
    assert ssss("push", f"run={run}", "repo=me/street").code == 0
    harm = tmp_path / "harm"
    program = pickle.dumps(Program(harm), protocol=2)
    files = hub.files("me/street") | {"extra.pkl": program, "best/extra.pt": program, "best/state.pt": program}
    del files["best/digests.json"]
    hub.repositories["me/street"].commits.append(files)
    with pytest.raises(UserError, match="is not a checkpoint of ours"):
        load("hf://me/street")
    with pytest.raises(UserError, match=r"model\.weights=hf://me/street: its state.pt is damaged"):
        weights_file("hf://me/street")
    assert not harm.exists()
    assert not list(find_run("hf://me/street").rglob("extra*"))
    torch.save({"reported": "../../../etc/x"}, tmp_path / "state.pt")
    hub.repositories["me/street"].commits.append(files | {"best/state.pt": (tmp_path / "state.pt").read_bytes()})
    assert weights_file("hf://me/street").parent.name == "best"


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_name_on_the_hub_is_read_and_written_alike():
    assert parse_hub_name("hf://me/a@feature/x") == HubName("me/a", "feature/x")
    assert parse_hub_name("me/a") == parse_hub_name("hf://me/a") == HubName("me/a")
    assert [str(HubName("me/a")), str(HubName("me/a", "v1"))] == ["hf://me/a", "hf://me/a@v1"]


def test_a_card_that_a_person_changed_is_uploaded_as_it_is():
    assert card_on_hub("# Mine\n", HubName("me/a")) == "# Mine\n"
