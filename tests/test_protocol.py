"""Protocols: what each settles, that a run is named by what it did, and that families of lists never mix."""

import json
from dataclasses import asdict, replace

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.layers import read_protocol, recipes
from ssss_zoo.config.resolve import resolve
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks import published_splits as known
from ssss_zoo.data.benchmarks.published_splits import PublishedList, published_lists
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.protocol import check_split_family, describe_protocol, matching_protocol

NAMES = sorted(recipes("protocol"))


class Listed(Dataset):
    """A data set whose lists are files, of any content."""

    class_names = ("a", "b")
    labelled = unlabelled = val = ()

    def __init__(self, files):
        self.list_files = files

    def read_image(self, sample):
        raise NotImplementedError

    read_mask = read_image


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """Lists that are the field's: 366 is of the family classic, 1/8 of CPS, u2pl_1_8 of U2PL; and its data set."""
    files = {}
    lists = {}
    for path in ("val.txt", "366/labeled.txt", "1_8/labeled.txt", "u2pl_1_8/labeled.txt"):
        file = tmp_path / path.replace("/", "-")
        file.write_text(path)
        digest = known.identify_list(file, "voc")["sha256"]
        lists[path] = PublishedList(path, 1, published_lists("voc")[path].family, digest)
        files[path] = file
    monkeypatch.setattr(known, "published_lists", lambda dataset: lists)
    return lambda split: Listed({"val": files["val.txt"], "labelled": files[f"{split}/labeled.txt"]})


def message(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_settles_crop_and_scoring_for_every_method(name):
    protocol = read_protocol(name)
    settings = protocol.settings
    assert protocol.family in {entry.family for entry in published_lists(protocol.dataset).values()}
    first = None
    for method in ("supervised", "unimatch", "u2pl", "cps", "unimatch_v2"):
        config = resolve([f"protocol={name}", f"method={method}"])
        assert config.dataset == protocol.dataset
        assert config.data.split == settings["data"]["split"]
        check_split_family(config)
        found = describe_protocol(config, Listed({}))["settings"]
        first = first or found
        assert config.train.eval_epochs == float(settings["train"]["eval_epochs"])  # as its release evaluates
        assert found == first, f"{method} is scored otherwise"
    assert list(map(int, settings["train"]["crop"])) == first["crop"]
    assert first["evaluate"]["mode"] == settings["evaluate"]["mode"]


def test_no_two_protocols_are_the_same():
    digests = {json.dumps(asdict(replace(read_protocol(name), name="")), sort_keys=True) for name in NAMES}
    assert len(digests) == len(NAMES)


def test_a_run_is_named_by_what_it_does(voc):
    asked = describe_protocol(resolve(["protocol=voc-classic"]), voc("366"))
    found = describe_protocol(resolve(["dataset=voc", "method=unimatch", "data.split=366"]), voc("366"))
    assert asked["name"] == found["name"] == "voc-classic"
    assert asked["digest"] == found["digest"]
    assert found["lists"]["labelled"]["list"] == "voc/366/labeled.txt"


@pytest.mark.parametrize("word", ["train.crop=400", "evaluate.absent=exclude", "evaluate.mode=sliding"])
def test_a_changed_word_changes_digest_and_name(voc, word):
    before = describe_protocol(resolve(["protocol=voc-classic"]), voc("366"))
    after = describe_protocol(resolve(["protocol=voc-classic", word]), voc("366"))
    assert after["name"] is None
    assert after["digest"] != before["digest"]


@pytest.mark.parametrize("word", ["optim.lr=1", "seed=3", "evaluate.window=[40]", "evaluate.pad_label=0"])
def test_a_word_that_does_not_count_changes_nothing(voc, word):
    before, after = (describe_protocol(resolve(["protocol=voc-classic", *more]), voc("366")) for more in ([], [word]))
    assert before == after


def test_a_stride_overrules_the_overlap(voc):
    words = ["protocol=cityscapes-unimatch"]
    assert describe_protocol(resolve(words), voc("366")) == describe_protocol(
        resolve([*words, "evaluate.overlap=0"]), voc("366")
    )


def test_families_do_not_share_a_name(voc):
    cps = describe_protocol(resolve(["dataset=voc", "data.split=1/8"]), voc("1_8"))
    u2pl = describe_protocol(resolve(["dataset=voc", "data.split=u2pl_1_8", "train.crop=513"]), voc("u2pl_1_8"))
    assert (cps["name"], u2pl["name"]) == ("voc-cps", "voc-u2pl")
    config = resolve(["protocol=voc-cps", "data.split=u2pl_1_8"])
    said = message(lambda: check_split_family(config))
    assert "family u2pl" in said
    assert "family cps" in said


def test_an_unknown_list_has_no_protocol(voc, tmp_path):
    dataset = voc("366")
    (tmp_path / "own.txt").write_text("mine")
    dataset.list_files = {**dataset.list_files, "labelled": tmp_path / "own.txt"}
    found = describe_protocol(resolve(["protocol=voc-classic"]), dataset)
    assert found["name"] is None
    assert found["lists"]["labelled"]["list"] == "unknown"


def test_a_data_set_without_lists_has_a_digest_alone():
    config = resolve(["dataset=shapes"])
    assert matching_protocol(config, {}) is None
    assert len(describe_protocol(config, Listed({}))["digest"]) == 16


def test_mistakes_in_one_line(capsys):
    assert "did you mean 'voc-classic'?" in message(lambda: resolve(["protocol=voc-clasic"]))
    assert "belongs to dataset=voc" in message(lambda: resolve(["protocol=voc-cps", "dataset=cityscapes"]))
    assert command_line(["list", "protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMES
