"""`ssss`: words in, one call, mistakes on one line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ssss_zoo import __version__

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # spinning threads slow a shared machine tenfold; before torch loads

FEW_PIXELS_USED = 0.005  # share of pixels at the end of a run; below it a hint is printed (our choice)
LISTED_KINDS = ["methods", "hooks", "datasets", "models", "protocols"]  # of `ssss list`
WORDS = click.argument("words", nargs=-1, metavar="[key=value ...]")


class Command(click.Group):
    """The group of commands; turns what a person can fix into one line and exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; its errors become a line."""
        from ssss_zoo.errors import MEMORY, Interrupted, UserError, out_of_memory
        from ssss_zoo.text import visible

        try:
            return super().invoke(context)
        except UserError as error:
            click.echo(f"ssss: {visible(' '.join(str(error).split()))}", err=True)
            context.exit(2)
        except (Interrupted, KeyboardInterrupt) as error:
            click.echo(f"ssss: {error if str(error) else 'stopped'}", err=True)
            context.exit(130)
        except Exception as error:
            if not out_of_memory(error):
                raise
            click.echo(f"ssss: {MEMORY}", err=True)
            context.exit(2)


def say(line: object, err: bool = False) -> None:
    """A line on the screen. Names of files and classes in it are other people's: text, whatever they hold."""
    from ssss_zoo.text import visible

    click.echo(visible(str(line)), err=err)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ssss")
def main() -> None:
    """Semi-supervised semantic segmentation: run methods, mix their parts, compare them.

    \b
    ssss run                                        FARCLUSS on the embedded data set `shapes`
    ssss run method=unimatch dataset=voc            a method of the field on a benchmark
    ssss run method=fixmatch dataset=folder data.root=DIR        your own images
    ssss run method=fixmatch hooks.class_weight=farcluss         a part of another method
    """


@main.command()
@WORDS
def compare(words: tuple[str, ...]) -> None:
    """Run methods side by side, same data, budget, network and seeds, and put their figures into one table.

    \b
    methods=fixmatch,unimatch+pixcon,farcluss:top_k=1   rows; `supervised` is added unless baseline=false
    seeds=0,1,2                      a run of each row with each
    study=farcluss-ablation          rows from a file of configs/study/, or of your own
    vary.train.crop=96,128           every row once with each value
    dataset=camvid data.root=DIR train.steps=1000 ...   words of `ssss run`, for every row
    output=DIR jobs=2                where to; runs at a time
    launcher=slurm slurm.timeout_min=600   a SLURM job each (or launcher=ray); needs the extra of that name
    The same command goes on where it stopped; rows and seeds may be added.
    """
    from rich.console import Console

    from ssss_zoo.comparison.report.tables import screen_table, table_notes
    from ssss_zoo.comparison.study import run_study
    from ssss_zoo.text import visible

    result = run_study(words, notify=lambda line: say(line, err=True))
    console = Console()
    console.print(screen_table(result.record))
    for note in table_notes(result.record):
        console.print(visible(note), soft_wrap=True, markup=False, highlight=False)
    say(f"in {result.folder}: report.html, compare.md, compare.csv, compare.tex, compare.json, runs")
    sys.exit(2 if result.record.failed else 0)


@main.command()
@WORDS
def search(words: tuple[str, ...]) -> None:
    """Find the mix of known parts that is best on your data for a budget, on held-out labelled images, never on val.

    \b
    dataset=folder data.root=DIR train.steps=500 ...      words of `ssss run`: data, budget, network
    trials=30                        how many runs (the same command goes on to more)
    data.hold_out=0.25               share of the labelled images that decides
    try.method=fixmatch,farcluss     what is tried; without any: methods, and whose weights of pixels and classes
    try.optim.lr=1e-4..1e-2          a range, on a logarithmic scale where it spans more than ten
    """
    from rich.console import Console

    from ssss_zoo.comparison.search import run_search

    found = run_search(words, notify=lambda line: say(line, err=True))
    Console().print(found.table())
    say(f"the winner, trained on all labelled images: {found.command}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Make report.html of a comparison again, from the files in its FOLDER alone."""
    from ssss_zoo.comparison.folders import ComparisonFolder
    from ssss_zoo.comparison.report.html import write_report

    say(write_report(ComparisonFolder(folder)))


@main.command()
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A YAML file, such as a run's config.yaml."
)
@click.option("--trace", is_flag=True, help="Print each hook call of the first steps: who answered, shapes, time.")
@WORDS
def run(words: tuple[str, ...], config_file: Path | None, trace: bool) -> None:
    """Train, evaluate, log and save one run; resume=true continues a stopped one.

    \b
    method=farcluss dataset=shapes   names from `ssss list`; methods may be joined by +
    hooks.pixel_weight=fixmatch      who answers one hook, instead of the method
    options.farcluss.top_k=2         an option of a method
    data.root=DIR data.split=1/8     where the data lies, which labelled list
    train.steps=1000 train.batch=4 train.crop=[160,208] optim.lr=0.01 seed=0
    output=DIR resume=true overwrite=true diagnose=true
    replay=FILE                      make a step again whose loss was not finite (not_finite/ in the run's folder)
    `ssss config` prints every key with its value.
    """
    from ssss_zoo.config.resolve import resolve

    given = [*words, *(["trace=true"] if trace else [])]
    record = next((word.partition("=")[2] for word in given if word.startswith("replay=")), None)
    if record is not None:
        from ssss_zoo.train.replay import replay

        for line in replay(Path(record), [word for word in given if not word.startswith("replay=")]):
            say(line)
        return
    config = resolve(given, config_file)
    from ssss_zoo.config.parse import located_by_key
    from ssss_zoo.train.run import run_training

    with located_by_key(config.locations):
        result = run_training(config)
    show_result(result.folder, result.metrics)


@main.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A YAML file to lay under the words.")
@WORDS
def config(words: tuple[str, ...], config_file: Path | None) -> None:
    """Print the resolved configuration as YAML; nothing is trained."""
    from ssss_zoo.config.resolve import resolve
    from ssss_zoo.config.schema import as_yaml
    from ssss_zoo.engine.registry import build_methods, make_manager, with_options

    resolved = resolve(words, config_file)
    methods = build_methods(resolved)
    make_manager(resolved, methods)
    click.echo(as_yaml(with_options(resolved, methods)), nl=False)


@main.command("list")
@click.argument("kind", required=False, type=click.Choice(LISTED_KINDS))
@click.option("--json", "as_json", is_flag=True, help="A list of objects with at least `name`.")
def list_(kind: str | None, as_json: bool) -> None:
    """What is installed, from plugins too: methods, hooks, datasets, models, protocols."""
    from ssss_zoo.engine.catalog import listing

    found = {name: listing(name) for name in ([kind] if kind else LISTED_KINDS)}
    if as_json:
        click.echo(json.dumps([{"kind": name, **item} for name, items in found.items() for item in items], indent=1))
        return
    for name, items in found.items():
        click.echo(f"{name}:")
        for item in items:
            say(f"  {item['name']:<14} {item['about']}")


@main.command()
@click.argument("name")
@click.option("--file", "single", is_flag=True, help="One file and its test, no package.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Make the package of a file that you have.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(), help="The folder to write into.")
def new(name: str, single: bool, source: Path | None, output: Path) -> None:
    """A method to start from: a package with its tests, or with --file one file and its test.

    \b
    ssss new my-idea --file      then: ssss run method=./my_idea.py dataset=shapes train.steps=60
    ssss new my_idea --from my_idea.py    the same as a package, its recipe and card along
    ssss new my-idea             a package anew; then: cd my-idea, and pip install -e '.[test]' && pytest
    """
    from ssss_zoo.commands.new import new as write

    written = write(name, single, output, source)
    for file in written:
        say(file)
    if single:
        say(f"next: ssss run method={written[0]} dataset=shapes train.steps=60, and pytest {written[1]}")
    else:
        say(f"next: cd {output / name} && pip install -e '.[test]' && pytest")


@main.command()
@WORDS
def inspect(words: tuple[str, ...]) -> None:
    """Draw one step as a picture: views with their boxes, pseudo-labels, confidence, weights, who answered which hook.

    \b
    method=NAME dataset=NAME ...     words of `ssss run`
    after=50                         train so many steps first (default 0)
    run=DIR                          or take the weights of a run, and what it was told
    images=4 file=inspect.png        how many of the batch; where to
    """
    from ssss_zoo.train.inspect_step import inspect_words

    picture, file = inspect_words(words)
    picture.save(file)
    say(file)


@main.command()
@click.argument("method")
def card(method: str) -> None:
    """The card of a method: idea, hooks, knobs, cost, published figures, deviations, citation."""
    from rich.console import Console
    from rich.markdown import Markdown

    from ssss_zoo.engine.catalog import read_card
    from ssss_zoo.text import visible

    lines = read_card(method).expandtabs().splitlines()
    Console().print(Markdown("\n".join(map(visible, lines))))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@WORDS
def evaluate(words: tuple[str, ...], as_json: bool) -> None:
    """mIoU and per-class IoU of a finished run.

    \b
    run=DIR                          the run's folder (required)
    on=val|labelled|unlabelled|LIST  which images; LIST is a file of `<image> <mask>` lines (default val)
    weights=last|best                which checkpoint (default last)
    evaluate.mode=sliding data.root=DIR ...   any evaluate.*, data.* or train.device key
    """
    from ssss_zoo.text import count
    from ssss_zoo.train.reevaluate import evaluate_run

    figures = evaluate_run(words)
    if as_json:
        click.echo(json.dumps(figures, indent=1))
    else:
        show_figures(
            f"{figures['run']}, {figures['weights']} weights, on {figures['on']} ({count(figures['images'], 'image')})",
            figures,
        )


@main.group()
def data() -> None:
    """Fetch benchmarks, audit a data set, draw labelled lists, look at images."""


@data.command()
@click.option("--yes", is_flag=True, help="Agree to licence, sizes and sources without being asked.")
@WORDS
def prepare(words: tuple[str, ...], yes: bool) -> None:
    """Fetch a benchmark from its publishers, unpack it and make its masks; given again, it goes on where it stopped.

    \b
    dataset=voc|cityscapes|ade20k|coco|camvid     which (Cityscapes: it says what you must download yourself)
    data.root=DIR                    where to (default $SSSS_DATA/<dataset>); archives stay in DIR/archives
    """
    from ssss_zoo.commands.data import prepare_words

    for line in prepare_words(words, agreed=yes):
        say(line)


@data.command()
@click.option("--json", "as_json", is_flag=True, help="Print findings and figures as JSON.")
@WORDS
def check(words: tuple[str, ...], as_json: bool) -> None:
    """Read every file of a data set and say all that is wrong: exit code 0 clean, 1 with warnings, 2 unusable.

    \b
    dataset=folder data.root=DIR     what to check, with any data.* key
    train.crop=321 train.batch=8     what the run will use, for the advice on sizes
    """
    from ssss_zoo.commands.data import check_words, show_report

    report = check_words(words)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=1))
    else:
        show_report(report)
    sys.exit(report.code)


@data.command()
@WORDS
def split(words: tuple[str, ...]) -> None:
    """Draw labelled lists that lie within each other and show every class as early as can be, and write them.

    \b
    dataset=folder data.root=DIR     of which data set; the lists go to DIR/splits
    sizes=1/16,1/8,30                how many labelled images each list has
    seed=0 overwrite=true            another drawing; replace lists that are there
    """
    from ssss_zoo.commands.data import split_words

    for line in split_words(words):
        say(line)


@data.command()
@WORDS
def preview(words: tuple[str, ...]) -> None:
    """Make a picture of what a run will see: images, masks over them, weak and strong views, shares of the classes.

    \b
    dataset=folder data.root=DIR     of which data set
    file=preview.png count=6         where to, how many images
    train.crop=321 augment.hue=0.1   with any key that the views depend on
    """
    from ssss_zoo.commands.data import preview_words

    say(preview_words(words))


def show_figures(title: str, figures: dict[str, Any]) -> None:
    from rich.console import Console

    from ssss_zoo.train.console import iou_table

    Console().print(iou_table(title, networks_of(figures)))


def networks_of(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in figures.items() if isinstance(part, dict) and "miou" in part}


def show_result(folder: Path, metrics: Mapping[str, Any]) -> None:
    """The end of a run: its figures, where everything lies, what to type next."""
    from ssss_zoo.train.console import share
    from ssss_zoo.train.run_folder import RunFolder

    if metrics["val"]:
        show_figures(f"{metrics['method']} on {metrics['dataset']}, step {metrics['step']}", metrics["val"])
        best = metrics["best"]
        say(f"best {best['network']} mIoU {100 * best['miou']:.2f} at step {best['step']}")
        for line in compare_with_earlier_runs(folder, metrics):
            say(line)
    used = (metrics["pseudo_labels"] or {}).get("used")
    if used is not None and used < FEW_PIXELS_USED:
        say(
            f"pixels used {share(used)} at the last log step: the unlabelled images taught next to nothing; train "
            "longer, or lower the method's threshold if it has one (its card and `ssss config` tell)"
        )
    spent = metrics["time"]
    click.echo(
        f"trained {spent['train_seconds']:.0f} s ({spent['steps_per_second']:.2f} steps/s, waited "
        f"{spent['data_wait_seconds']:.1f} s for data), evaluated {spent['evaluate_seconds']:.0f} s, peak memory "
        f"{spent['peak_memory_bytes'] / 2**30:.1f} GiB"
    )
    say(f"in {folder}: {', '.join(path.name for path in RunFolder(folder).written() if path.exists())}")
    say(f"next: ssss evaluate run={folder} on=labelled    or the same with another method= to compare")


def compare_with_earlier_runs(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """A line for each finished run of another method on the same data, steps and seed, in the default folders, and for
    each whose metrics cannot be read."""
    from ssss_zoo.errors import UserError
    from ssss_zoo.record_files import read_metrics
    from ssss_zoo.train.run_folder import RunFolder

    lines = []
    methods = folder.resolve().parents[2]
    for neighbour in sorted(methods.glob(f"*/{folder.parent.name}/{folder.name}")):
        file = RunFolder(neighbour).metrics
        if not file.exists():
            continue
        try:
            other: Mapping[str, Any] = read_metrics(file, "run it again to compare with it")
        except UserError as error:
            lines.append(f"not compared: {error}")
            continue
        same = all(other[key] == metrics[key] for key in ("dataset", "split", "seed", "step", "status"))
        same = same and other["data"]["fingerprint"] == metrics["data"]["fingerprint"]
        if same and other["method"] != metrics["method"] and other["val"]:
            gain = 100 * (metrics["val"]["miou"] - other["val"]["miou"])
            lines.append(
                f"earlier run with the same data, steps and seed: {other['method']} {100 * other['val']['miou']:.2f} "
                f"mIoU; {metrics['method']} is {abs(gain):.2f} {'higher' if gain >= 0 else 'lower'}"
            )
    return lines


def command_line(words: Iterable[str]) -> int:
    """Run the command line in this process and return its exit code (for tests and notebooks)."""
    try:
        main.main(args=list(words), prog_name="ssss", standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(command_line(sys.argv[1:]))
