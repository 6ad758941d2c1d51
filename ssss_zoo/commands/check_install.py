"""`ssss check-install`: whether the installation is complete and can train. It needs no file and no network."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ssss_zoo.config.parse import split_overrides
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.text import brief, count

DISTRIBUTION = "ssss-zoo"
DEVELOPER_EXTRAS = {"dev", "docs", "notebooks", "test"}  # for work on the package itself
TRIAL_STEPS = 2
# A small crop, no tracking and no loader process: the run takes seconds and leaves nothing behind.
TRIAL_OVERRIDES = (
    "method=fixmatch",
    "dataset=shapes",
    f"train.steps={TRIAL_STEPS}",
    "train.crop=64",
    "train.batch=2",
    "train.workers=0",
    "tracking.uri=off",
)


@dataclass(frozen=True)
class ExtraStatus:
    """An extra of the package. missing: its packages that are not installed or too old, with the version they need."""

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class TrialRun:
    """The run of TRIAL_STEPS steps. seconds: with making the network and the evaluation; loss: of the last step."""

    device: str
    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class InstallCheck:
    """A complete installation. versions: by package; devices: those that torch can use, each in words."""

    versions: dict[str, str]
    system: str
    devices: tuple[str, ...]
    extras: tuple[ExtraStatus, ...]
    run: TrialRun

    def as_dict(self) -> dict[str, Any]:
        """As JSON: what the fields say, with the extras by name."""
        extras = {one.name: {"installed": not one.missing, "missing": list(one.missing)} for one in self.extras}
        return {**asdict(self), "devices": list(self.devices), "extras": extras}

    def lines(self) -> list[str]:
        """A line for the versions, the devices, the extras and the run, and the verdict."""
        here = " ".join(one.name for one in self.extras if not one.missing)
        absent = " ".join(one.name for one in self.extras if one.missing)
        advice = f"; to add one: pip install '{DISTRIBUTION}[NAME]'" if absent else ""
        return [
            "versions: " + ", ".join(f"{name} {number}" for name, number in self.versions.items()),
            f"system: {self.system}",
            "devices: " + "; ".join(self.devices),
            f"extras: {here or 'none'} (not installed: {absent or 'none'}{advice})",
            f"run: {count(self.run.steps, 'step')} of fixmatch on {self.run.device} in {self.run.seconds:.1f} s, "
            f"loss {self.run.loss:.3f}",
            "the installation is complete and trains",
        ]


def check_install(overrides: Sequence[str]) -> InstallCheck:
    """Check that every required package is there, then train two steps on the embedded data set.

    overrides: `train.device=` alone, the device of the run. Raises UserError, which says what to install or to mend,
    for a package that is missing, too old or cannot be imported, and where the run fails.
    """
    own, others = split_overrides(overrides, "train.device")
    if others:
        raise UserError(f"ssss check-install takes train.device=cpu, cuda or the like, not {brief(others[0])}")
    broken = missing_packages("")
    if broken:
        quoted = " ".join(f"'{one.partition(' ')[0]}'" for one in broken)
        raise UserError(f"the installation lacks {', '.join(broken)}: pip install {quoted}")
    devices = describe_devices()
    run = train_two_steps([f"train.device={text}" for text in own.values()])
    from ssss_zoo.train.device import package_versions

    return InstallCheck(
        {"ssss-zoo": version(DISTRIBUTION), "Python": platform.python_version(), **package_versions()},
        platform.platform(),
        devices,
        tuple(ExtraStatus(name, tuple(missing_packages(name))) for name in extra_names()),
        run,
    )


# --- packages -------------------------------------------------------------------------------------------------------


def own_requirements() -> list[Requirement]:
    """All requirements of the package, those of extras among them. Raises UserError where it is not installed."""
    try:
        return [Requirement(text) for text in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        raise UserError(f"{DISTRIBUTION} is not installed: pip install {DISTRIBUTION}") from None


def extra_names() -> list[str]:
    """The extras that a user may want, in alphabetical order."""
    markers = [str(one.marker) for one in own_requirements() if one.marker]
    named = {part.strip("\"'") for marker in markers for part in marker.partition("extra == ")[2].split()[:1]}
    return sorted(named - DEVELOPER_EXTRAS)


def requirements_of(extra: str) -> Iterator[Requirement]:
    """The requirements of an extra, and of the extras that it includes; "" gives those of the package itself."""
    for one in own_requirements():
        in_extra = "extra" in str(one.marker or "")
        if in_extra == bool(extra) and (one.marker is None or one.marker.evaluate({"extra": extra})):
            if canonicalize_name(one.name) == DISTRIBUTION:
                for included in sorted(one.extras):
                    yield from requirements_of(included)
            else:
                yield one


def missing_packages(extra: str) -> list[str]:
    """The requirements of an extra that are not met, such as `torch>=2.6 (1.13 is installed)`."""
    return [text for one in requirements_of(extra) if (text := unmet(one))]


def unmet(requirement: Requirement) -> str:
    """The requirement in words where it is not met, else an empty text."""
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return wanted
    allowed = requirement.specifier.contains(found, prereleases=True)
    return "" if allowed else f"{wanted} ({found} is installed)"


# --- devices and the run --------------------------------------------------------------------------------------------


def describe_devices() -> tuple[str, ...]:
    """The processor, and every GPU that torch can use. Raises UserError where torch cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"torch cannot be imported ({reason}): install it again as pytorch.org says") from None
    found = [f"cpu ({count(os.cpu_count() or 1, 'core')})"]
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        found.append(f"cuda:{index} ({name}, {memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps (only with train.device=mps)")
    if len(found) == 1:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        found.append(f"no GPU (torch is built for {built})")
    return tuple(found)


def train_two_steps(overrides: Iterable[str]) -> TrialRun:
    """Train and evaluate in a temporary folder, without output. Raises UserError where that fails."""
    from ssss_zoo.config.resolve import resolve
    from ssss_zoo.train.history import read_history
    from ssss_zoo.train.run import run_training
    from ssss_zoo.train.run_folder import RunFolder

    began = time.perf_counter()
    with TemporaryDirectory(prefix="ssss-check-", ignore_cleanup_errors=True) as folder, redirect_stderr(StringIO()):
        config = resolve([*TRIAL_OVERRIDES, *overrides, f"output={Path(folder) / 'run'}"])
        try:
            metrics = run_training(config).metrics
        except (UserError, Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"every package is there, and a run of two steps failed: {brief(reason)}") from error
        history = read_history(RunFolder(Path(folder) / "run").history)
        loss = next(line["losses"]["total"] for line in reversed(history) if "losses" in line)
    if not math.isfinite(loss):
        raise UserError(
            f"a run of two steps gave the loss {loss}, which should be a number: torch computes wrongly here"
        )
    return TrialRun(metrics["environment"]["device"], TRIAL_STEPS, time.perf_counter() - began, loss)
