"""The screens of the commands: welcome, help, completion, lists, and that these need no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from ssss_zoo.commands.cli import main
from ssss_zoo.commands.completion import BashScript, FishScript, ZshScript
from ssss_zoo.commands.show import hint_on_slow_teacher, show_result
from ssss_zoo.engine.catalog import option_table
from ssss_zoo.engine.plugin_source import hook_docs, installed, read_plugin
from ssss_zoo.engine.registry import HOOKS, implemented_hooks, load

BASH = shutil.which("bash") if sys.platform == "linux" else None  # macOS has an old one
SSSS = shutil.which("ssss", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def all_commands(group=main, path=("ssss",)):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


def test_the_name_alone_shows_three_things_to_do(ssss):
    done = ssss()
    assert done.code == 0
    assert [line[0] for line in done.out.splitlines() if line[:2] in ("1.", "2.", "3.")] == ["1", "2", "3"]
    assert max(map(len, done.out.splitlines())) <= 80


def test_help_is_grouped_and_fits_80_columns_with_two_examples_a_command(ssss):
    text = ssss("--help").out
    titles = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Start:", "Look:", "Compare:", "Use the model:", "Extend:"]
    commands = list(all_commands())
    assert len(commands) > 20
    assert all(f"\n  {path[1]} " in text for path, _ in commands)
    assert "..." not in text.partition("\n")[2]
    wrong = []
    for path, command in commands:
        with click.Context(command, info_name=path[-1], terminal_width=80) as context:
            page = command.get_help(context)
        examples = sum(line.strip().startswith(" ".join(path)) for line in page.splitlines())
        if any(len(line) > 80 for line in page.splitlines()):
            wrong.append((path, "is wider than 80 columns"))
        if examples < 2 and not isinstance(command, click.Group):
            wrong.append((path, f"has {examples} examples"))
    assert wrong == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [("train", "ssss run"), ("help", "ssss --help"), ("version", "ssss --version"), ("val", "ssss evaluate run=DIR")],
)
def test_a_word_that_other_tools_use_is_answered_with_ours(word, answer, ssss):
    done = ssss(word)
    assert done.code == 2
    assert f"No such command '{word}'. Type: {answer}" in done.err


def complete(*words: str) -> list[str]:
    *before, last = words
    return [item.value for item in ShellComplete(main, {}, "ssss", "_SSSS_COMPLETE").get_completions(before, last)]


def test_a_shell_completes_keys_methods_data_sets_choices_and_paths(tmp_path):
    assert {"run", "report"} <= set(complete("r"))
    assert complete("run", "method=farc") == ["method=farcluss"]
    assert complete("run", "method=unimatch+farc") == ["method=unimatch+farcluss"]
    assert complete("run", "method", "=") == complete("run", "method", "=", "")  # as bash splits it
    assert complete("run", "method", "=", "unimatch+farc") == ["unimatch+farcluss"]
    assert complete("run", "method=far", "method", "=", "farc") == ["farcluss"]
    assert complete("run", "dataset=sha") == ["dataset=shapes"]
    assert complete("run", "train.eval_") == ["train.eval_epochs=", "train.eval_every="]
    assert complete("run", "train.ste") == ["train.steps="]
    assert complete("run", "seed=1", "res") == ["resume="]
    assert complete("card", "farc") == ["farcluss"]
    assert complete("run", "hooks.pixel_weight=fix") == ["hooks.pixel_weight=fixmatch"]
    assert complete("run", "resume=t") == ["resume=true"]
    assert "train.on_nan=skip" in complete("run", "train.on_nan=")
    assert complete("predict", "ov") == ["overlap=", "overwrite="]
    assert complete("predict", "train.st") == []
    (tmp_path / "run1").mkdir()
    assert complete("predict", f"run={tmp_path}/ru") == [f"run={tmp_path}/run1/"]
    (tmp_path / "my run").mkdir()
    assert complete("predict", "run", "=", f"{tmp_path}/my") == [f"{tmp_path}/my\\ run/"]


def test_the_scripts_of_the_shells_are_changed_where_they_must_be():
    """click may change its scripts: then the replacements find nothing."""
    for script, changes in (
        (BashScript, ["read -r type value", "compopt -o nospace"]),
        (ZshScript, ["suffix=(-S '')", 'compadd -U "${suffix[@]}"']),
        (FishScript, ['string split -m 1 ","']),
    ):
        source = script(main, {}, "ssss", "_SSSS_COMPLETE").source()
        assert [change for change in changes if change not in source] == [], script.__name__


@pytest.mark.skipif(not BASH or not SSSS, reason="bash or the command ssss is not there")
def test_bash_completes_a_value_behind_its_key(tmp_path):
    """The script as bash calls it; `=` is a word of its own there."""
    (tmp_path / "my run").mkdir()
    program = """
eval "$(_SSSS_COMPLETE=bash_source ssss)"
COMP_WORDS=(ssss predict run = my) COMP_CWORD=4
_ssss_completion ssss
printf '%s\\n' "${COMPREPLY[@]}"
"""
    path = os.pathsep.join([str(Path(SSSS).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run([BASH, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout == "my\\ run/\n", done.stderr


LIGHT_COMMANDS = ("list", "list --json", "card farcluss", "card stpp", "--help", "run --help", "")
MISSPELT_COMMANDS = {
    "run method=fixmach": "did you mean 'fixmatch'?",
    "run method=fixmach dataset=shapes time=5m": "did you mean 'fixmatch'?",
    "run dataset=shaps": "did you mean 'shapes'?",
    "run model=deeplab": "did you mean 'deeplabv3plus'?",
    "run train.stpes=1": "did you mean 'train.steps'?",
    "run options.farcluss.topk=1": "did you mean 'options.farcluss.top_k'?",
    "run method=stpp options.stpp.cutout=2": "options.stpp.cutout",
    "config method=fixmach": "did you mean 'fixmatch'?",
    "plan dataset=shaps time=5m": "did you mean 'shapes'?",
    "inspect method=fixmach": "did you mean 'fixmatch'?",
    "compare methods=fixmach,cps:ema=1": "fixmach: unknown method",
    "compare methods=fixmatch datset=shapes": "did you mean 'dataset'?",
    "search dataset=shaps": "did you mean 'shapes'?",
    "search try.method=fixmach,cps": "did you mean 'fixmatch'?",
    "search try.options.fixmatch.treshold=": "did you mean 'try.options.fixmatch.threshold'?",
    "data check dataset=shaps": "did you mean 'shapes'?",
    "data split datset=shapes sizes=2": "did you mean 'dataset'?",
    "data preview dataset=shaps count=2": "did you mean 'shapes'?",
}


def test_lists_cards_and_typing_mistakes_need_no_torch(tmp_path):
    code = f"""
import sys
from ssss_zoo.commands.cli import command_line
def run(command):
    print(command, file=sys.stderr)
    return command_line(command.split())
assert [run(command) for command in {LIGHT_COMMANDS}] == [0] * {len(LIGHT_COMMANDS)}
codes = [run(command) for command in {tuple(MISSPELT_COMMANDS)}]
assert codes == [2] * {len(MISSPELT_COMMANDS)}, codes
heavy = {{"torch", "numpy", "mlflow", "matplotlib", "optuna"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    answers = dict(zip(lines[len(LIGHT_COMMANDS) :: 2], lines[len(LIGHT_COMMANDS) + 1 :: 2], strict=True))
    assert [command for command, answer in MISSPELT_COMMANDS.items() if answer not in answers[command]] == []


def test_list_is_a_table_with_hooks_only_where_asked_for(ssss):
    assert "[make_teacher" not in ssss("list", "methods").out
    assert "[make_teacher make_views pixel_weight]" in ssss("list", "methods", "--long").out
    assert "added to unimatch" in ssss("list", "methods").out


def test_sources_tell_of_plugins_what_an_import_does():
    for name in installed("methods"):
        source, method = read_plugin("methods", name), load("methods", name)
        assert source is not None, name
        assert sorted(source.hooks) == sorted(implemented_hooks(method))
        assert source.constants["paper"] == method.paper
        if source.options:  # otherwise the card imports the method
            assert option_table(name, source.options) == option_table(name, method)
    assert all(read_plugin(kind, name) for kind in ("datasets", "models") for name in installed(kind))
    assert tuple(hook_docs()) == HOOKS


def test_a_student_far_ahead_of_its_teacher_is_told_of():
    metrics = {"val": {"student": {"miou": 0.836}, "teacher": {"miou": 0.708}}}
    assert "leads its teacher by 12.8 points" in hint_on_slow_teacher(metrics)[0]
    metrics["val"]["teacher"]["miou"] = 0.75
    assert hint_on_slow_teacher(metrics) == []
    assert hint_on_slow_teacher({"val": {}}) == []


def test_the_commands_at_the_end_of_a_run_can_be_copied(capsys):
    time = dict.fromkeys(
        ("train_seconds", "steps_per_second", "data_wait_seconds", "evaluate_seconds", "peak_memory_bytes"), 1
    )
    show_result(Path("two words"), {"val": {}, "pseudo_labels": None, "time": time})
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "next: ssss evaluate run='two words' on=labelled",
        "or: ssss predict run='two words' input=IMAGES output=MASKS",
    ]
