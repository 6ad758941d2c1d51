"""Which part of the data a folder or a list is, by its name: training, validation, test, unlabelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssss_zoo.data.folder.tree import composed
from ssss_zoo.errors import UserError, check_choice

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = (TRAIN, VAL, TEST)
LABELLED, UNLABELLED = "labelled", "unlabelled"  # what only lists tell apart
WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development", "eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), TEST),
    **dict.fromkeys(("labelled", "labeled", "annotated"), LABELLED),
    **dict.fromkeys(("unlabelled", "unlabeled", "unannotated", "unsupervised", "nolabel", "nolabels"), UNLABELLED),
    **dict.fromkeys(("nomask", "nomasks"), UNLABELLED),
}
FILLERS = (  # words beside those, such as in training_set, val-images, test_list
    *("sets", "set", "dataset", "data", "splits", "split", "subset", "part", "images", "image", "imgs", "img"),
    *("pictures", "photos", "masks", "mask", "labels", "label", "annotations", "gt", "lists", "list", "files", "names"),
    *("ids", "paths", "instances"),
)


def words_of(name: str) -> list[str]:
    """The words of a name, small: those of `TrainSet_2017` are train and set."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", composed(name))
    return re.findall(r"[^\W\d_]+", parted.lower())


def role(name: str) -> str:
    """What a name stands for by `WORDS`; empty where it is no such name, or more than that."""
    words = words_of(name)
    whole, core = "".join(words), "".join(word for word in words if word not in FILLERS)
    bare = [core.removesuffix(filler) for filler in FILLERS]
    return next((WORDS[word] for word in (whole, core, *bare) if word in WORDS), "")


def suspicious(name: str) -> str:
    """The part that a name speaks of without being it, as `test_site_3` does; empty where it speaks of none."""
    spoken = [WORDS[word] for word in words_of(name) if WORDS.get(word) in (VAL, TEST)]
    return spoken[0] if spoken and not role(name) else ""


def is_loose(name: str) -> bool:
    """Whether a folder of this name holds images without masks."""
    return role(name) == UNLABELLED


class Parts:
    """What folders are: as `data.parts` says it, else by their names. Raises UserError for a part that is none."""

    def __init__(self, given: Mapping[str, str]) -> None:
        for name, part in given.items():
            check_choice(f"data.parts.{name}", part, PARTS)
        self.given = {composed(name).casefold(): part for name, part in given.items()}
        self.folders: dict[str, tuple[str, str]] = {}  # what `split` found out of each

    def of(self, name: str) -> str:
        """train, val or test; empty for a folder that is no part."""
        known = self.given.get(composed(name).casefold(), role(name))
        return TRAIN if known == LABELLED else known if known in PARTS else ""

    def split(self, path: str, part: str) -> tuple[str, str]:
        """Part and path without suffix of a file: the outermost folder that is a part says it and goes, but for its
        digits. part: of all, where no folder says so."""
        folder, _, name = composed(path).rpartition("/")
        if folder not in self.folders:
            self.folders[folder] = self.of_folders(folder.split("/")) if folder else ("", "")
        own, rest = self.folders[folder]
        stem = name[: name.rindex(".")] if "." in name[1:] else name
        return own or part, f"{rest}/{stem}" if rest else stem

    def of_folders(self, names: Sequence[str]) -> tuple[str, str]:
        """The part that one of some folders is, and the path of them without it."""
        at = next((index for index, name in enumerate(names) if self.of(name)), None)
        if at is None:
            return "", "/".join(names)
        kept = re.sub(r"\D", "", names[at]) if role(names[at]) else names[at]
        return self.of(names[at]), "/".join([*names[:at], *filter(None, [kept]), *names[at + 1 :]])

    def check(self, place: Path, folders: Iterable[str]) -> None:
        """Raise UserError where a folder within `place` speaks of val or test and is taken for neither."""
        for name in (name for folder in folders for name in folder.split("/")):
            part = suspicious(name)
            if part and not self.of(name):
                raise UserError(
                    f"is {name}/ in {place} the {part} part? it would be trained on: only names such as {part}/ are "
                    f"taken for it. Rename it, or say what it is: data.parts={{{name}: {part}}}, or {{{name}: train}}"
                )
