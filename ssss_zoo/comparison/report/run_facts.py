"""What a report says about how its runs were made: data, network, budget, machine, seeds, recipes, commands, limits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.own_options import with_own_options
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import REMAKE, ComparisonFigures, RowFigures, RowStatistics
from ssss_zoo.comparison.report.statistics import SEEDS_FOR_SIGNIFICANCE
from ssss_zoo.config.parse import flatten_keys, read_file, section
from ssss_zoo.errors import UserError
from ssss_zoo.record_files import read_metrics
from ssss_zoo.text import count

DATA_PARTS = ("labelled", "unlabelled", "val")
METHODS_OF_CARD = re.compile(r"trained with (.*?)\.\n\n", re.DOTALL)  # see train/card.md.j2
ARXIV_NUMBER = re.compile(r"arXiv (\d{4}\.\d{4,5})")
NOT_TO_REPEAT = ("tracking.", "diagnose=")  # beginnings of arguments that change no figure


@dataclass(frozen=True)
class RunFact:
    """A line of `What was run`."""

    name: str
    text: str


@dataclass(frozen=True)
class SeedLine:
    """A row's figures of each seed, and where its runs lie in the folder of the comparison."""

    name: str
    values: list[str]
    folders: str


@dataclass(frozen=True)
class RowOptions:
    """What the recipe of a row's method sets: its options by name, as text."""

    name: str
    overrides: str
    steps: str
    options: str
    papers: list[Paper]


@dataclass(frozen=True)
class Paper:
    """Where a method comes from, and the page of its paper; empty where none is known."""

    text: str
    url: str


def run_facts(figures: ComparisonFigures, folder: ComparisonFolder) -> list[RunFact]:
    """What all rows share. Empty without a finished run."""
    finished = figures.finished()
    if not finished:
        return []
    rows = list(finished.values())
    texts = {
        "data": data_text(figures, rows),
        "data fingerprint": ", ".join(dict.fromkeys(str((row.data or {}).get("fingerprint", "-")) for row in rows)),
        "network": network_text(rows),
        "budget": budget_text(figures, rows),
        "seeds": ", ".join(map(str, figures.seeds)),
        "scored": figures.headline,
        **{name: "; ".join(texts) for name, texts in environment_texts(run_environments(figures, folder)).items()},
        "runs made": run_dates(finished, folder),
    }
    return [RunFact(name, text) for name, text in texts.items() if text]


def data_text(figures: ComparisonFigures, rows: Sequence[RowStatistics]) -> str:
    """Data set, split and numbers of images. Labels alone use no unlabelled image, so the most of all rows counts."""
    known = [row.data for row in rows if row.data]
    counts = {part: max((number_in(data, part) for data in known), default=0) for part in DATA_PARTS}
    images = f"{counts['labelled']} labelled, {counts['unlabelled']} unlabelled, {counts['val']} validation images"
    classes = count(len(figures.classes), "class").replace("classs", "classes")
    return f"{figures.dataset}, split {figures.split}: {images}, {classes}"


def number_in(record: Mapping[str, Any], key: str) -> int:
    """A whole number of a record that another version may have written, 0 where there is none."""
    value = record.get(key)
    return value if isinstance(value, int) else 0


def network_text(rows: Sequence[RowStatistics]) -> str:
    """Decoder, encoder, weights and crop; those of each kind where rows differ."""
    texts = []
    for row in rows:
        keys = ("model.name", "model.encoder", "model.weights", "train.crop")
        name, encoder, weights, crop = (row.settings.get(key, "-") for key in keys)
        texts.append(f"{name} on {encoder}, {weights} weights, crop {crop}")
    return "; ".join(dict.fromkeys(texts))


def budget_text(figures: ComparisonFigures, rows: Sequence[RowStatistics]) -> str:
    steps = sorted({row.steps for row in rows})
    batches = ", ".join(dict.fromkeys(row.settings.get("train.batch", "-") for row in rows))
    equal = "the same training time for each row" if figures.budget == "time" else "the same for each row"
    return (
        f"{' to '.join(f'{number:,}' for number in steps[:: max(1, len(steps) - 1)])} steps of batch {batches}, {equal}"
    )


def run_environments(figures: ComparisonFigures, folder: ComparisonFolder) -> Sequence[Mapping[str, Any]]:
    """Machine and software of each finished run; of the first one where the runs are gone."""
    found = []
    for run in finished_folders(figures.finished(), folder):
        with suppress(UserError):  # a run whose metrics are gone or damaged: its figures are in compare.json
            found.append(read_metrics(run.metrics, REMAKE)["environment"])
    return found or [figures.environment or {}]


def environment_texts(environments: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Machine, software and commit of the runs, by name: one text, or several where runs differ; none where no run says
    it."""
    text_of: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "hardware": hardware_text,
        "software": software_text,
        "system": lambda environment: str(environment.get("platform") or ""),
        "commit": lambda environment: str(environment.get("commit") or ""),
    }
    return {name: list(dict.fromkeys(filter(None, map(text, environments)))) for name, text in text_of.items()}


def hardware_text(environment: Mapping[str, Any]) -> str:
    device, threads = str(environment.get("device") or ""), number_in(environment, "threads")
    return f"{device}, {count(threads, 'thread')}" if device and threads else device


def software_text(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages")
    versions = [f"{name} {version}" for name, version in packages.items()] if isinstance(packages, dict) else []
    return ", ".join([*versions, *([f"Python {environment['python']}"] if environment.get("python") else [])])


def run_dates(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> str:
    """The days on which the first and the last run wrote their figures, by the clock of the machine; empty where the
    runs are gone."""
    files = [run.metrics for run in finished_folders(rows, folder)]
    times = sorted(file.stat().st_mtime for file in files if file.is_file())
    days = [datetime.fromtimestamp(time, UTC).strftime("%d %B %Y").lstrip("0") for time in (*times[:1], *times[-1:])]
    return " to ".join(dict.fromkeys(days))


def finished_folders(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> list[ComparedRunFolder]:
    """The folders of all finished runs."""
    return [run_folder(folder, place) for row in rows.values() for place in row.folders.values()]


def run_folder(folder: ComparisonFolder, place: str) -> ComparedRunFolder:
    """The folder of a run of a comparison. Earlier versions wrote its whole path, which is wrong once it is moved."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", "..")]
    return ComparedRunFolder(folder.path.joinpath(*parts[-3:]))


def seed_lines(figures: ComparisonFigures) -> list[SeedLine]:
    """mIoU of the last step in percent, of each seed of the comparison."""
    lines = []
    for row in figures.ranked():
        if row.statistics:
            of_seed = dict(zip(row.seeds, row.statistics.last.values, strict=False))
            known = [of_seed.get(seed) for seed in figures.seeds]
            values = ["-" if value is None else f"{100 * value:.2f}" for value in known]
            first = next(iter(row.statistics.folders.values()), "")
            lines.append(SeedLine(row.name, values, "/".join(first.split("/")[-3:-1])))
    return lines


def row_options(figures: ComparisonFigures, folder: ComparisonFolder) -> list[RowOptions]:
    """What each row brings of its own: its arguments, its steps, and the options of its method's recipe."""
    return [
        RowOptions(
            name=row.name,
            overrides=" ".join(row.overrides),
            steps=f"{row.statistics.steps:,}" if row.statistics else "-",
            options=options_text(row, folder),
            papers=papers_of(row, folder),
        )
        for row in figures.ranked()
    ]


def options_text(row: RowFigures, folder: ComparisonFolder) -> str:
    """`top_k=3, ...` of the row's first run; empty where the run or its configuration is gone."""
    places = list(row.statistics.folders.values()) if row.statistics else []
    file = run_folder(folder, places[0]).config if places else None
    if file is None or not file.is_file():
        return ""
    options = flatten_keys(section(read_file(file), "options"))
    methods = {key.partition(".")[0] for key in options}
    names = {key: key.partition(".")[2] if len(methods) == 1 else key for key in options}
    return ", ".join(f"{names[key]}={value}" for key, value in options.items())


def papers_of(row: RowFigures, folder: ComparisonFolder) -> list[Paper]:
    """The papers of a row's methods, as the model card of its first run names them; none where that is gone."""
    places = list(row.statistics.folders.values()) if row.statistics else []
    card = run_folder(folder, places[0]).card if places else None
    if card is None or not card.is_file():
        return []
    named = METHODS_OF_CARD.search(card.read_text("utf-8", "replace"))
    return [paper_of(text) for text in " ".join(named[1].split()).split("; ")] if named else []


def paper_of(text: str) -> Paper:
    """text: `fixmatch, FixMatch (Sohn et al., 2020, arXiv 2001.07685)`."""
    number = ARXIV_NUMBER.search(text)
    return Paper(text.partition(", ")[2] or text, f"https://arxiv.org/abs/{number[1]}" if number else "")


def commands(figures: ComparisonFigures, folder: ComparisonFolder) -> list[RunFact]:
    """How to repeat the comparison, one of its runs, and this page."""
    shared = [argument for argument in figures.overrides if not argument.startswith(NOT_TO_REPEAT)]
    names = [row.name for row in figures.rows]
    others = [name for name in names if name != BASELINE]
    own = [f"methods={','.join(others or names)}", f"seeds={','.join(map(str, figures.seeds))}"]
    own += [] if BASELINE in names else ["baseline=false"]
    own += ["budget=time"] if figures.budget == "time" else []
    first = figures.ranked()[0] if figures.rows else None
    run: list[str] = []
    if first and figures.seeds:
        run = [*with_own_options(shared, first.overrides), f"seed={figures.seeds[0]}", "output=one_run"]
    return [
        RunFact("the comparison", shell_line("compare", *own, *shared, "output=again")),
        *([RunFact(f"one run ({first.name})", shell_line("run", *run))] if first and run else []),
        RunFact("this page, from its folder alone", shell_line("report", folder.path.name)),
    ]


def shell_line(*words: str) -> str:
    return shlex.join(["ssss", *words])


def limits(figures: ComparisonFigures, folder: ComparisonFolder) -> list[str]:
    """What the figures do not show."""
    finished = figures.finished()
    if not finished:
        return []
    validation = max(number_in(row.data or {}, "val") for row in finished.values())
    evaluations = sorted({number for row in finished.values() for number in row.best_of if number})
    known = f"{'the seeds and of ' if len(figures.seeds) > 1 else ''}the {validation} validation images"
    texts = [
        "One labelled list: another choice of labelled images may give another order. The intervals know of "
        f"{known}, not of this choice.",
        "One budget: methods that learn slowly may come out ahead with more steps.",
        "The settings of each method are those of its recipe, not tuned for these data.",
        *machine_limits(environment_texts(run_environments(figures, folder))),
    ]
    if len(figures.seeds) < SEEDS_FOR_SIGNIFICANCE:
        texts.insert(0, f"{count(len(figures.seeds), 'seed')}: no difference gets a star.")
    if evaluations:
        texts.append(
            f"“mIoU, best” is the best of {' to '.join(map(str, evaluations[:: max(1, len(evaluations) - 1)]))} "
            "evaluations on the validation images, so it is too high for new images. It decides nothing here."
        )
    return texts


def machine_limits(environments: Mapping[str, Sequence[str]]) -> list[str]:
    """The limits that come from where and with what the runs were made. environments: see `environment_texts`."""
    limits_found = ["Training time and memory are those of this machine, with whatever else ran on it."]
    if len(environments["hardware"]) > 1:
        machines = len(environments["hardware"])
        limits_found = [f"The runs were made on {machines} kinds of hardware, so training times do not compare."]
    if max(len(environments["software"]), len(environments["commit"])) > 1:
        limits_found.append("The runs were made with different software or commits, see “What was run”.")
    return limits_found
