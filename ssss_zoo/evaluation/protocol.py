"""The protocol of a run: data set, split lists, crop and scoring, which two figures must share to be compared.

`configs/protocol/` holds the protocols of the field. A run matches one by its settings, whether it names it or not.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ssss_zoo.config.layers import ProtocolFile, read_protocol, recipes
from ssss_zoo.config.resolve import read_tree
from ssss_zoo.config.schema import Config
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.benchmarks.published_splits import UNKNOWN_LIST, identify_list, split_family
from ssss_zoo.errors import UserError

SCORING_KEYS = {  # keys of `evaluate` that change scores, by mode
    "whole": ("mode", "fit", "absent"),
    "sliding": ("mode", "fit", "absent", "window", "stride", "overlap", "edge", "sums"),
    "centre": ("mode", "fit", "absent", "window", "pad_label"),
}
DIGEST_NAMES = {"exclude": "exclude by truth"}  # earlier versions excluded by truth and prediction: another digest


def describe_protocol(config: Config, dataset: Dataset) -> dict[str, Any]:
    """name: of the protocol that the run matches, None where it matches none; digest: of the settings; settings: data
    set, classes, digests of the split lists, crop, scoring; lists: see `identify_split_lists`."""
    lists, scored = identify_split_lists(config, dataset), crop_and_scoring(config)
    absent = scored["evaluate"]["absent"]
    scored["evaluate"]["absent"] = DIGEST_NAMES.get(absent, absent)
    settings = {
        "dataset": config.dataset,
        "classes": list(dataset.class_names),
        "lists": {part: entry["sha256"] for part, entry in lists.items()} or dataset.fingerprint,
        **scored,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return {"name": matching_protocol(config, lists), "digest": digest, "settings": settings, "lists": lists}


def check_split_family(config: Config) -> None:
    """Raise UserError for a split whose lists are of another family than those of the protocol that is asked for."""
    if config.protocol:
        wanted, found = read_protocol(config.protocol).family, split_family(config.dataset, config.data.split)
        if found and found != wanted:
            raise UserError(
                f"data.split={config.data.split} is of the lists of family {found}, protocol={config.protocol} is of "
                f"family {wanted}: figures on them do not compare"
            )


def identify_split_lists(config: Config, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The split lists of the run that are files: the digest of each, and the published list that it equals, or
    `unknown`."""
    return {part: identify_list(path, config.dataset) for part, path in dataset.list_files.items()}


def crop_and_scoring(config: Config) -> dict[str, Any]:
    """The crop, and the settings of `evaluate` that change scores."""
    scoring = {key: getattr(config.evaluate, key) for key in SCORING_KEYS[config.evaluate.mode]}
    if scoring.get("stride"):
        scoring.pop("overlap")  # a stride overrides it
    if "window" in scoring:
        scoring["window"] = scoring["window"] or config.train.crop
    plain = {key: list(value) if isinstance(value, list) else value for key, value in scoring.items()}
    return {"crop": list(config.train.crop), "evaluate": plain}


def matching_protocol(config: Config, lists: dict[str, dict[str, Any]]) -> str | None:
    """The name of the first protocol with the run's crop, scoring and family of lists; the one that the run names comes
    first. None where there is none, or a list is unknown."""
    if not lists or any(entry["list"] == UNKNOWN_LIST for part, entry in lists.items() if part != "unlabelled"):
        return None
    family, run = split_family(config.dataset, config.data.split), crop_and_scoring(config)
    names = sorted(recipes("protocol"), key=lambda name: name != config.protocol)
    for name in names:
        protocol = read_protocol(name)
        if (protocol.dataset, protocol.family) == (config.dataset, family) and agrees(protocol, run):
            return name
    return None


def agrees(protocol: ProtocolFile, run: dict[str, Any]) -> bool:
    """Whether the run has the crop of a protocol, and each setting of `evaluate` that the protocol names."""
    settled = read_tree(protocol.settings)
    counted = [key for key in protocol.settings["evaluate"] if key in SCORING_KEYS[run["evaluate"]["mode"]]]
    same = all(run["evaluate"].get(key) == getattr(settled.evaluate, key) for key in counted)
    return same and settled.train.crop == run["crop"]
