"""`ssss push`: uploads a run to the Hugging Face hub, so that others can predict with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ssss_zoo.atomic_write import write_text
from ssss_zoo.config.parse import build_typed, parse_overrides
from ssss_zoo.config.schema import Config, PluginsConfig, TrackingConfig, as_yaml
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.hub import HUB_CONFIG, HubName, import_hub, is_hub_name, parse_hub_name, upload_run
from ssss_zoo.record_files import FORMAT, CheckpointRecord, read_regular_text
from ssss_zoo.text import format_bytes
from ssss_zoo.train import checkpoint
from ssss_zoo.train.reevaluate import classes_of, find_checkpoint, run_config
from ssss_zoo.train.run_folder import RunFolder

# What a checkpoint says to predict with. The rest, such as the optimizer, belongs to the machine of the training.
SHARED_STATE = ("step", "global_step", "reported", "colours", "reading", "mask_values")
CARD_PLACE = ", where FOLDER is the folder of this file"  # in card.md


@dataclass(frozen=True)
class PushSettings:
    """The arguments of `ssss push`."""

    run: str = ""
    repo: str = ""
    private: bool = True
    weights: Literal["", "last", "best"] = ""


@dataclass(frozen=True)
class PushResult:
    """What was uploaded. repository: with its owner; source: run and checkpoint; files: sizes in bytes, by name."""

    repository: str
    revision: str
    private: bool
    source: str
    files: dict[str, int]

    def lines(self) -> list[str]:
        """The result for people, a line each."""
        listed = ", ".join(f"{name} ({format_bytes(size)})" for name, size in self.files.items())
        seen_by = "private: you and your organisation see it" if self.private else "public: everybody sees it"
        return [
            f"uploaded {self.source}: {listed}",
            f"to hf://{self.repository}@{self.revision[:12]}, {seen_by}",
            f"next: ssss predict run=hf://{self.repository} input=PHOTOS output=MASKS",
        ]


def push_run(overrides: Iterable[str]) -> PushResult:
    """Upload model card, configuration, classes and the networks of one checkpoint; no data, no path of this machine.

    Raises UserError for a wrong setting, a run that is not finished or not whole, and what `upload_run` refuses.
    """
    settings: PushSettings = build_typed(PushSettings, parse_overrides(overrides))
    for key in ("run", "repo"):
        if not getattr(settings, key):
            raise UserError(f"give {key}=: ssss push run=DIR repo=OWNER/NAME")
    if is_hub_name(settings.run):
        raise UserError(f"run={settings.run} is on the hub already; give the folder of a run")
    name = parse_hub_name(settings.repo)
    if name.revision:
        raise UserError(f"repo={settings.repo}: a run is uploaded to the main branch; leave '@{name.revision}' out")
    import_hub()
    folder = expanded(settings.run)
    weights = settings.weights or ("last" if checkpoint.find_folder(folder / "best") is None else "best")
    with tempfile.TemporaryDirectory(prefix="ssss-push-") as temporary:
        package = Path(temporary)
        write_package(folder, weights, name, package)
        files = {
            file.relative_to(package).as_posix(): file.stat().st_size
            for file in sorted(package.rglob("*"))
            if file.is_file()
        }
        done = upload_run(package, name, private=settings.private)
    return PushResult(done.name, done.revision, done.private, f"the {weights} checkpoint of {folder}", files)


def write_package(run: Path, weights: str, name: HubName, target: Path) -> None:
    """Write all that is uploaded into the folder `target`. weights: the name of the checkpoint. Raises UserError for a
    run that is not finished or not whole."""
    from safetensors.torch import load_file

    config = run_config(run, [])
    place = find_checkpoint(run, weights)
    card = RunFolder(run).card
    if not card.is_file():
        raise UserError(
            f"{run} has no model card ({card.name}), which a run writes as it ends: end it with resume=true"
        )
    state = checkpoint.load_typed(place, CheckpointRecord)
    classes = classes_of(run, state)
    networks = {}
    for network in checkpoint.network_names(place):
        file = place / f"{network}.safetensors"
        checkpoint.check_digest(file)
        networks[network] = load_file(file)
        checkpoint.check_finite(networks[network], file)
    kept: dict[str, Any] = {key: value for key, value in state.items() if key in SHARED_STATE}
    checkpoint.save_folder(target / weights, networks, kept | {"classes": classes})
    write_text(target / HUB_CONFIG, f"format: {FORMAT}\n{as_yaml(shared_config(config))}")
    write_text(target / "classes.txt", "".join(f"{one}\n" for one in classes))
    text = read_regular_text(card, "train the run again")
    write_text(target / "README.md", card_on_hub(text, name))


def shared_config(config: Config) -> Config:
    """The configuration without what is of this machine alone: paths, and where runs are logged, which may hold a
    password."""
    split = "all" if Path(config.data.split).suffix or Path(config.data.split).is_absolute() else config.data.split
    return replace(
        config,
        data=replace(config.data, root=None, split=split, unlabelled=[]),
        model=replace(config.model, weights=shared_weights(config.model.weights)),
        plugins=PluginsConfig(names=config.plugins.names),
        tracking=TrackingConfig(),
        output=None,
    )


def shared_weights(weights: str) -> str:
    """`model.weights` without a path of this machine; the network has its own weights."""
    return weights if weights == "imagenet" or is_hub_name(weights) else "none"


def card_on_hub(card: str, name: HubName) -> str:
    """The model card, its commands with the run's name on the hub."""
    used = card.replace("pip install ssss-zoo`", "pip install 'ssss-zoo[hub]'`").replace(CARD_PLACE, "")
    return used.replace("run=FOLDER", f"run={HubName(name.repository)}")
