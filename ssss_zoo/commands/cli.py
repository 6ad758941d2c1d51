"""The commands of `ssss`: what each takes. Each makes one call and prints the result; heavy imports wait until then."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssss_zoo import __version__
from ssss_zoo.commands.command_group import WELCOME, CommandGroup
from ssss_zoo.commands.completion import complete_method, complete_override
from ssss_zoo.commands.show import (
    print_command,
    print_json,
    print_line,
    show_card,
    show_comparison,
    show_evaluation,
    show_labels,
    show_listing,
    show_predictions,
    show_result,
    show_search,
    show_taken_labels,
    show_timed,
)
from ssss_zoo.errors import UserError
from ssss_zoo.stopping import Stop

if TYPE_CHECKING:
    from ssss_zoo.planning.timed_training import TimedResult

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # spinning threads slow a shared machine tenfold; before torch loads

LISTED_KINDS = ["methods", "hooks", "datasets", "models", "protocols"]
takes_overrides = click.argument("overrides", nargs=-1, metavar="[key=value ...]", shell_complete=complete_override)


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ssss")
@click.pass_context
def main(context: click.Context) -> None:
    """Semi-supervised semantic segmentation: run methods, mix their parts, compare them.

    \b
    ssss run                                       FARCLUSS on small drawn scenes
    ssss run method=unimatch dataset=voc           another method on a benchmark
    ssss run dataset=folder data.root=DIR          your own images
    ssss run method=fixmatch hooks.class_weight=farcluss      a part of another
    """
    if context.invoked_subcommand is None:
        click.echo(WELCOME, nl=False)


@main.command("compare", short_help="Train methods on equal terms, make a report")
@click.option("--json", "as_json", is_flag=True, help="Print what compare.json holds.")
@takes_overrides
def compare_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Train several methods on the same data, budget, network and seeds, and put
    their figures into one table and a report.

    \b
    ssss compare methods=fixmatch,farcluss seeds=0,1,2
    ssss compare study=farcluss-ablation dataset=voc output=runs/ablation

    \b
    methods=fixmatch,unimatch+pixcon,farcluss:top_k=1
                          rows; `supervised` is added unless baseline=false
    seeds=0,1,2           each row is trained once with each
    study=NAME            rows from a file of configs/study/, or your own file
    vary.train.crop=96,128    each row once with each value
    dataset=camvid data.root=DIR train.steps=1000 ...   as in `ssss run`
    output=DIR jobs=2     the folder to write; how many runs at a time
    budget=time           all rows train equally long, not equally many steps
    launcher=slurm slurm.timeout_min=600
                          one SLURM job a run (or launcher=ray); needs the
                          extra of that name
    The same command continues a stopped comparison; you may add rows and
    seeds.
    """
    from ssss_zoo.comparison.plan import check_row_names, plan_study

    check_row_names(plan_study(overrides))
    from ssss_zoo.comparison.study import run_study

    result = run_study(overrides)
    if as_json:
        print_json(result.figures)
    else:
        show_comparison(result)
    sys.exit(2 if result.record.failed else 0)


@main.command("search", short_help="Search the mix that is best on your data")
@takes_overrides
def search_command(overrides: tuple[str, ...]) -> None:
    """Find the mix of installed parts that is best on your data for a budget, on
    held-out labelled images, not on val.

    \b
    ssss search dataset=folder data.root=DIR train.steps=500 trials=30
    ssss search dataset=shapes try.optim.lr=1e-4..1e-2 trials=10

    \b
    dataset=folder data.root=DIR train.steps=500 ...    as in `ssss run`
    trials=30             number of runs (a larger number continues); the
                          same command continues a stopped search
    data.hold_out=0.25    share of the labelled images that decides
    try.method=fixmatch,farcluss    values to try; default: methods, and whose
                          pixel and class weights they use
    try.options.fixmatch.threshold=    all that the option may have, if it
                          declares choices or a range up to 100 wide; tried
                          where the trial has that method
    try.optim.lr=1e-4..1e-2    a range; its scale is logarithmic where the
                          ends differ by more than a factor of 10
    """
    from ssss_zoo.comparison.search import run_search

    show_search(run_search(overrides))


@main.command("report", short_help="Write a comparison's report again")
@click.argument("folder", type=click.Path(path_type=Path))
def report_command(folder: Path) -> None:
    """Write report.html of the comparison in FOLDER again, from the files there.

    \b
    ssss report runs/compare/shapes
    ssss report .
    """
    from ssss_zoo.comparison.folders import ComparisonFolder
    from ssss_zoo.comparison.report.html import write_report

    print_line(write_report(ComparisonFolder(folder)))


@main.command("run", short_help="Train one method; evaluate, log, save")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A YAML file, such as a run's config.yaml."
)
@click.option("--trace", is_flag=True, help="Print each hook call of the first steps: who answered, shapes, time.")
@takes_overrides
def run_command(overrides: tuple[str, ...], config_file: Path | None, trace: bool) -> None:
    """Train, evaluate, log and save one run; resume=true continues a stopped one.

    \b
    ssss run
    ssss run method=fixmatch dataset=folder data.root=DIR time=30m

    \b
    method=farcluss dataset=shapes    names from `ssss list`; + joins methods
    hooks.pixel_weight=fixmatch       the method that answers one hook
    options.farcluss.top_k=2          an option (`ssss card METHOD` lists them)
    data.root=DIR data.split=1/8      the folder of the data; labelled list
    train.steps=1000 train.batch=4    how long; labelled images in a step
    train.crop=[160,208]              height and width of the crops
    optim.lr=0.01 seed=0              learning rate; seed of all random draws
    output=DIR            the folder to write; overwrite=true replaces a run
    resume=true           continue the run in that folder
    diagnose=true         measure pseudo-labels on masks that stay hidden
    time=30m              choose what is not given for this time, as
                          `ssss plan` shows, and train also the labels alone,
                          to tell whether the unlabelled images helped
    replay=FILE           repeat a step whose loss was not finite
                          (not_finite/ in the run's folder)
    `ssss config` prints every key with its value.
    """
    began = time.perf_counter()
    from ssss_zoo.config.parse import split_overrides

    arguments = [*overrides, *(["trace=true"] if trace else [])]
    if "time" in split_overrides(arguments, "time")[0]:
        show_timed(run_timed(arguments, config_file, began))
        return
    if "replay" in split_overrides(arguments, "replay")[0]:
        print_replay(arguments)
        return
    train_one_run(arguments, config_file)


def train_one_run(arguments: list[str], config_file: Path | None) -> None:
    """`ssss run` without a time and a replay."""
    from ssss_zoo.config.parse import located_by_key
    from ssss_zoo.config.resolve import resolve
    from ssss_zoo.engine.name_checks import check_names

    config = resolve(arguments, config_file)
    check_names(config)
    from ssss_zoo.train.run import run_training

    with located_by_key(config.locations):
        result = run_training(config)
    show_result(result.folder, result.metrics, result.views)


def print_replay(arguments: list[str]) -> None:
    """`ssss run ... replay=FILE`."""
    from ssss_zoo.config.parse import split_overrides
    from ssss_zoo.train.replay import replay

    own, rest = split_overrides(arguments, "replay")
    for line in replay(Path(own["replay"]), rest):
        print_line(line)


def run_timed(arguments: list[str], config_file: Path | None, began: float) -> TimedResult:
    """`ssss run ... time=`. Raises UserError beside a file, which would settle all that a plan chooses."""
    if config_file:
        raise UserError("time= chooses the settings that --config FILE would give: leave one of them out")
    from ssss_zoo.engine.name_checks import check_spelling

    check_spelling(arguments, "time")
    from ssss_zoo.planning.timed_training import run_within_time

    return run_within_time(arguments, began, notify=lambda line: print_line(line, err=True))


@main.command("plan", short_help="Choose settings for your data and your time")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@takes_overrides
def plan_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Choose settings for a data set, this device and a time, each with its
    reason; nothing is trained.

    \b
    ssss plan dataset=folder data.root=DIR time=30m
    ssss plan dataset=shapes method=fixmatch time=5m
    then: ssss run with the same arguments

    \b
    time=30m              the time for everything: 90s, 30m, 1h30m
    method=NAME train.crop=256 ...    as in `ssss run`; what is given is kept
    """
    began = time.perf_counter()
    from ssss_zoo.engine.name_checks import check_spelling
    from ssss_zoo.planning.plan_task import check_dataset_given

    check_dataset_given(overrides)
    check_spelling(overrides, "time")
    from ssss_zoo.planning.make_plan import plan_training
    from ssss_zoo.planning.timed_training import plan_lines

    plan = plan_training(overrides, began)
    if as_json:
        print_json(plan.as_dict())
    else:
        for line in plan_lines(plan):
            print_line(line)


@main.command("config", short_help="Print every setting of a run")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="A YAML file; key=value arguments override it."
)
@takes_overrides
def config_command(overrides: tuple[str, ...], config_file: Path | None) -> None:
    """Print the resolved configuration as YAML; nothing is trained.

    \b
    ssss config method=unimatch dataset=voc
    ssss config --config runs/shapes/farcluss/all/seed0/config.yaml
    """
    from ssss_zoo.config.resolve import resolve
    from ssss_zoo.config.schema import as_yaml
    from ssss_zoo.engine.name_checks import check_names

    resolved = resolve(overrides, config_file)
    check_names(resolved)
    from ssss_zoo.engine.registry import build_methods, make_manager, with_options

    methods = build_methods(resolved)
    make_manager(resolved, methods)
    click.echo(as_yaml(with_options(resolved, methods)), nl=False)


@main.command("list", short_help="List methods, hooks, data sets, networks")
@click.argument("kind", required=False, type=click.Choice(LISTED_KINDS))
@click.option("--json", "as_json", is_flag=True, help="A list of objects with at least `name`.")
@click.option("--long", is_flag=True, help="Also the hooks of each method.")
def list_command(kind: str | None, as_json: bool, long: bool) -> None:
    """List what is installed, plugins included: methods, hooks, datasets, models,
    protocols.

    \b
    ssss list methods
    ssss list --long        with the hooks of each method
    """
    from ssss_zoo.engine import catalog

    found = {name: catalog.listing(name) for name in ([kind] if kind else LISTED_KINDS)}
    if as_json:
        print_json([{"kind": name, **item} for name, items in found.items() for item in items])
    else:
        show_listing(found, long=long)


@main.command("new", short_help="Write a method of your own to start from")
@click.argument("name")
@click.option("--file", "single", is_flag=True, help="One file and its test, no package.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Make the package from a file that you have.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(), help="The folder to write into.")
def new_command(name: str, single: bool, source: Path | None, output: Path) -> None:
    """Write a method to start from: a package with its tests, or with --file one
    file and its test.

    \b
    ssss new my-idea --file
    ssss run method=./my_idea.py dataset=shapes train.steps=60

    \b
    ssss new my_idea --from my_idea.py    a package from that file, with the
                                          recipe and card beside it
    ssss new my-idea                      a new package; then: cd my-idea
                                          pip install -e '.[test]' && pytest
    """
    from ssss_zoo.commands.new import write_method

    written = write_method(name, output, source, single=single)
    for file in written:
        print_line(file)
    if single:
        method, test = (shlex.quote(str(file)) for file in written[:2])
        print_command(f"next: ssss run method={method} dataset=shapes train.steps=60, and pytest {test}")
    else:
        print_command(f"next: cd {shlex.quote(str(output / name))} && pip install -e '.[test]' && pytest")


@main.command("inspect", short_help="Draw one training step as a picture")
@takes_overrides
def inspect_command(overrides: tuple[str, ...]) -> None:
    """Draw one step as a picture: views with their boxes, pseudo-labels,
    confidence, weights, who answered which hook.

    \b
    ssss inspect method=fixmatch dataset=shapes after=50
    ssss inspect run=DIR file=step.png

    \b
    method=NAME dataset=NAME ...    as in `ssss run`
    after=50              train so many steps first (default 0)
    run=DIR               or use weights and configuration of a run
    images=4              how many images of the batch
    file=inspect.png      the file to write (overwrite=true replaces it)
    """
    from ssss_zoo.config.parse import split_overrides
    from ssss_zoo.engine.name_checks import check_spelling

    if "run" not in split_overrides(overrides, "run")[0]:
        check_spelling(overrides, "after", "images", "file", "overwrite")
    from ssss_zoo.train.inspect_step import draw_inspection

    picture, file = draw_inspection(overrides)
    picture.save(file)
    print_line(f"{file}: are the pseudo-labels right where their weight is high, and is each view what you expect?")


@main.command("card", short_help="Show a method: idea, options, cost, figures")
@click.argument("method", shell_complete=complete_method)
def card_command(method: str) -> None:
    """Show the card of a method: idea, hooks, knobs, cost, published figures,
    deviations, citation, all options.

    \b
    ssss card farcluss
    ssss card unimatch_v2
    """
    from ssss_zoo.engine.catalog import full_card

    show_card(full_card(method))


@main.command("evaluate", short_help="Score a finished run on any images")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@takes_overrides
def evaluate_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Compute mIoU and per-class IoU of a finished run.

    \b
    ssss evaluate run=runs/shapes/farcluss/all/seed0
    ssss evaluate run=DIR on=labelled weights=best

    \b
    run=DIR               the run's folder (required)
    on=val|labelled|unlabelled|LIST    the images; LIST is a file of
                          `<image> <mask>` lines (default val)
    weights=last|best     the checkpoint (default last)
    evaluate.mode=sliding data.root=DIR ...    any evaluate.*, data.* or
                          train.device key
    """
    from ssss_zoo.train.reevaluate import evaluate_run

    figures = evaluate_run(overrides)
    if as_json:
        print_json(figures)
    else:
        show_evaluation(figures)


@main.command("predict", short_help="Write masks for new images")
@takes_overrides
def predict_command(overrides: tuple[str, ...]) -> None:
    """Predict new images with a run's network, and write a mask for each; exits
    with 1 where some cannot be read.

    \b
    ssss predict run=runs/shapes/fixmatch/all/seed0 input=photos output=masks
    ssss predict run=DIR input='scans/**/*.tif' output=DIR2 save=overlays

    \b
    run=DIR input=PATH output=DIR    input: image, folder, pattern, .txt file
                          of paths, video
    save=overlays,probabilities,uncertainty,polygons    more than masks/ and
                          predictions.csv
    encoding=training     masks with the values or colours of the training
                          masks, not class ids
    polygons=labelme|coco    the format of save=polygons (default labelme)
    weights=best|last network=student|teacher    default: the best checkpoint,
                          the reported network
    tile=512 overlap=0.25    predict in overlapping tiles of this side; large
                          images always are
    flip=true scales=[0.75,1,1.25]    average the predictions of mirrored and
                          rescaled images
    resume=true overwrite=true    continue a stopped command; replace files
    """
    from ssss_zoo.deploy.predict import predict_files
    from ssss_zoo.train.console import RunConsole

    with RunConsole(), Stop().handlers_installed():
        result = predict_files(overrides)
    show_predictions(result)
    sys.exit(1 if result.unreadable else 0)


@main.command("ui", short_help="Open MLflow's page over the runs")
@takes_overrides
def ui_command(overrides: tuple[str, ...]) -> None:
    """Serve MLflow's page on this machine and open its list of runs; Ctrl-C
    ends it.

    \b
    ssss ui                              the runs below runs/ of this folder
    ssss ui port=5001 open=false         another port, no browser

    \b
    uri=sqlite:///FILE    the store, as `tracking.uri` (default
                          sqlite:///runs/mlflow.db)
    experiment=NAME       as `tracking.experiment` (default ssss-zoo)
    """
    from ssss_zoo.commands.ui import serve_ui

    with Stop().handlers_installed():
        sys.exit(serve_ui(overrides))


@main.command("demo", short_help="Show predictions on a page of this machine")
@takes_overrides
def demo_command(overrides: tuple[str, ...]) -> None:
    """Serve a page on this machine that shows the mask, class shares and
    uncertainty of an image; Ctrl-C ends it.

    \b
    ssss demo run=DIR               then open the address that it prints
    ssss demo run=DIR run=DIR2      two runs, a slider between their overlays

    \b
    port=7860             the port (0: any free one)
    max_upload=20         the largest upload in MB
    host=0.0.0.0          let everyone on the network use it (default
                          127.0.0.1: this machine alone)
    weights=best|last network=student|teacher data.root=DIR    as in
                          `ssss predict` and `ssss label`
    """
    from ssss_zoo.deploy.demo import make_server, open_demo
    from ssss_zoo.train.console import RunConsole

    with RunConsole(), Stop().handlers_installed(), make_server(open_demo(overrides)) as server:
        print_line(f"{server.address}  (Ctrl-C ends it)")
        server.serve_forever()


@main.command("label", short_help="Choose the images to label next")
@takes_overrides
def label_command(overrides: tuple[str, ...]) -> None:
    """Choose the unlabelled images of a run that would help most if a person
    labelled them; take the labels back.

    \b
    ssss label run=DIR count=20 output=to_label
    ssss label run=DIR take=to_label      after the masks are corrected
    The first writes images, predicted masks to correct, a contact sheet.

    \b
    by=entropy|margin|confidence    the uncertainty of the network, the mean
                          over the pixels (default entropy)
    by=diversity by=random seed=0    without uncertainty; random images, to
                          compare with
    diversity=core-set|k-means++|none    how images unlike each other are
                          chosen (default core-set)
    candidates=100        of how many uncertain images the core-set chooses
                          (default half of them)
    format=labelme|coco|masks    the masks to correct: polygons in JSON, or
                          index masks
    simplify=1            pixels by which the corners of polygons may deviate,
                          so that there are fewer
    weights=best|last network=student|teacher tile=512    as in `ssss predict`
    data.root=DIR         where the data set of the run lies now
    output=DIR hidden=true    with take=: the folder of the split (default
                          FOLDER_split); the labels that the data set itself
                          has, for the images of FOLDER/label.csv
    """
    from ssss_zoo.config.parse import split_overrides
    from ssss_zoo.train.console import RunConsole

    if "take" in split_overrides(overrides, "take")[0]:
        take_labels_back(overrides)
        return
    from ssss_zoo.deploy.label import label_images

    with RunConsole(), Stop().handlers_installed():
        result = label_images(overrides)
    show_labels(result)
    sys.exit(1 if result.unreadable else 0)


def take_labels_back(overrides: tuple[str, ...]) -> None:
    """`ssss label ... take=FOLDER`."""
    from ssss_zoo.deploy.take_labels import take_labels
    from ssss_zoo.train.console import RunConsole

    with RunConsole(), Stop().handlers_installed():
        taken = take_labels(overrides)
    show_taken_labels(taken)


@main.command("export", short_help="Write the network for use elsewhere")
@click.option("--json", "as_json", is_flag=True, help="Print the differences and latencies as JSON.")
@takes_overrides
def export_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Write a run's network as a model that runs elsewhere, and check it against
    the network on real images.

    \b
    ssss export run=DIR output=model.onnx
    ssss export run=DIR output=model.pt2 argmax=true
    The first is for onnxruntime, with a runnable example beside it; the
    second for torch alone, and gives class ids.

    \b
    format=onnx|torch|safetensors    default torch for a .pt2 file, else onnx;
                          safetensors: a folder that ssss_zoo.load reads
    range=1 argmax=true half=true    images in [0, 1], not [0, 255]; class
                          ids, not logits; float16
    opset=20 weights=last|best network=student|teacher overwrite=true
    images=PATH           images of the check (default: validation images of
                          the run's data)
    max_difference=0.001 max_mismatch=0.0001    bounds of the check; above
                          them nothing is written
    """
    from ssss_zoo.deploy.export import export_lines, export_run

    result = export_run(overrides)
    if as_json:
        print_json(result.as_dict())
    else:
        for line in export_lines(result):
            print_line(line)


@main.command("push", short_help="Upload a run to the Hugging Face hub")
@takes_overrides
def push_command(overrides: tuple[str, ...]) -> None:
    """Upload a run to the Hugging Face hub: model card, configuration, classes
    and weights, never the data.

    \b
    ssss push run=DIR repo=OWNER/NAME
    ssss push run=DIR repo=OWNER/NAME private=false weights=last
    then anywhere: ssss predict run=hf://OWNER/NAME ...

    \b
    private=false         let everybody see it (default true: you and your
                          organisation)
    weights=best|last     the checkpoint (default: best)
    The token comes from HF_TOKEN, or from `hf auth login`. Needs the extra
    `hub`.
    """
    from ssss_zoo.deploy.push import push_run

    for line in push_run(overrides).lines():
        print_line(line)


@main.command("check-install", short_help="Check versions, devices and extras")
@click.option("--json", "as_json", is_flag=True, help="Print the check as JSON.")
@takes_overrides
def check_install_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the installation: versions, devices, extras, and a run of two steps;
    exits with 2 where something is wrong.

    \b
    ssss check-install
    ssss check-install train.device=cuda
    The second makes the run on this device (default: a GPU where there is
    one).
    """
    from ssss_zoo.commands.check_install import check_install

    result = check_install(overrides)
    if as_json:
        print_json(result.as_dict())
    else:
        for line in result.lines():
            print_line(line)


@main.group("data", short_help="Fetch, check, split and preview a data set")
def data_group() -> None:
    """Fetch benchmarks, audit a data set, draw labelled lists, look at images."""


@data_group.command("prepare", short_help="Fetch a benchmark from its publishers")
@click.option("--yes", is_flag=True, help="Agree to licence, sizes and sources without being asked.")
@takes_overrides
def data_prepare_command(overrides: tuple[str, ...], yes: bool) -> None:
    """Fetch a benchmark from its publishers, unpack it and make its masks; the
    same command continues after a stop.

    \b
    ssss data prepare dataset=voc
    ssss data prepare dataset=camvid data.root=DIR --yes

    \b
    dataset=voc|cityscapes|ade20k|coco|camvid    the benchmark (for
                          Cityscapes: lists what to download yourself)
    data.root=DIR         the folder (default $SSSS_DATA/<dataset>); archives
                          stay in DIR/archives
    """
    from ssss_zoo.commands.data import prepare_data

    for line in prepare_data(overrides, agreed=yes):
        print_line(line)


@data_group.command("check", short_help="Read every file, list all that is wrong")
@click.option("--json", "as_json", is_flag=True, help="Print findings and figures as JSON.")
@takes_overrides
def data_check_command(overrides: tuple[str, ...], as_json: bool) -> None:
    """Read every file of a data set and list all that is wrong: exit code 0
    clean, 1 with warnings, 2 unusable.

    \b
    ssss data check dataset=folder data.root=DIR
    ssss data check dataset=voc train.crop=321 train.batch=8

    \b
    dataset=folder data.root=DIR    the data set, with any data.* key
    train.crop=321 train.batch=8    the sizes that the run will use, for the
                          advice on them
    """
    from ssss_zoo.engine.name_checks import check_spelling

    check_spelling(overrides)
    from ssss_zoo.commands.data import check_data, show_audit

    report = check_data(overrides)
    if as_json:
        print_json(report.as_dict())
    else:
        show_audit(report)
    sys.exit(report.code)


@data_group.command("split", short_help="Draw lists of labelled images")
@takes_overrides
def data_split_command(overrides: tuple[str, ...]) -> None:
    """Draw nested labelled lists that show every class as early as possible, and
    write them.

    \b
    ssss data split dataset=folder data.root=DIR sizes=1/16,1/8
    ssss data split dataset=folder data.root=DIR sizes=30 seed=1

    \b
    dataset=folder data.root=DIR    the data set; lists go to DIR/splits
    sizes=1/16,1/8,30     how many labelled images each list has
    seed=0 overwrite=true    another draw; replace lists that exist
    """
    from ssss_zoo.engine.name_checks import check_spelling

    check_spelling(overrides, "sizes")
    from ssss_zoo.commands.data import split_data

    for line in split_data(overrides):
        print_line(line)


@data_group.command("preview", short_help="Draw the views that a run will see")
@takes_overrides
def data_preview_command(overrides: tuple[str, ...]) -> None:
    """Draw what a run will see: images, masks over them, weak and strong views,
    class shares.

    \b
    ssss data preview dataset=folder data.root=DIR
    ssss data preview dataset=shapes file=views.png train.crop=64

    \b
    dataset=folder data.root=DIR    the data set
    count=6               how many images
    file=preview.png      the file to write (overwrite=true replaces it)
    train.crop=321 augment.hue=0.1    any key that the views depend on
    """
    from ssss_zoo.engine.name_checks import check_spelling

    check_spelling(overrides, "count", "file", "overwrite")
    from ssss_zoo.commands.data import preview_data

    file = preview_data(overrides)
    print_line(f"{file}: do the edges of the masks follow the objects, and does each class have the right name?")


def command_line(arguments: Iterable[str]) -> int:
    """Run the command line in this process and return its exit code (for tests and notebooks)."""
    try:
        main.main(args=list(arguments), prog_name="ssss", standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(command_line(sys.argv[1:]))
