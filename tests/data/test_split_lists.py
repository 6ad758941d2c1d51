"""Split lists in the format of the field: the samples that they give, and the error for a wrong line."""

import os

import pytest

from helpers.errors import refusal
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.split_lists import find_root, read_list, read_split
from ssss_zoo.data.tools.split import write_list
from ssss_zoo.toolkit.types import Sample


@pytest.fixture
def root(tmp_path):
    """A root with images a to f, a mask of each, and a pair whose paths hold spaces; the files are empty."""
    for name in (*"abcdef", "g h"):
        for path in (tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}.png"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return tmp_path


def line(name):
    return f"images/{name}.jpg masks/{name}.png"


def write(root, **lists):
    """`splits/<name>.txt` by keyword; `__` stands for a slash."""
    for name, names in lists.items():
        path = root / "splits" / f"{name.replace('__', '/').lstrip('_')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(line, names)))
    return root / "splits"


def names(samples):
    return "".join(sample.name[len("images/")] for sample in samples)


# --- one list ---------------------------------------------------------------------------------------------------------


def test_list_is_read_in_order_whatever_its_line_ends(root):
    path = root / "list.txt"
    path.write_bytes(f"\ufeff{line('b')}\r\n\r\n  {line('a')} \n{line('c')}".encode())
    samples = read_list(path, root, need_masks=True)
    assert [sample.name for sample in samples] == ["images/b.jpg", "images/a.jpg", "images/c.jpg"]
    assert samples[0].image == root / "images/b.jpg"
    assert samples[0].mask == root / "masks/b.png"


@pytest.mark.parametrize("gap", [" ", "\t", "  "])
def test_paths_may_hold_spaces(root, gap):
    (root / "list.txt").write_text(f"images/g h.jpg{gap}masks/g h.png\n")
    (sample,) = read_list(root / "list.txt", root, need_masks=True)
    assert (sample.name, sample.mask) == ("images/g h.jpg", root / "masks/g h.png")


@pytest.mark.parametrize("text", ["images/g h.jpg", "images/g h.jpg None", "images/g h.jpg masks/none.png"])
def test_unlabelled_image_needs_no_mask(root, text):
    (root / "list.txt").write_text(text)
    (sample,) = read_list(root / "list.txt", root, need_masks=False)
    assert (sample.name, sample.mask) == ("images/g h.jpg", None)


def test_unlabelled_image_is_the_longest_path_that_exists(root):
    (root / "images/g").touch()
    (root / "list.txt").write_text("images/g h.jpg masks/none.png")
    assert read_list(root / "list.txt", root, need_masks=False)[0].name == "images/g h.jpg"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images/x.jpg masks/a.png", ["line 2", "no image", "images/x.jpg"]),
        ("images/a.jpg masks/x.png", ["line 2", "no mask", "masks/x.png"]),
        ("images/g h.jpg masks/x y.png", ["line 2", "no mask", "masks/x y.png"]),
        ("images/a.jpg", ["line 2", "no mask is given for images/a.jpg", "<mask path>"]),
        ("images/a.jpg None", ["line 2", "no mask is given for images/a.jpg"]),
        ("2007_000032", ["line 2", "no image", "2007_000032", "<image path> <mask path>"]),
        (line("b"), ["line 2", "images/b.jpg", "listed twice", "line 1"]),
    ],
)
def test_wrong_line_is_named(root, text, words):
    path = root / "list.txt"
    path.write_text(f"{line('b')}\n{text}\n")
    refusal(lambda: read_list(path, root, need_masks=True), str(path), *words)


def test_line_that_parts_in_two_ways_asks_for_a_tab(root):
    for name in ("i", "i m", "m n", "n"):
        (root / name).touch()
    (root / "list.txt").write_text("i m n")
    refusal(lambda: read_list(root / "list.txt", root, need_masks=True), "line 1", "2 ways", "TAB")


def test_missing_empty_and_binary_lists_are_named(root):
    path = root / "list.txt"
    refusal(lambda: read_list(path, root, need_masks=True), str(path), "No such file")
    path.write_text("\n \n")
    refusal(lambda: read_list(path, root, need_masks=True), str(path), "is empty")
    path.write_bytes(b"\xff\xfe\x00\x81")
    refusal(lambda: read_list(path, root, need_masks=True), str(path), "UTF-8")


# --- splits -----------------------------------------------------------------------------------------------------------


def test_split_is_the_folder_with_underscores(root):
    folder = write(root, val="f", train="abcde", _1_4__labeled="ab", _1_4__unlabeled="cd")
    for split in ("1/4", "1_4"):
        lists = read_split(root, folder, split)
        assert (names(lists.labelled), names(lists.unlabelled), names(lists.val)) == ("ab", "cd", "f")


def test_both_spellings_and_a_missing_unlabelled_list(root):
    folder = write(root, val="f", train="abcde", _92__labelled="ab", _92__unlabelled="c", _10__labelled="ca")
    assert names(read_split(root, folder, "92").unlabelled) == "c"
    assert names(read_split(root, folder, "10").unlabelled) == "bde"  # every other training image


def test_all_labels_every_image_and_shows_them_unlabelled_too(root):
    folder = write(root, val="f", train="abcde", _4__labeled="ab", _4__unlabeled="cde")
    lists = read_split(root, folder, "all")
    assert (names(lists.labelled), names(lists.unlabelled)) == ("abcde", "abcde")


def test_train_list_may_be_the_union_of_a_split(root):
    folder = write(root, val="f", _4__labeled="ab", _4__unlabeled="cde")
    assert names(read_split(root, folder, "all").labelled) == "abcde"


def test_a_split_called_all_with_lists_of_its_own_wins(root):
    folder = write(root, val="f", train="abc", all__labeled="abc", all__unlabeled="de")
    assert names(read_split(root, folder, "all").unlabelled) == "de"


def test_path_of_a_list_from_the_root_or_anywhere(root, tmp_path_factory):
    folder = write(root, val="f", train="abcde", mine="db")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine.lst"
    elsewhere.write_text((folder / "mine.txt").read_text())
    for split in ("splits/mine.txt", str(elsewhere)):
        lists = read_split(root, folder, split)
        assert (names(lists.labelled), names(lists.unlabelled)) == ("db", "ace")
    refusal(lambda: read_split(root, folder, "yours.txt"), "yours.txt", "data.split")


def test_unknown_split_names_those_found(root):
    folder = write(root, val="f", train="abcde", _1_4__labeled="ab", _92__labeled="a")
    refusal(lambda: read_split(root, folder, "1/3"), "data.split=1/3", "1/4", "92", "all", "did you mean")


def test_image_both_labelled_and_in_val_is_refused(root):
    folder = write(root, val="fb", train="abcde", _4__labeled="ab", _4__unlabeled="cde")
    refusal(lambda: read_split(root, folder, "4"), "images/b.jpg", "4/labeled.txt", "val.txt", "1 such image)")


def test_missing_val_list_is_named(root):
    folder = write(root, train="abcde", _4__labeled="ab")
    refusal(lambda: read_split(root, folder, "4"), str(folder / "val.txt"))


# --- the root ---------------------------------------------------------------------------------------------------------


def test_root_is_the_setting_else_the_store(tmp_path, monkeypatch):
    (tmp_path / "camvid").mkdir()
    monkeypatch.setenv("SSSS_DATA", str(tmp_path))
    assert find_root(DataConfig(root=str(tmp_path)), "camvid", "images/") == tmp_path
    assert find_root(DataConfig(), "camvid", "images/") == tmp_path / "camvid"
    refusal(
        lambda: find_root(DataConfig(), "voc", "images/"), str(tmp_path / "voc"), "$SSSS_DATA/voc", "data.root=PATH"
    )
    refusal(lambda: find_root(DataConfig(root="/no/where"), "voc", "images/"), "/no/where", "data.root")
    monkeypatch.delenv("SSSS_DATA")
    refusal(lambda: find_root(DataConfig(), "voc", "images/"), "data.root=PATH", "$SSSS_DATA/voc")


# --- files that lists may name ----------------------------------------------------------------------------------------


def test_files_outside_the_root_are_noted_once(root, tmp_path_factory):
    folder = write(root, val="f", train="abcde", _4__labeled="ab", _4__unlabeled="cd")
    assert list(read_split(root, folder, "4").notes) == []
    far = tmp_path_factory.mktemp("far") / "x.jpg"
    far.touch()
    (folder / "4/unlabeled.txt").write_text(f"{far}\nimages/../../{root.name}/images/c.jpg\n")
    assert list(read_split(root, folder, "4").notes) == [f"the lists name 1 file outside {root}: {far}"]


def test_a_pipe_in_a_list_is_no_file(root):
    os.mkfifo(root / "images/p.jpg")
    (root / "list.txt").write_text("images/p.jpg masks/a.png")
    refusal(lambda: read_list(root / "list.txt", root, need_masks=False), "line 1", "images/p.jpg is no regular file")


def test_parts_in_columns_are_not_for_benchmarks(root):
    (root / "list.csv").write_text("image,mask,split\nimages/a.jpg,masks/a.png,train")
    refusal(lambda: read_list(root / "list.csv", root, need_masks=True), "column of parts", "dataset=folder")


def test_a_split_may_lie_in_any_folder(root, tmp_path_factory, monkeypatch):
    """Its lists name masks by their whole paths, where these do not lie in the data set."""
    folder = write(root, train="abcde", val="f")
    split = tmp_path_factory.mktemp("taken") / "mine"
    (split / "masks").mkdir(parents=True)
    (split / "masks/b.png").touch()
    write_list(
        split / "labeled.txt",
        root,
        [
            Sample("", root / "images/a.jpg", root / "masks/a.png"),
            Sample("", root / "images/b.jpg", split / "masks/b.png"),
        ],
    )
    (split / "unlabeled.txt").write_text(f"{line('d')}\n{line('c')}")
    assert (split / "labeled.txt").read_text() == f"{line('a')}\nimages/b.jpg {split}/masks/b.png\n"
    monkeypatch.chdir(split.parent)
    for name in (str(split), "mine"):
        lists = read_split(root, folder, name)
        assert (names(lists.labelled), names(lists.unlabelled)) == ("ab", "dc")
        assert [sample.mask for sample in lists.labelled] == [root / "masks/a.png", split / "masks/b.png"]
        assert lists.files["labelled"].name == "labeled.txt"
    refusal(lambda: read_split(root, folder, str(split / "masks")), "unknown split")
    refusal(lambda: read_split(root, folder, ""), "unknown split")
