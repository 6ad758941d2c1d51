"""The plan of a comparison: rows (methods, mixes, variants) times seeds, everything else the same."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssss_zoo.comparison.folders import ComparedRunFolder, ComparisonFolder
from ssss_zoo.comparison.own_options import method_names, option_method, with_own_options
from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import parse_value, read_file, split_overrides
from ssss_zoo.config.python_files import RELEASE, local_files, python_files_in, untrusted_file
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.name_checks import check_names
from ssss_zoo.errors import UserError, check_choice, expanded, unknown
from ssss_zoo.text import brief
from ssss_zoo.train.run_folder import split_folder_name

COMPARE_KEYS = ("methods", "seeds", "study", "baseline", "budget", "output", "launcher", "jobs")  # not keys of a run
BASELINE = "supervised"
BUDGETS = ("steps", "time")
FOLDER_NAME_BYTES = 200  # at most: file systems take 255
Notify = Callable[[str], None]  # gets a line about the progress of a comparison or a search
DEFAULT_SEEDS = (0, 1, 2)  # our choice: a standard deviation needs three


@dataclass(frozen=True)
class StudyRow:
    """One row of a comparison. name: as the tables show it; overrides: `key=value` arguments that only this row has."""

    name: str
    overrides: tuple[str, ...]

    @property
    def folder_name(self) -> str:
        """The row's name as the name of a folder; a very long name is cut and ends with a digest of the whole."""
        name = re.sub(r"[^\w.+-]+", "_", self.name).strip("_")
        digest = hashlib.sha256(self.name.encode(errors="replace")).hexdigest()[:8]
        fits = len(name.encode(errors="replace")) <= FOLDER_NAME_BYTES
        return name if fits else f"{name[: FOLDER_NAME_BYTES // 4]}-{digest}"


@dataclass(frozen=True)
class StudyPlan:
    """Rows times seeds. overrides: `key=value` arguments that all runs share, options for the rows that have their
    method. budget: `steps` trains every row for the same steps, `time` for as long as the first row takes for its
    steps. jobs: runs at a time. parent: the MLflow run under which the runs are shown; group: of W&B in which they are.
    cluster: resources that a launcher asks for, by name.
    """

    rows: tuple[StudyRow, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    folder: ComparisonFolder
    budget: str = "steps"
    launcher: str = "local"
    jobs: int | None = None
    parent: str | None = None
    group: str | None = None
    cluster: tuple[tuple[str, str], ...] = ()

    def runs(self) -> list[PlannedRun]:
        """Every run of the study, seed by seed, so that each row has a figure as early as possible."""
        return [PlannedRun(row, seed, self) for seed in self.seeds for row in self.rows]

    def runs_of(self, row: StudyRow) -> list[PlannedRun]:
        return [PlannedRun(row, seed, self) for seed in self.seeds]

    def first_config(self) -> Config:
        """The configuration of the first row with the first seed, for what all runs share."""
        return self.runs()[0].config()


@dataclass(frozen=True)
class PlannedRun:
    """One row with one seed."""

    row: StudyRow
    seed: int
    plan: StudyPlan

    @property
    def label(self) -> str:
        """The name of the run for people."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> ComparedRunFolder:
        return self.plan.folder.run(self.row.folder_name, self.seed)

    @property
    def overrides(self) -> list[str]:
        """The arguments of `ssss run` that make the very same run."""
        parent = [f"tracking.parent={self.plan.parent}"] if self.plan.parent else []
        group = [f"tracking.group={self.plan.group}"] if self.plan.group else []
        own = [f"seed={self.seed}", f"output={self.folder.path}", *parent, *group]
        return [*with_own_options(self.plan.overrides, self.row.overrides), *own]

    def config(self) -> Config:
        return resolve(self.overrides)


def common_settings(plan: StudyPlan) -> dict[str, str]:
    """The settings that all rows share, by key of the configuration; options and hooks as they are given."""
    from ssss_zoo.train.resume import flat_config  # imports torch, which a plan alone does without

    given = [argument for argument in plan.overrides if argument.startswith(("options.", "hooks."))]
    config = resolve([*(argument for argument in plan.overrides if argument not in given), "method=supervised"])
    return flat_config(config) | {"given": " ".join(sorted(given))}


# --- from arguments to a plan ---------------------------------------------------------------------------------------


def plan_study(overrides: Iterable[str]) -> StudyPlan:
    """The study that the arguments describe, with those of a study file under them.

    `methods=a,b+c,d:key=value` (a key without a dot is an option of d's method), `seeds=0,1,2`, `study=NAME` or a path,
    `vary.<key>=a,b` (each row that the key applies to, once for each value), `baseline=false` (adds no supervised row),
    `budget=steps|time`, and arguments of `ssss run`. Raises UserError where they make no comparison.
    """
    given = list(overrides)
    wrong = next((argument for argument in given if "=" not in argument), None)
    if wrong is not None:
        raise UserError(f"expected key=value, got '{wrong}'; for example methods=fixmatch,unimatch seeds=0,1,2")
    settings: dict[str, Any]
    settings, rest = split_overrides(given, *COMPARE_KEYS)
    vary, rest = split_overrides(rest, "vary.")
    cluster, rest = split_overrides(rest, "slurm.")
    file = read_study_file(settings["study"]) if "study" in settings else {}
    check_trusted_files(file, given)
    settings = {key: file[key] for key in COMPARE_KEYS if key in file} | settings
    budget = str(settings.get("budget", "steps"))
    check_choice("budget", budget, BUDGETS)
    rows, common = plan_rows(settings, file, vary), common_overrides(rest, file)
    check_options_have_rows(rows, common)
    plan = StudyPlan(
        rows,
        parse_seeds(settings.get("seeds", "")),
        common,
        ComparisonFolder(expanded(str(settings.get("output", "")))),
        budget,
        str(settings.get("launcher", "local")),
        parse_jobs(settings.get("jobs")),
        cluster=tuple((key.removeprefix("slurm."), value) for key, value in cluster.items()),
    )
    check_rows(plan.rows)
    return (
        plan
        if settings.get("output")
        else replace(plan, folder=ComparisonFolder(default_study_folder(plan.first_config())))
    )


def common_overrides(given: Sequence[str], file: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that all runs share: the file's, then those `given` that are keys of a run. Raises UserError for
    one that each run sets itself."""
    of_file = flat_overrides({key: value for key, value in file.items() if key not in (*COMPARE_KEYS, "vary", "rows")})
    common = [*of_file, *given]
    instead = {"method": "methods=A,B", "seed": "seeds=0,1,2", "resume": "nothing instead, since it always continues"}
    refused, _ = split_overrides(common, *instead)
    if refused:
        key, text = next(iter(refused.items()))
        raise UserError(f"{key}={text} belongs to a single run; a comparison takes {instead[key]}")
    return tuple(common)


def plan_rows(settings: Mapping[str, Any], file: Mapping[str, Any], vary: Mapping[str, str]) -> tuple[StudyRow, ...]:
    """The rows that `methods`, the file's `rows`, `baseline` and `vary` ask for."""
    rows = [parse_row(spec) for spec in split_commas(settings.get("methods", ""))]
    rows += [StudyRow(str(name), parse_row(spec).overrides) for name, spec in file.get("rows", {}).items()]
    wants_baseline = str(settings.get("baseline", "true")).lower() not in ("false", "no", "0")
    if wants_baseline and all(f"method={BASELINE}" not in row.overrides for row in rows):
        rows = [StudyRow(BASELINE, (f"method={BASELINE}",)), *rows]
    varied = dict(file.get("vary", {})) | {key.removeprefix("vary."): value for key, value in vary.items()}
    return tuple(vary_rows(rows, {key: split_commas(value) for key, value in varied.items()}))


def check_trusted_files(file: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise UserError for a Python file that only a study file names: it would be executed, and may be a stranger's."""
    trust, _ = split_overrides(overrides, "plugins.trust")
    if parse_value(trust.get("plugins.trust", "false"), bool, "plugins.trust"):
        return
    study, rest = split_overrides(overrides, "study")
    named = set(python_files_in(rest).values())
    foreign = [text for text, path in python_files_in(file).items() if path not in named]
    if foreign:
        raise untrusted_file(foreign[0], f"study={study['study']}")


def read_study_file(name: str) -> dict[str, Any]:
    """A file of configs/study/ by its name, or any file by its path. Raises UserError where there is none, or one of
    its keys holds a value of the wrong kind."""
    known = recipes("study")
    if name not in known and not expanded(name).is_file():
        raise unknown("study", name, known, f"study={name} (or the path of a file)")
    file = known.get(name, expanded(name))
    study = read_file(file)
    for key, value in study.items():
        check_study_key(file, key, value)
    return study


def check_study_key(file: Path, key: str, value: Any) -> None:
    """Raise UserError where a key of a study file holds a value of the wrong kind."""

    def is_text(item: Any) -> bool:
        return isinstance(item, str)

    def is_several(item: Any) -> bool:
        return is_text(item) or (isinstance(item, list) and all(map(is_text, item)))

    def of_each(fits: Callable[[Any], bool]) -> bool:
        return isinstance(value, dict) and all(map(fits, value.values()))

    takes, fits = {
        "rows": (
            "a name and a method each, as `rows: {soft: farcluss}`",
            of_each(lambda item: is_text(item) and bool(item)),
        ),
        "vary": ("a key and its values each, as `vary: {train.crop: [96, 128]}`", of_each(is_several)),
        "methods": ("values between commas, or a list of them", is_several(value)),
        "seeds": ("values between commas, or a list of them", is_several(value)),
    }.get(key, ("one value", key not in COMPARE_KEYS or is_text(value)))
    if not fits:
        raise UserError(f"{file}: {key} takes {takes}; got {brief(value)}")


def split_commas(text: Any) -> list[str]:
    """The parts between commas, but not at commas within brackets."""
    if isinstance(text, list):
        return [str(part) for part in text]
    parts, depth = [""], 0
    for letter in str(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def parse_row(spec: str) -> StudyRow:
    """`unimatch+pixcon:strength=0.2:train.fuse=true` as a row: a method (`unimatch:release` with its release's
    switches), then overrides. A key without a dot that is no key of a run is an option of the method named last; a
    Python file as method goes by its name. Raises UserError for a part that is no key=value."""
    method, *parts = str(spec).split(":")
    release = RELEASE if parts[:1] == [RELEASE[1:]] else ""
    overrides, (method, _) = [f"method={method}{release}"], local_files(method)
    parts = parts[1:] if release else parts
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(f"methods: '{part}' of '{spec}' is not key=value; expected METHOD:key=value:...")
        if "." not in key and key not in field_types(Config):
            key = f"options.{method.rpartition('+')[2]}.{key}"
        overrides.append(f"{key}={value}")
    return StudyRow(":".join([method + release, *parts]), tuple(overrides))


def vary_rows(rows: Sequence[StudyRow], vary: Mapping[str, Sequence[str]]) -> list[StudyRow]:
    """Each row once for each combination of the values of the keys that apply to it."""
    varied = []
    for row in rows:
        keys = [key for key in vary if applies_to(key, row)]
        for values in itertools.product(*(vary[key] for key in keys)):
            more = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
            short = [f"{key.rpartition('.')[2]}={value}" for key, value in zip(keys, values, strict=True)]
            varied.append(StudyRow(":".join([row.name, *short]), (*row.overrides, *more)))
    return varied


def applies_to(key: str, row: StudyRow) -> bool:
    """Whether a row can vary by the key: an option only where its method is part of the row, other keys always."""
    return option_method(key) in (None, *method_names(row.overrides))


def check_options_have_rows(rows: Sequence[StudyRow], common: Sequence[str]) -> None:
    """Raise UserError for an option, of those that all rows share, of a method that no row has."""
    options = {argument: option_method(argument.partition("=")[0]) for argument in common}
    found = {name for row in rows for name in method_names([*common, *row.overrides])}
    for argument, method in options.items():
        if method is not None and method not in found:
            raise unknown("method", method, found, f"{argument} (no row has it)")


def method_of(overrides: Sequence[str]) -> str:
    """The method that the overrides of a row name, or `` where they name none."""
    return split_overrides(overrides, "method")[0].get("method", "")


def flat_overrides(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A tree of text as `a.b.c=value` arguments."""
    overrides = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            overrides += flat_overrides(value, f"{prefix}{key}.")
        else:
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
            overrides.append(f"{prefix}{key}={text}")
    return overrides


def parse_seeds(text: Any) -> tuple[int, ...]:
    parts = split_commas(text)
    wrong = next((part for part in parts if not re.fullmatch(r"\d+", part)), None)
    if wrong is not None:
        raise UserError(f"seeds takes whole numbers, as seeds=0,1,2; got '{wrong}'")
    seeds = tuple(int(part) for part in parts) or DEFAULT_SEEDS
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={','.join(map(str, seeds))}: each seed may be given once")
    return seeds


def parse_jobs(text: Any) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*", str(text)):
        raise UserError(f"jobs takes a number of runs at a time, at least 1; got '{text}'")
    return int(text)


def check_row_names(plan: StudyPlan) -> None:
    """Raise UserError for the names and keys of all rows that are misspelt, before torch is imported."""
    problems = []
    for row in plan.rows:
        try:
            check_names(plan.runs_of(row)[0].config())
        except UserError as error:
            problems.append(f"{row.name}: {error}")
    if problems:
        raise UserError("; ".join(problems))


def check_rows(rows: Sequence[StudyRow]) -> None:
    """Raise UserError for fewer than two rows, for two equal rows, and for a name that makes no folder of its own."""
    if len(rows) < 2:
        raise UserError("a comparison takes two methods or more, as methods=fixmatch,unimatch")
    for row in rows:
        if not row.folder_name.strip("."):
            raise UserError(
                f"the row '{brief(row.name)}' needs a letter or digit in its name, which is also the name of its folder"
            )
    for one, other in itertools.combinations(rows, 2):
        both = f"the rows '{brief(one.name)}' and '{brief(other.name)}'"
        if one == other:
            raise UserError(f"methods: '{brief(one.name)}' is given twice")
        if one.overrides == other.overrides:
            raise UserError(f"{both} are the same; remove one of them")
        if one.folder_name == other.folder_name:
            raise UserError(f"{both} would share the folder {one.folder_name}: rename one of them")


def default_study_folder(config: Config) -> Path:
    """runs/compare/<dataset>/<split>."""
    return Path("runs", "compare", config.dataset, split_folder_name(config.data.split))
