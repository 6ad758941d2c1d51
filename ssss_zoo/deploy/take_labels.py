"""`ssss label take=FOLDER`: checks masks that a person corrected, and writes a split in which they are labelled."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssss_zoo.config.parse import build_typed, parse_overrides, split_overrides
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.split_lists import INDEX_MASKS, LABELLED_LISTS, UNLABELLED_LISTS, VAL_LIST, find_root
from ssss_zoo.data.tools.audit import samples_by_part
from ssss_zoo.data.tools.split import write_list
from ssss_zoo.deploy.corrected_masks import (
    CorrectedMasks,
    check_corrected,
    find_corrected_files,
    match_images,
    refuse,
)
from ssss_zoo.deploy.image_sources import common_folder, name_images
from ssss_zoo.deploy.label import open_run_data
from ssss_zoo.deploy.label_files import LABEL_CSV, check_new_folder, filling_folder, read_chosen_names
from ssss_zoo.deploy.prediction_files import save_mask
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.text import count
from ssss_zoo.toolkit.types import Sample
from ssss_zoo.train.run_folder import RunFolder, find_run

SPLIT_ENDING = "_split"  # of the folder of the split, after the name of the folder that is taken
log = logging.getLogger("ssss_zoo")


@dataclass(frozen=True)
class TakeSettings:
    """The arguments of `ssss label take=`. output: empty for a folder beside the taken one. hidden: whether to use the
    masks that the data set itself has, in place of corrected ones."""

    run: str = ""
    take: str = ""
    output: str = ""
    hidden: bool = False

    @property
    def folder(self) -> Path:
        """The folder that is taken, by its whole path."""
        return expanded(self.take).resolve()

    @property
    def split_folder(self) -> Path:
        """The folder to write the split into, by its whole path, since a run may start in another folder."""
        usual = self.folder.with_name(self.folder.name + SPLIT_ENDING)
        return Path(os.path.abspath(expanded(self.output))) if self.output else usual


@dataclass(frozen=True)
class TakeResult:
    """The split that was written. taken, labelled, unlabelled: numbers of images. files: those of the output. command:
    trains the run again with the split."""

    output: Path
    taken: int
    labelled: int
    unlabelled: int
    files: tuple[str, ...]
    command: str
    hidden: bool


@dataclass(frozen=True, eq=False)
class NewSplit:
    """The lists of a split. masks: the data set that reads the masks to write into the folder of the split, by the name
    of their image."""

    labelled: list[Sample]
    unlabelled: list[Sample]
    masks: dict[str, Dataset]


def take_labels(overrides: Iterable[str]) -> TakeResult:
    """Check the masks and write the split; nothing else is written. Raises UserError for what a person can fix."""
    data, own = split_overrides(overrides, "data.")
    settings: TakeSettings = build_typed(TakeSettings, parse_overrides(own))
    if not settings.run or not settings.take:
        raise UserError("give the run and the folder of the corrected masks: ssss label run=DIR take=FOLDER")
    run = find_run(settings.run)
    changed = [f"{key}={text}" for key, text in data.items()]
    dataset, config = open_run_data(run, [*changed, "data.hold_out=0"])  # the next run holds out images by itself
    root = find_root(config.data, config.dataset, "its images")
    check_new_folder(settings.split_folder, root)
    taken = take_hidden(settings.folder, dataset) if settings.hidden else take_corrected(settings.folder, dataset)
    split = with_earlier_masks(make_split(taken, dataset), dataset, config)
    files = write_split(split, dataset, settings.split_folder, root)
    return TakeResult(
        output=settings.split_folder,
        taken=len(taken.labelled),
        labelled=len(split.labelled),
        unlabelled=len(split.unlabelled),
        files=tuple(files),
        command=training_command(run, changed, settings.split_folder, config),
        hidden=settings.hidden,
    )


# --- masks ----------------------------------------------------------------------------------------------------------


def take_corrected(folder: Path, dataset: Dataset) -> NewSplit:
    """The images whose masks a person corrected. Raises UserError where one of the masks cannot be used; every fault is
    logged."""
    files = find_corrected_files(folder)
    masks = CorrectedMasks(dataset, match_images(files, dataset))
    faults = check_corrected(masks)
    texts = [fault.message if fault.name in fault.message else f"{fault.name}: {fault.message}" for fault in faults]
    for text in texts:
        log.warning(text)
    if texts:
        raise UserError(
            f"nothing was taken: {count(len(texts), 'fault')} in {count(len(files), 'mask')} of {folder}; correct or "
            f"remove such masks: {texts[0]}"
        )
    warn_of_untouched(folder, [file.path for file in files])
    return NewSplit(list(masks.labelled), [], dict.fromkeys((sample.name for sample in masks.labelled), masks))


def warn_of_untouched(folder: Path, files: Sequence[Path]) -> None:
    """Warn of masks that nobody saved since `ssss label` wrote them: label.csv is its last file."""
    table = folder / LABEL_CSV
    if table.is_file():
        untouched = [file for file in files if file.stat().st_mtime <= table.stat().st_mtime]
        if untouched:
            log.warning(
                f"{len(untouched)} of {len(files)} masks are as the network predicted them, such as {untouched[0]}: "
                "nobody saved them since; they are taken as they are"
            )


def take_hidden(folder: Path, dataset: Dataset) -> NewSplit:
    """The images that label.csv lists, with the masks that the data set itself has for them and that training does not
    read. Raises UserError for an image that is not unlabelled, and for one without such a mask."""
    names = read_chosen_names(folder / LABEL_CSV)
    known = {sample.name: sample for sample in samples_by_part(dataset)["unlabelled"]}
    strangers = [name for name in names if name not in known]
    if strangers:
        refuse(strangers, "no unlabelled image of the data set is called so")
    bare = [name for name in names if known[name].mask is None]
    if bare:
        refuse(bare, "the data set has no mask for it: hidden=true is for data whose masks a split hides")
    return NewSplit([known[name] for name in names], [], {})


# --- the split ------------------------------------------------------------------------------------------------------


def make_split(taken: NewSplit, dataset: Dataset) -> NewSplit:
    """The labelled images with those that were taken, and the unlabelled images without them."""
    names = {sample.name for sample in taken.labelled}
    unlabelled = [sample for sample in samples_by_part(dataset)["unlabelled"] if sample.name not in names]
    return NewSplit([*dataset.labelled, *taken.labelled], unlabelled, taken.masks)


def with_earlier_masks(split: NewSplit, dataset: Dataset, config: Config) -> NewSplit:
    """The split with copies of the masks that an earlier split took, so that its folder is no longer needed."""
    earlier = Path(os.path.abspath(expanded(config.data.split))) / INDEX_MASKS
    kept = [sample.name for sample in dataset.labelled if Path(sample.mask).is_relative_to(earlier)]
    return replace(split, masks=dict.fromkeys(kept, dataset) | split.masks)


def write_split(split: NewSplit, dataset: Dataset, output: Path, root: Path) -> list[str]:
    """Write the lists and the masks, class ids with a palette; returns the names of what was written. The validation
    images are listed where they were drawn from the labelled ones: from more of them others would be drawn."""
    copied = [sample for sample in split.labelled if sample.name in split.masks]
    named = name_images([sample.image for sample in copied], common_folder([sample.image for sample in copied]))
    file_of_image = {sample.name: f"{each.name}.png" for sample, each in zip(copied, named, strict=True)}
    with filling_folder(output) as folder:
        labelled: list[Sample] = []
        for sample in split.labelled:
            mask = sample.mask
            if sample.name in split.masks:
                ids = split.masks[sample.name].read_mask(sample)
                save_mask(folder / INDEX_MASKS / file_of_image[sample.name], ids, dataset.colours)
                mask = output / INDEX_MASKS / file_of_image[sample.name]
            labelled.append(replace(sample, mask=mask))
        write_list(folder / LABELLED_LISTS[0], root, labelled)
        if split.unlabelled:
            write_list(folder / UNLABELLED_LISTS[0], root, split.unlabelled)
        if dataset.val_held_out:
            write_list(folder / VAL_LIST, root, dataset.val)
        return sorted(path.name for path in folder.iterdir())


def training_command(run: Path, changed: Sequence[str], split: Path, config: Config) -> str:
    """The command that trains as the run did, with the new split. changed: the `data` overrides of this command. Where
    the run named its folder, the new one lies beside it."""
    output = [f"output={run.with_name(f'{run.name}_{split.name}')}"] if config.output else []
    words = ["ssss", "run", "--config", str(RunFolder(run).config), *changed, f"data.split={split}", *output]
    return shlex.join(words)
