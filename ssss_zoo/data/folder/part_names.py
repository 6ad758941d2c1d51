"""Which part of the data the name of a folder or list means: training, validation, test, labelled or unlabelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ssss_zoo.data.folder.file_tree import normalize_name
from ssss_zoo.errors import UserError, check_choice

TRAIN, VAL, TEST = "train", "val", "test"
FOLDER_PARTS = (TRAIN, VAL, TEST)
LABELLED, UNLABELLED = "labelled", "unlabelled"  # parts of lists, not of folders
PART_OF_WORD = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development", "eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), TEST),
    **dict.fromkeys(("labelled", "labeled", "annotated"), LABELLED),
    **dict.fromkeys(("unlabelled", "unlabeled", "unannotated", "unsupervised", "nolabel", "nolabels"), UNLABELLED),
    **dict.fromkeys(("nomask", "nomasks"), UNLABELLED),
}
FILLER_WORDS = (  # words that may accompany those above, as in training_set, val-images, test_list
    *("sets", "set", "dataset", "data", "splits", "split", "subset", "part", "images", "image", "imgs", "img"),
    *("pictures", "photos", "masks", "mask", "labels", "label", "annotations", "gt", "lists", "list", "files", "names"),
    *("ids", "paths", "instances"),
)


def words_in_name(name: str) -> list[str]:
    """The words of a name in lower case: those of `TrainSet_2017` are train and set."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normalize_name(name))
    return re.findall(r"[^\W\d_]+", parted.lower())


def part_of_name(name: str) -> str:
    """The part that a name means; empty where it means none, or says more than the name of a part."""
    name_words = words_in_name(name)
    whole = "".join(name_words)
    core = "".join(word for word in name_words if word not in FILLER_WORDS)
    bare = [core.removesuffix(filler) for filler in FILLER_WORDS]
    return next((PART_OF_WORD[word] for word in (whole, core, *bare) if word in PART_OF_WORD), "")


def mentioned_part(name: str) -> str:
    """The part, val or test, that a name mentions without meaning it, as `test_site_3` does; empty where it mentions
    none."""
    mentioned = [PART_OF_WORD[word] for word in words_in_name(name) if PART_OF_WORD.get(word) in (VAL, TEST)]
    return mentioned[0] if mentioned and not part_of_name(name) else ""


def is_unlabelled_folder(name: str) -> bool:
    """Whether a folder of this name holds images without masks."""
    return part_of_name(name) == UNLABELLED


class PartPath(NamedTuple):
    """Where a file belongs. part: train, val, test, or empty; rest: its path without the folder that names the part."""

    part: str
    rest: str


class FolderParts:
    """The part of each folder: `data.parts` decides, else the folder's name.

    given: part by folder name, as in `data.parts`. Raises UserError for a part that does not exist.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        for name, part in given.items():
            check_choice(f"data.parts.{name}", part, FOLDER_PARTS)
        self.given = {normalize_name(name).casefold(): part for name, part in given.items()}
        self.folders: dict[str, PartPath] = {}  # memory of `split_path`: many files share a folder

    def part_of(self, name: str) -> str:
        """train, val or test; empty for a folder that is no part."""
        part = self.given.get(normalize_name(name).casefold(), part_of_name(name))
        return TRAIN if part == LABELLED else part if part in FOLDER_PARTS else ""

    def split_path(self, path: str, default: str) -> PartPath:
        """The part of a file and its path without suffix. The outermost folder that is a part decides; it is removed
        from the path, except for its digits. default: the part where no folder decides."""
        folder, _, name = normalize_name(path).rpartition("/")
        if folder not in self.folders:
            self.folders[folder] = self.split_folders(folder.split("/")) if folder else PartPath("", "")
        part, rest = self.folders[folder]
        stem = name[: name.rindex(".")] if "." in name[1:] else name
        return PartPath(part or default, f"{rest}/{stem}" if rest else stem)

    def split_folders(self, names: Sequence[str]) -> PartPath:
        """The part that one of the nested folders `names` is, and the path of the others."""
        at = next((index for index, name in enumerate(names) if self.part_of(name)), None)
        if at is None:
            return PartPath("", "/".join(names))
        digits = re.sub(r"\D", "", names[at]) if part_of_name(names[at]) else names[at]
        return PartPath(self.part_of(names[at]), "/".join([*names[:at], *filter(None, [digits]), *names[at + 1 :]]))

    def check_mentions(self, parent: Path, folders: Iterable[str]) -> None:
        """Raise UserError where a folder within `parent` mentions val or test in its name, and is neither."""
        for name in (name for folder in folders for name in folder.split("/")):
            part = mentioned_part(name)
            if part and not self.part_of(name):
                raise UserError(
                    f"is {name}/ in {parent} the {part} part? it would be used for training, since only names such as "
                    f"{part}/ mark that part. Rename it, or set data.parts={{{name}: {part}}}, or {{{name}: train}}"
                )
