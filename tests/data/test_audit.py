"""`ssss data check`: every kind of damage is found and named, none is reported on the clean copy."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.data.tools import audit_cache as module
from ssss_zoo.data.tools.audit import audit
from ssss_zoo.errors import UserError


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def picture(seed, size=(48, 64)):
    """A picture like no other: soft blocks."""
    small = np.random.default_rng(seed).integers(0, 256, (17, 17, 3), np.uint8)
    return Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)


def noisy(level, most):
    """A picture of one level, give or take a few steps."""
    steps = np.random.default_rng(0).integers(-most, most + 1, (48, 64, 3)) // 2
    return Image.fromarray((level + steps).clip(0, 255).astype(np.uint8))


@pytest.fixture
def root(tmp_path):
    """Eight pairs to train on, four to validate on, four without masks; three classes and void in every mask."""
    ids = np.repeat(np.array([0, 1, 2, 255], np.uint8), 16)[None].repeat(48, axis=0)
    for part, numbers in (("train", range(8)), ("val", range(8, 12))):
        for number in numbers:
            for folder in ("images", "masks"):
                (tmp_path / folder / part).mkdir(parents=True, exist_ok=True)
            picture(number).save(tmp_path / f"images/{part}/{number}.png")
            Image.fromarray(ids).save(tmp_path / f"masks/{part}/{number}.png")
    (tmp_path / "unlabelled").mkdir()
    for number in range(12, 16):
        picture(number).save(tmp_path / f"unlabelled/{number}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def report(root, **settings):
    return audit(Folder(DataConfig(root=str(root), **settings)), (32, 32), 4)


def paint(path, ids):
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)


def test_a_clean_folder_is_clean(root):
    found = report(root)
    assert (found.faults, found.code) == ([], 0)
    printed = found.as_dict()
    assert printed["exit"] == 0
    assert printed["images"] == {"labelled": 8, "val": 4, "unlabelled": 4}
    assert printed["classes"]["road"]["labelled"] == {"share": pytest.approx(1 / 3), "images": 8}
    assert printed["crop"] == {"planned": [32, 32], "padded_images": 0, "largest_unpadded": [48, 64]}


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MASK = np.repeat(np.array([0, 1, 2, 255], np.uint8), 16)[None].repeat(48, axis=0)
DAMAGE = {
    "a mask of another size": (lambda r: paint(r / "masks/train/1.png", MASK[:40]), 2, "size", "64x40"),
    "a mask turned": (lambda r: paint(r / "masks/val/9.png", MASK.T), 2, "size", "48x64"),
    "a value that is no class": (lambda r: paint(r / "masks/train/2.png", MASK % 255 + 5), 2, "value", "holds 5"),
    "one pixel of such a value": (
        lambda r: paint(r / "masks/val/8.png", np.where(np.eye(48, 64) * np.arange(64) == 9, 7, MASK)),
        *(2, "value", "7 (1 pixels)"),
    ),
    "an image cut short": (lambda r: cut_short(r / "images/train/3.png"), 2, "unreadable", "images/train/3.png"),
    "a mask cut short": (lambda r: cut_short(r / "masks/train/3.png"), 2, "unreadable", "masks/train/3.png"),
    "an unlabelled image cut short": (lambda r: cut_short(r / "unlabelled/13.png"), 2, "unreadable", "unlabelled/13"),
    "an empty image": (lambda r: (r / "images/val/10.png").write_bytes(b""), 2, "unreadable", "empty"),
    "an empty mask": (lambda r: (r / "masks/val/10.png").write_bytes(b""), 2, "unreadable", "empty"),
    "a text file": (lambda r: (r / "images/train/4.png").write_text("hello"), 2, "unreadable", "not an image"),
    "a coloured mask": (
        lambda r: picture(99).save(r / "masks/train/7.png"),
        *(2, "unreadable", "colour masks are not class ids"),
    ),
    "a 16-bit image": (
        lambda r: Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(r / "images/train/5.png"),
        *(2, "unreadable", "16-bit"),
    ),
    "a mask of void": (lambda r: paint(r / "masks/train/6.png", MASK * 0 + 255), 1, "void", "masks/train/6.png"),
    "a mask without an image": (
        lambda r: paint(r / "masks/train/lost.png", MASK),
        *(2, "no image", "masks/train/lost.png"),
    ),
    "two masks of one image": (
        lambda r: paint(r / "masks/train/3_mask.png", MASK),
        *(2, "two masks", "masks/train/3_mask.png"),
    ),
    "two images of one name": (
        lambda r: picture(3).save(r / "images/train/3.webp"),
        *(2, "same name", "3.webp"),
    ),
    "a val image without a mask": (
        lambda r: picture(40).save(r / "images/val/bare.png"),
        *(2, "no mask", "images/val/bare.png"),
    ),
    "a class that no labelled image shows": (
        lambda r: [paint(r / f"masks/train/{n}.png", np.where(MASK == 2, 0, MASK)) for n in range(8)],
        *(1, "class", "no labelled pixel of car"),
    ),
    "a class that val lacks": (
        lambda r: [paint(r / f"masks/val/{n}.png", np.where(MASK == 1, 0, MASK)) for n in range(8, 12)],
        *(1, "class", "no val pixel of road"),
    ),
    "an image twice": (lambda r: picture(0).save(r / "images/train/5.png"), 1, "copy", "images/train/0.png"),
    "an image twice, in two formats": (
        lambda r: picture(0).save(r / "unlabelled/0.bmp"),
        1,
        "copy",
        "unlabelled/0.bmp",
    ),
    "a val image to train on": (lambda r: picture(9).save(r / "images/train/5.png"), 1, "leak", "images/val/9.png"),
    "a val image among the unlabelled": (lambda r: picture(9).save(r / "unlabelled/x.png"), 1, "leak", "unlabelled/x"),
    "a val image again as JPEG": (
        lambda r: picture(9).save(r / "unlabelled/x.jpg", quality=70),
        *(1, "near-copy", "looks like images/val/9.png"),
    ),
    "a val image again, smaller": (
        lambda r: picture(9).resize((40, 30)).save(r / "unlabelled/x.png"),
        *(1, "near-copy", "looks like images/val/9.png"),
    ),
    "a val image again, darker": (
        lambda r: Image.fromarray((np.asarray(picture(9)) * 0.8).astype(np.uint8)).save(r / "unlabelled/x.png"),
        *(1, "near-copy", "looks like images/val/9.png"),
    ),
    "a val image again, cropped": (
        lambda r: picture(9, (96, 128)).crop((6, 4, 120, 92)).save(r / "unlabelled/x.png"),
        *(1, "near-copy", "looks like images/val/9.png"),
    ),
    "a black image": (
        lambda r: Image.new("RGB", (64, 48)).save(r / "images/train/5.png"),
        *(1, "blank", "images/train/5.png of labelled is black (brightness 0 of 255)"),
    ),
    "a nearly black JPEG": (
        lambda r: noisy(2, 2).save(r / "unlabelled/12.png"),
        *(1, "blank", "unlabelled/12.png of unlabelled is black"),
    ),
    "a white image of val": (
        lambda r: Image.new("RGB", (64, 48), "white").save(r / "images/val/9.png"),
        *(1, "blank", "images/val/9.png of val is nearly the same everywhere (brightness 255 of 255)"),
    ),
    "a lens cap": (
        lambda r: noisy(120, 1).save(r / "images/train/5.png"),
        *(1, "blank", "nearly the same everywhere"),
    ),
    "0/255 masks": (
        lambda r: [paint(path, np.where(MASK == 1, 255, 0)) for path in (r / "masks").rglob("*.png")],
        *(2, "binary", "data.encoding=values"),
    ),
    "ids from 1": (
        lambda r: [paint(path, np.where(MASK == 255, 255, MASK + 1)) for path in (r / "masks").rglob("*.png")],
        *(2, "value", "start at 1"),
    ),
    "grey levels": (
        lambda r: [paint(path, np.where(MASK == 255, 255, MASK * 100)) for path in (r / "masks").rglob("*.png")],
        *(2, "value", "grey levels"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_found(root, damage):
    spoil, code, kind, words = DAMAGE[damage]
    spoil(root)
    found = report(root)
    assert found.code == code
    alike = [fault for fault in found.faults if fault.kind == kind]
    assert any(words in fault.message for fault in alike), found.faults
    assert all(fault.level == {2: "unusable", 1: "warning"}[code] for fault in alike)


def test_many_faults_are_all_named(root):
    paint(root / "masks/train/1.png", MASK[:40])
    cut_short(root / "unlabelled/13.png")
    picture(9).save(root / "unlabelled/x.png")
    assert {(fault.kind, fault.name) for fault in report(root).faults} == {
        ("size", "images/train/1.png"),
        ("unreadable", "unlabelled/13.png"),
        ("leak", "unlabelled/x.png"),
    }


def test_files_that_did_not_change_are_not_read_again(root, monkeypatch):
    first = report(root)
    read = []
    monkeypatch.setattr(
        module, "audit_sample", lambda *given, **more: read.append(given) or (_ for _ in ()).throw(AssertionError)
    )
    again = report(root)
    assert again == first
    assert read == []
    monkeypatch.undo()
    paint(root / "masks/train/1.png", MASK[:40])
    assert report(root).code == 2


def test_other_classes_are_another_memory(root):
    assert report(root).code == 0
    (root / "classes.txt").write_text("sky\nroad\n")
    assert {fault.kind for fault in report(root).faults} == {"value"}


def test_the_command_prints_and_exits_with_the_code(root, capsys):
    words = ["data", "check", "dataset=folder", f"data.root={root}"]
    assert command_line(words) == 0
    said = capsys.readouterr()
    assert "nothing wrong" in said.out
    assert "layout folders" in said.err
    picture(9).save(root / "unlabelled/x.png")
    assert command_line([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["exit"], [fault["kind"] for fault in found["faults"]]) == (1, ["leak"])
    paint(root / "masks/train/1.png", MASK[:40])
    assert command_line(words) == 2
    assert "usable" in capsys.readouterr().out
    assert command_line(["data", "check", "dataset=folder", "data.root=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("ssss: no folder nowhere")


@pytest.mark.parametrize("pixel", [0, 255], ids=["black", "white"])
def test_a_small_bright_thing_on_plain_ground_is_something(root, pixel):
    image = np.full((48, 64, 3), 255 - pixel, np.uint8)
    image[20:24, 30:34] = pixel
    Image.fromarray(image).save(root / "images/train/5.png")
    assert report(root).faults == []


def test_blank_pictures_are_named_and_not_called_copies(root):
    for name in ("images/train/5.png", "images/val/9.png", "unlabelled/12.png"):
        Image.new("RGB", (64, 48)).save(root / name)
    assert [fault.kind for fault in report(root).faults] == ["blank"] * 3


# --- conclusions ----------------------------------------------------------------------------------------------------

SPOILT = {
    "all labelled masks unreadable": (lambda r: [cut_short(p) for p in (r / "masks/train").iterdir()], {"unreadable"}),
    "one of them": (lambda r: cut_short(r / "masks/train/3.png"), {"unreadable"}),
    "all val masks of another size": (
        lambda r: [paint(path, MASK[:40]) for path in (r / "masks/val").iterdir()],
        {"size"},
    ),
    "a class in unreadable masks alone": (
        lambda r: [
            cut_short(path) if path.stem < "3" else paint(path, np.where(MASK == 2, 0, MASK))
            for path in (r / "masks/train").iterdir()
        ],
        {"unreadable"},
    ),
    "all images unreadable": (lambda r: [cut_short(p) for p in r.rglob("images/*/*.png")], {"unreadable"}),
}


@pytest.mark.parametrize("case", SPOILT)
def test_nothing_is_concluded_from_what_cannot_be_read(root, case, capsys):
    spoil, kinds = SPOILT[case]
    spoil(root)
    assert {fault.kind for fault in report(root).faults} == kinds
    assert command_line(["data", "check", "dataset=folder", f"data.root={root}"]) == 2
    shown = capsys.readouterr().out
    assert "no labelled pixel" not in shown
    assert "nothing but void" not in shown
    assert "images 0" not in shown
    if case.startswith("all labelled"):
        assert "0.00" not in shown


def test_void_in_the_usable_masks_is_said_of_these(root):
    for number in range(8):
        paint(root / f"masks/train/{number}.png", MASK * 0 + 255)
    cut_short(root / "masks/train/3.png")
    said = [fault.message for fault in report(root).faults if fault.kind == "void" and fault.name == "labelled"]
    assert said == ["nothing but void (255) in the 7 usable labelled masks: there is nothing to learn from"]


# --- the memory -----------------------------------------------------------------------------------------------------


def opened(root, **settings):
    return Folder(DataConfig(root=str(root), **settings))


def deep(root):
    """Images of five bands, which no check without `data.channels` takes."""
    import tifffile

    for file in (root / "images").rglob("*.png"):
        pixels = np.random.default_rng(int(file.stem)).integers(0, 256, (48, 64, 5), np.uint8)
        tifffile.imwrite(file.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig="contig")
        file.unlink()
    for file in (root / "unlabelled").iterdir():
        file.unlink()


@pytest.mark.parametrize("first", [[], [1, 2, 3]])
def test_settings_of_reading_have_memories_of_their_own(root, first):
    deep(root)
    for channels in (first, [] if first else [1, 2, 3], first, [3, 2, 1]):
        assert report(root, channels=channels).code == (0 if channels else 2)


def change_version(monkeypatch, root):
    monkeypatch.setattr(module, "package_version", lambda name: "0")


def change_code(monkeypatch, root):
    monkeypatch.setattr(module, "reading_code", lambda: [__file__])


def change_field(monkeypatch, root):
    monkeypatch.setattr(Folder, "__init__", with_field(Folder.__init__))


def with_field(begin):
    def beginning(self, data):
        begin(self, data)
        self.sharpen = True

    return beginning


def change_times(monkeypatch, root):
    import os

    for file in root.rglob("*.png"):
        os.utime(file, (1, 1))


@pytest.mark.parametrize("change", [change_version, change_code, change_field, change_times])
def test_whatever_reading_depends_on_is_another_memory(root, monkeypatch, change):
    first = report(root)
    change(monkeypatch, root)
    read = []
    audit_sample = module.audit_sample
    monkeypatch.setattr(
        module, "audit_sample", lambda *given, **more: read.append(given) or audit_sample(*given, **more)
    )
    assert report(root) == first
    assert len(read) == 16


def test_what_could_not_be_read_is_looked_at_again(root, monkeypatch):
    with monkeypatch.context() as failing:
        failing.setattr(Folder, "read_image", lambda self, sample: (_ for _ in ()).throw(UserError("no memory left")))
        assert report(root).code == 2
    assert report(root).code == 0


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a": 1}', '{"%s": {}}', "\x00"])
def test_a_damaged_memory_is_none(root, content):
    first = report(root)
    memory = module.AuditCache(opened(root))
    keys = list(memory.known)
    memory.file.write_text(content.replace("%s", keys[0]))
    assert report(root) == first


def test_without_a_home_nothing_is_remembered(root, monkeypatch, tmp_path_factory):
    import platformdirs

    def homeless(*given, **more):
        raise RuntimeError("could not determine the home directory")

    for found in (homeless, lambda *given, **more: Path("~/.cache/ssss-zoo")):
        monkeypatch.setattr(platformdirs, "user_cache_path", found)
        monkeypatch.chdir(tmp_path_factory.mktemp("here"))
        assert report(root).code == 0
        assert list(Path().iterdir()) == []


def test_a_few_memories_are_kept(root, monkeypatch):
    monkeypatch.setattr(module, "CACHES_KEPT", 2)
    for number in range(module.CACHES_KEPT + 2):
        (root / "classes.txt").write_text(f"sky\nroad\ncar{number}\n")
        report(root)
    assert len(list(module.AuditCache(opened(root)).file.parent.iterdir())) == module.CACHES_KEPT
