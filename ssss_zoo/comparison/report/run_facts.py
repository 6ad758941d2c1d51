"""What a report says about how its runs were made: data, network, budget, machine, seeds, recipes, commands, limits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import ComparisonFigures, RowFigures, RowStatistics
from ssss_zoo.comparison.report.statistics import SEEDS_FOR_SIGNIFICANCE
from ssss_zoo.config.parse import flatten_keys, read_file, section
from ssss_zoo.text import count

DATA_PARTS = ("labelled", "unlabelled", "val")
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
        **environment_texts(figures),
        "last run": last_run_date(finished, folder),
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


def environment_texts(figures: ComparisonFigures) -> dict[str, str]:
    """Machine and software of the first run."""
    environment = figures.environment or {}
    packages = environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    device, threads = str(environment.get("device") or ""), number_in(environment, "threads")
    return {
        "hardware": f"{device}, {count(threads, 'thread')}" if device and threads else device,
        "software": ", ".join(
            [f"{name} {version}" for name, version in packages.items()]
            + ([f"Python {environment['python']}"] if environment.get("python") else [])
        ),
        "system": str(environment.get("platform") or ""),
    }


def last_run_date(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> str:
    """The day on which the last run wrote its figures, by the clock of the machine; empty where the runs are gone."""
    files = [run_folder(folder, place).metrics for row in rows.values() for place in row.folders.values()]
    times = [file.stat().st_mtime for file in files if file.is_file()]
    return datetime.fromtimestamp(max(times), UTC).strftime("%d %B %Y") if times else ""


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


def commands(figures: ComparisonFigures, folder: ComparisonFolder) -> list[RunFact]:
    """How to repeat the comparison, one of its runs, and this page."""
    shared = [argument for argument in figures.overrides if not argument.startswith(NOT_TO_REPEAT)]
    names = [row.name for row in figures.rows]
    others = [name for name in names if name != BASELINE]
    own = [f"methods={','.join(others or names)}", f"seeds={','.join(map(str, figures.seeds))}"]
    own += [] if BASELINE in names else ["baseline=false"]
    own += ["budget=time"] if figures.budget == "time" else []
    first = figures.ranked()[0] if figures.rows else None
    run = [*shared, *first.overrides, f"seed={figures.seeds[0]}", "output=one_run"] if first and figures.seeds else []
    return [
        RunFact("the comparison", shell_line("compare", *own, *shared, "output=again")),
        *([RunFact(f"one run ({first.name})", shell_line("run", *run))] if first and run else []),
        RunFact("this page, from its folder alone", shell_line("report", folder.path.name)),
    ]


def shell_line(*words: str) -> str:
    return shlex.join(["ssss", *words])


def limits(figures: ComparisonFigures) -> list[str]:
    """What the figures do not show."""
    finished = figures.finished()
    if not finished:
        return []
    validation = max(number_in(row.data or {}, "val") for row in finished.values())
    evaluations = sorted({number for row in finished.values() for number in row.best_of if number})
    texts = [
        "One labelled list: another choice of labelled images may give another order. The intervals know of the seeds "
        f"and of the {validation} validation images, not of this choice.",
        "One budget: methods that learn slowly may come out ahead with more steps.",
        "The settings of each method are those of its recipe, not tuned for these data.",
        "Training time and memory are those of this machine, with whatever else ran on it.",
    ]
    if len(figures.seeds) < SEEDS_FOR_SIGNIFICANCE:
        texts.insert(0, f"{count(len(figures.seeds), 'seed')}: no difference gets a star.")
    if evaluations:
        texts.append(
            f"“mIoU, best” is the best of {' to '.join(map(str, evaluations[:: max(1, len(evaluations) - 1)]))} "
            "evaluations on the validation images, so it is too high for new images. It decides nothing here."
        )
    return texts
