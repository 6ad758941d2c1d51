"""The record of an output folder: which model and which settings made it, so that `resume=true` adds only the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import write_json
from ssss_zoo.deploy.trained import TrainedModel
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.record_files import Numbered, read_record
from ssss_zoo.text import brief
from ssss_zoo.train.setup import weights_digest

RECORD_NAME = "predictions.json"
RECORD_FORMAT = 1
OTHER_OUTPUT_ADVICE = "choose another output=, or replace all with overwrite=true"


class PredictionRecord(Numbered):
    """predictions.json. source: the model in one line. weights: its digest; the source where another library holds
    them. settings: those that change the results, by key."""

    source: str
    weights: str
    settings: dict[str, Any]


def make_prediction_record(model: TrainedModel, settings: Mapping[str, Any]) -> PredictionRecord:
    """The record of a command. settings: those that change the results, by key."""
    return {
        "format": RECORD_FORMAT,
        "source": model.source,
        "weights": weights_digest(model.network) if model.network.state_dict() else model.source,
        "settings": json.loads(json.dumps(dict(settings))),  # tuples are lists, as in the file
    }


def check_prediction_record(folder: Path, record: PredictionRecord) -> None:
    """Raise UserError where an output folder was made by another model or with other settings, or does not say it."""
    file = folder / RECORD_NAME
    if not file.exists():
        raise UserError(
            f"resume=true: {folder} holds predictions without {RECORD_NAME}, which names the model that made them; "
            f"{OTHER_OUTPUT_ADVICE}"
        )
    stored = read_record(file, PredictionRecord, OTHER_OUTPUT_ADVICE)
    if stored["weights"] != record["weights"]:
        raise UserError(
            f"resume=true: {folder} was predicted by {brief(stored['source'], 200)}, and run= is "
            f"{brief(record['source'], 200)} with other weights; {OTHER_OUTPUT_ADVICE}"
        )
    for key, value in record["settings"].items():
        before = stored["settings"].get(key)
        if before != value:
            raise UserError(
                f"resume=true: {folder} was predicted with {key}={json.dumps(before)}, now {key}={json.dumps(value)}; "
                f"give the same, or {OTHER_OUTPUT_ADVICE}"
            )


def write_prediction_record(folder: Path, record: PredictionRecord) -> None:
    """Write predictions.json. Raises UserError where the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_json(folder / RECORD_NAME, record)
