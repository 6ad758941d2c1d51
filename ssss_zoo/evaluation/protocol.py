"""What two figures must share to be compared: data, lists, crop, the way of scoring; named where the field has a name.

The named ones are the files of `configs/protocol/`; a run that was given none may match one all the same.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import merge
from ssss_zoo.config.schema import Config, protocol_settings
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST, identify_list, split_family
from ssss_zoo.errors import UserError

SCORING = {  # keys of `evaluate` that count, by mode
    "whole": ("mode", "fit", "absent"),
    "sliding": ("mode", "fit", "absent", "window", "stride", "overlap", "edge", "sums"),
    "centre": ("mode", "fit", "absent", "window", "pad_label"),
}


ABSENT = {"exclude": "exclude by truth"}  # earlier versions excluded by truth and prediction: another digest


def describe(config: Config, dataset: Dataset) -> dict[str, Any]:
    """name: of the protocol that the run follows, None for no known one; digest: of all that follows; settings: data
    set, classes, whose split lists (`unknown` for lists that are none of the field's), crop, scoring; lists: see
    `lists_of`."""
    lists, scored = lists_of(config, dataset), chosen(config)
    absent = scored["evaluate"]["absent"]
    scored["evaluate"]["absent"] = ABSENT.get(absent, absent)
    settings = {
        "dataset": config.dataset,
        "classes": list(dataset.class_names),
        "lists": {part: entry["sha256"] for part, entry in lists.items()} or dataset.fingerprint,
        **scored,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return {"name": name_of(config, lists), "digest": digest, "settings": settings, "lists": lists}


def check_family(config: Config) -> None:
    """Raise UserError for a split of another family of lists than the protocol that was asked for."""
    if config.protocol:
        wanted, found = protocol_settings(config.protocol)["family"], split_family(config.dataset, config.data.split)
        if found and found != wanted:
            raise UserError(
                f"data.split={config.data.split} is of the lists of family {found}, protocol={config.protocol} is of "
                f"family {wanted}: figures on them do not compare"
            )


def lists_of(config: Config, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The split lists of the run that are files: digest, and which known list each is, or `unknown`."""
    return {part: identify_list(path, config.dataset) for part, path in dataset.list_files.items()}


def chosen(config: Config) -> dict[str, Any]:
    """Crop and scoring, as far as they count."""
    scoring = {key: getattr(config.evaluate, key) for key in SCORING[config.evaluate.mode]}
    if scoring.get("stride"):
        scoring.pop("overlap")  # a stride overrules it
    if "window" in scoring:
        scoring["window"] = scoring["window"] or config.train.crop
    plain = {key: list(value) if isinstance(value, list) else value for key, value in scoring.items()}
    return {"crop": list(config.train.crop), "evaluate": plain}


def name_of(config: Config, lists: dict[str, dict[str, Any]]) -> str | None:
    """The first protocol whose crop, scoring and family of lists are the run's, the one that was asked for before the
    others; None where a list is unknown, too."""
    if not lists or any(entry["list"] == UNKNOWN_LIST for part, entry in lists.items() if part != "unlabelled"):
        return None
    family, run = split_family(config.dataset, config.data.split), chosen(config)
    names = sorted(recipes("protocol"), key=lambda name: name != config.protocol)
    for name in names:
        settings = protocol_settings(name)
        if (settings["dataset"], settings["family"]) == (config.dataset, family) and fits(settings, run):
            return name
    return None


def fits(settings: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether every word that a protocol says of crop and scoring is so in the run."""
    evaluate = {key: value for key, value in settings["evaluate"].items() if key in SCORING[run["evaluate"]["mode"]]}
    laid_over = merge({"evaluate": dict(run["evaluate"])}, {"evaluate": evaluate})
    return settings["train"]["crop"] == run["crop"] and laid_over["evaluate"] == run["evaluate"]
