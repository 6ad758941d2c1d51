"""What is compared: rows (methods, mixes, variants) times seeds, all else the same."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssss_zoo.config.layers import RELEASE, files_in, local_files, not_trusted, recipes
from ssss_zoo.config.parse import read_file, read_words
from ssss_zoo.config.schema import Config, resolve, take_trust
from ssss_zoo.errors import UserError, check_choice, expanded, unknown
from ssss_zoo.text import brief

OWN = ("methods", "seeds", "study", "baseline", "budget", "output", "launcher", "jobs")  # words that are not a run's
BASELINE = "supervised"
BUDGETS = ("steps", "time")
LONGEST = 200  # bytes of a folder's name: file systems take 255
SEEDS = (0, 1, 2)  # of a study that names none (our choice: a spread needs three)


@dataclass(frozen=True)
class Row:
    """What is compared with the others. name: as the table calls it; words: of the command line that make it."""

    name: str
    words: tuple[str, ...]

    @property
    def slug(self) -> str:
        """A folder's name; of a very long one the beginning, and a digest of all."""
        name = re.sub(r"[^\w.+-]+", "_", self.name).strip("_")
        digest = hashlib.sha256(self.name.encode(errors="replace")).hexdigest()[:8]
        return name if len(name.encode(errors="replace")) <= LONGEST else f"{name[: LONGEST // 4]}-{digest}"


@dataclass(frozen=True)
class Study:
    """rows times seeds, with `words` common to all. budget: every row trains the same `steps`, or the same
    `time`, as long as the first row does with its steps. parent: the MLflow run that theirs are shown under;
    cluster: what a launcher is told of resources, by name.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    words: tuple[str, ...]
    folder: Path
    budget: str = "steps"
    launcher: str = "local"
    jobs: int | None = None
    parent: str | None = None
    cluster: tuple[tuple[str, str], ...] = ()

    def cells(self) -> list[Cell]:
        """Every run of the study, seed by seed, so that each row has a figure as soon as can be."""
        return [Cell(row, seed, self) for seed in self.seeds for row in self.rows]


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    row: Row
    seed: int
    study: Study

    @property
    def folder(self) -> Path:
        return self.study.folder / "runs" / self.row.slug / f"seed{self.seed}"

    @property
    def words(self) -> list[str]:
        """Those of `ssss run` that make the very same run."""
        parent = [f"tracking.parent={self.study.parent}"] if self.study.parent else []
        return [*self.study.words, *self.row.words, f"seed={self.seed}", f"output={self.folder}", *parent]

    def config(self) -> Config:
        return resolve(self.words)


# --- reading --------------------------------------------------------------------------------------------------------


def read_study(words: Iterable[str]) -> Study:
    """The study that the words describe, those of a study file under them.

    `methods=a,b+c,d:key=value` (a key without a dot is an option of d's method), `seeds=0,1,2`, `study=NAME` or a path,
    `vary.<key>=a,b` (every row that it concerns, once for each value), `baseline=false` (no supervised row of its own
    accord), `budget=steps|time`, and words of `ssss run`. Raises UserError for what makes no comparison.
    """
    given = list(words)
    wrong = next((word for word in given if "=" not in word), None)
    if wrong is not None:
        raise UserError(f"expected key=value, got '{wrong}'; for example methods=fixmatch,unimatch seeds=0,1,2")
    pairs = [(word.partition("=")[0], word.partition("=")[2]) for word in given]
    own = {key: value for key, value in pairs if key in OWN}
    file = study_file(own["study"]) if "study" in own else {}
    check_files(file, given)
    own = {key: file[key] for key in OWN if key in file} | own
    vary = dict(file.get("vary", {})) | {key.removeprefix("vary."): v for key, v in pairs if key.startswith("vary.")}
    common = [*flat_words({k: v for k, v in file.items() if k not in (*OWN, "vary", "rows")})]
    of_run = [word for word in given if not word.startswith(("vary.", "slurm."))]
    common += [word for word in of_run if word.partition("=")[0] not in OWN]
    refuse_words_of_rows(common)
    rows = [row_of(spec) for spec in split_commas(own.get("methods", ""))]
    rows += [Row(str(name), tuple(row_of(spec).words)) for name, spec in file.get("rows", {}).items()]
    wanted = str(own.get("baseline", "true")).lower() not in ("false", "no", "0")
    if wanted and all(f"method={BASELINE}" not in row.words for row in rows):
        rows = [Row(BASELINE, (f"method={BASELINE}",)), *rows]
    rows = varied(rows, {key: split_commas(value) for key, value in vary.items()})
    check_choice("budget", str(own.get("budget", "steps")), BUDGETS)
    study = Study(
        tuple(rows),
        seeds_of(own.get("seeds", "")),
        tuple(common),
        expanded(str(own["output"])) if own.get("output") else Path(),
        str(own.get("budget", "steps")),
        str(own.get("launcher", "local")),
        jobs_of(own.get("jobs")),
        cluster=tuple((key.removeprefix("slurm."), value) for key, value in pairs if key.startswith("slurm.")),
    )
    check_rows(study.rows)
    return study if own.get("output") else replace(study, folder=usual_folder(study))


def check_files(file: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raise UserError for a Python file that a study file alone names: it would be run, and is perhaps a stranger's."""
    if take_trust(read_words(word for word in words if word.startswith("plugins.trust="))):
        return
    named = set(files_in([word for word in words if not word.startswith("study=")]).values())
    foreign = [text for text, path in files_in(file).items() if path not in named]
    if foreign:
        raise not_trusted(foreign[0], next(word for word in words if word.startswith("study=")))


def study_file(name: str) -> dict[str, Any]:
    """A file of configs/study/ by its name, or any by its path. Raises UserError where there is none, or its keys hold
    what they cannot."""
    known = recipes("study")
    if name not in known and not expanded(name).is_file():
        raise unknown("study", name, known, f"study={name} (or the path of a file)")
    file = known.get(name, expanded(name))
    study = read_file(file)
    for key, value in study.items():
        check_kind(file, key, value)
    return study


def check_kind(file: Path, key: str, value: Any) -> None:
    """Raise UserError where a key of a study file holds another kind of thing than it takes."""
    is_text = lambda item: isinstance(item, str)  # noqa: E731
    is_several = lambda item: is_text(item) or (isinstance(item, list) and all(map(is_text, item)))  # noqa: E731
    of_each = lambda fits: isinstance(value, dict) and all(map(fits, value.values()))  # noqa: E731
    takes, fits = {
        "rows": ("a name and a method each, as `rows: {soft: farcluss}`", of_each(lambda item: is_text(item) and item)),
        "vary": ("a key and its values each, as `vary: {train.crop: [96, 128]}`", of_each(is_several)),
        "methods": ("values between commas, or a list of them", is_several(value)),
        "seeds": ("values between commas, or a list of them", is_several(value)),
    }.get(key, ("one value", key not in OWN or is_text(value)))
    if not fits:
        raise UserError(f"{file}: {key} takes {takes}; got {brief(value)}")


def split_commas(text: Any) -> list[str]:
    """Parts between commas that are in no brackets."""
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


def row_of(spec: str) -> Row:
    """`unimatch+pixcon:strength=0.2:train.fuse=true` as a row: a method (`unimatch:release` with its release's
    switches) and words; a key without a dot that is none of a run's is an option of the last method named, and a file
    goes by its name. Raises UserError for a part that is no key=value."""
    method, *parts = str(spec).split(":")
    release = RELEASE if parts[:1] == [RELEASE[1:]] else ""
    words, (method, _) = [f"method={method}{release}"], local_files(method)
    parts = parts[1:] if release else parts
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UserError(f"methods: '{part}' of '{spec}' is no key=value; expected METHOD:key=value:...")
        if "." not in key and key not in vars(Config()):
            key = f"options.{method.rpartition('+')[2]}.{key}"
        words.append(f"{key}={value}")
    return Row(":".join([method + release, *parts]), tuple(words))


def varied(rows: Sequence[Row], vary: Mapping[str, Sequence[str]]) -> list[Row]:
    """Each row once for each combination of values, of those keys that concern it (an option concerns its method)."""
    found = []
    for row in rows:
        keys = [key for key in vary if concerns(key, row)]
        for values in itertools.product(*(vary[key] for key in keys)):
            more = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
            short = [f"{key.rpartition('.')[2]}={value}" for key, value in zip(keys, values, strict=True)]
            found.append(Row(":".join([row.name, *short]), (*row.words, *more)))
    return found


def concerns(key: str, row: Row) -> bool:
    if not key.startswith("options."):
        return True
    method = next((word.partition("=")[2] for word in row.words if word.startswith("method=")), "")
    return key.split(".")[1] in resolve([f"method={method}", "train.steps=1"]).plugins.names


def flat_words(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A tree of text as words of the command line."""
    words = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            words += flat_words(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={'[' + ','.join(map(str, value)) + ']' if isinstance(value, list) else value}")
    return words


def seeds_of(text: Any) -> tuple[int, ...]:
    parts = split_commas(text)
    wrong = next((part for part in parts if not re.fullmatch(r"\d+", part)), None)
    if wrong is not None:
        raise UserError(f"seeds takes whole numbers, as seeds=0,1,2; got '{wrong}'")
    seeds = tuple(int(part) for part in parts) or SEEDS
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={','.join(map(str, seeds))}: one is there twice")
    return seeds


def jobs_of(text: Any) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*", str(text)):
        raise UserError(f"jobs takes a number of runs at a time, at least 1; got '{text}'")
    return int(text)


def refuse_words_of_rows(words: Sequence[str]) -> None:
    """Raise UserError for a word that each cell sets itself."""
    for word in words:
        key = word.partition("=")[0]
        mend = {"method": "methods=A,B", "seed": "seeds=0,1,2", "resume": "nothing: a comparison always goes on"}
        if key in mend:
            raise UserError(f"{word} is one run's; a comparison takes {mend[key]}")


def check_rows(rows: Sequence[Row]) -> None:
    """Raise UserError for fewer than two rows, for two that are the same, and for a name that makes no folder."""
    if len(rows) < 2:
        raise UserError("a comparison takes two methods or more, as methods=fixmatch,unimatch")
    for index, row in enumerate(rows):
        if not row.slug.strip("."):
            raise UserError(
                f"the row '{brief(row.name)}' needs a letter or digit in its name: its folder is called by it"
            )
        for other in rows[:index]:
            if row.words == other.words and row.name == other.name:
                raise UserError(f"methods: '{brief(row.name)}' is there twice")
            if row.words == other.words:
                raise UserError(
                    f"the rows '{brief(other.name)}' and '{brief(row.name)}' are the same; take one of them"
                )
            if row.slug == other.slug:
                raise UserError(
                    f"the rows '{brief(other.name)}' and '{brief(row.name)}' would share the folder {row.slug}: call "
                    "one of them otherwise"
                )


def usual_folder(study: Study) -> Path:
    """runs/compare/<dataset>/<split>."""
    config = study.cells()[0].config()
    split = Path(config.data.split).stem if Path(config.data.split).suffix else config.data.split.replace("/", "_")
    return Path("runs", "compare", config.dataset, split)
