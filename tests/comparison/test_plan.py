"""The plan that arguments make: rows, variants, seeds, study files; and the arguments that make none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import refusal
from ssss_zoo.comparison.plan import (
    StudyRow,
    check_trusted_files,
    parse_row,
    plan_study,
    read_study_file,
    split_commas,
)
from ssss_zoo.comparison.preflight import check_rows_can_run
from ssss_zoo.comparison.report.statistics import compute_figures, read_finished_runs
from ssss_zoo.config.layers import recipes
from ssss_zoo.engine.registry import build_methods, with_options
from ssss_zoo.errors import UserError

SHAPES = ["dataset=shapes", "output=somewhere"]


def rows(*overrides):
    return {row.name: row.overrides for row in plan_study([*overrides, *SHAPES]).rows}


def message(*overrides):
    return refusal(lambda: plan_study(overrides))


def test_methods_mixes_and_variants():
    assert rows("methods=fixmatch,unimatch+pixcon:strength=0.2,farcluss:top_k=1:train.fuse=true") == {
        "supervised": ("method=supervised",),
        "fixmatch": ("method=fixmatch",),
        "unimatch+pixcon:strength=0.2": ("method=unimatch+pixcon", "options.pixcon.strength=0.2"),
        "farcluss:top_k=1:train.fuse=true": ("method=farcluss", "options.farcluss.top_k=1", "train.fuse=true"),
    }


def test_a_release_is_a_row_of_its_own_and_takes_options():
    found = rows("methods=unimatch,unimatch:release,prevmatch:release:models=3", "baseline=false")
    assert found == {
        "unimatch": ("method=unimatch",),
        "unimatch:release": ("method=unimatch:release",),
        "prevmatch:release:models=3": ("method=prevmatch:release", "options.prevmatch.models=3"),
    }
    plan = plan_study(["methods=unimatch,unimatch:release", *SHAPES])
    folders = [run.folder.path.parent.name for run in plan.runs()[:3]]
    assert folders == ["supervised", "unimatch", "unimatch_release"]
    assert plan.runs()[2].config().options["unimatch"]["partner"] == "twin"


def test_an_option_of_a_release_is_varied_as_the_methods_own():
    found = rows("methods=unimatch:release", "vary.options.unimatch.threshold=0.8,0.9")
    assert "unimatch:release:threshold=0.8" in found


def test_the_baseline_is_added_once_and_can_be_left_out():
    assert list(rows("methods=fixmatch,supervised")) == ["fixmatch", "supervised"]
    assert list(rows("methods=fixmatch,cps", "baseline=false")) == ["fixmatch", "cps"]


def test_varied_keys_concern_the_rows_that_have_them():
    found = rows("methods=farcluss,fixmatch", "vary.options.farcluss.top_k=1,3", "vary.train.crop=[32,48],[64,64]")
    assert len(found) == 2 + 2 * 2 + 2  # supervised, farcluss, fixmatch
    assert found["farcluss:top_k=3:crop=[64,64]"][1:] == ("options.farcluss.top_k=3", "train.crop=[64,64]")
    assert found["fixmatch:crop=[32,48]"] == ("method=fixmatch", "train.crop=[32,48]")


def test_runs_come_seed_by_seed_and_are_runs_of_their_own():
    plan = plan_study(["methods=fixmatch", "seeds=3,1", "train.steps=7", *SHAPES])
    assert [(run.row.name, run.seed) for run in plan.runs()] == [
        ("supervised", 3),
        ("fixmatch", 3),
        ("supervised", 1),
        ("fixmatch", 1),
    ]
    config = plan.runs()[1].config()
    assert (config.method, config.seed, config.train.steps) == ("fixmatch", 3, 7)
    assert config.output == "somewhere/runs/fixmatch/seed3"
    assert plan_study(["methods=fixmatch", *SHAPES]).seeds == (0, 1, 2)


def test_the_usual_folder_names_data_and_split():
    assert str(plan_study(["methods=cps", "dataset=camvid"]).folder.path) == "runs/compare/camvid/1_8"


def test_a_study_of_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# mine\ndataset: shapes\nseeds: [4, 5]\ntrain: {steps: 9, crop: [32, 48]}\n"
        "rows: {soft: 'farcluss', hard: 'farcluss:top_k=1'}\nvary: {augment.flip: '0,1'}\n"
    )
    plan = plan_study([f"study={file}", "train.steps=11", f"output={tmp_path}"])
    names = ("supervised", "soft", "hard")
    assert [row.name for row in plan.rows] == [f"{name}:flip={flip}" for name in names for flip in (0, 1)]
    assert plan.seeds == (4, 5)
    config = plan.runs()[1].config()
    assert (config.train.steps, list(config.train.crop), config.augment.flip) == (11, [32, 48], 1)


@pytest.mark.parametrize(
    "text",
    ["rows: {a: 'fixmatch+IDEA'}", "methods: [fixmatch, IDEA]", "plugins: {path: [IDEA]}", "vary: {method: IDEA}"],
)
def test_python_that_a_study_file_names_must_be_named_by_the_person(text, tmp_path):
    idea, file = tmp_path / "idea.py", tmp_path / "study.yaml"
    idea.write_text("")
    file.write_text(f"methods: [fixmatch, unimatch]\n{text.replace('IDEA', str(idea))}\n".replace(
        "methods: [fixmatch, unimatch]\nmethods", "methods"))  # fmt: skip
    words = [f"study={file}", *SHAPES]
    assert message(*words).startswith(f"study={file} names a Python file, {idea}, which would be run")
    for more in ("plugins.trust=true", f"plugins.path={idea}", f"methods=fixmatch,{idea}"):
        check_trusted_files(read_study_file(str(file)), [*words, more])


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(recipes("study")))
def test_every_study_that_comes_along_can_run(name):
    plan = plan_study([f"study={name}", *SHAPES])
    check_rows_can_run(plan)
    assert len(plan.rows) > 2


def test_the_ablation_takes_each_part_away_and_adds_each_alone():
    plan = plan_study(["study=farcluss-ablation", *SHAPES])
    configs = {run.row.name: run.config() for run in plan.runs()}
    configs = {name: with_options(config, build_methods(config)) for name, config in configs.items()}
    parts = {"top_k": "3", "uncertainty_gamma": "1.0", "rebalance": "mass", "contrast": "proto_infonce"}
    off = {"top_k": "1", "uncertainty_gamma": "0.0", "rebalance": "off", "contrast": "off"}
    given = {name: {k: str(v) for k, v in (c.options.get("farcluss") or {}).items()} for name, c in configs.items()}
    on = {
        name: {part for part in parts if options.get(part, parts[part]) != off[part]}
        for name, options in given.items()
        if name != "supervised"
    }
    assert sorted(map(len, on.values())) == [0, 1, 1, 1, 1, 3, 3, 3, 3, 4]
    assert len({frozenset(left) for left in on.values()}) == len(on)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["methods=supervised"], "two methods or more"),
        (["methods="], "two methods or more"),
        (["methods=fixmatch,fixmatch"], "'fixmatch' is given twice"),
        (["methods=fixmatch:top_k"], "'top_k' of 'fixmatch:top_k' is not key=value"),
        (["methods=fixmatch", "seeds=0,a"], "whole numbers"),
        (["methods=fixmatch", "seeds=0,0"], "given once"),
        (["methods=fixmatch", "method=cps"], "methods=A,B"),
        (["methods=fixmatch", "seed=3"], "seeds=0,1,2"),
        (["methods=fixmatch", "budget=money"], "budget must be one of"),
        (["study=farclus-ablation"], "did you mean 'farcluss-ablation'"),
        (["fixmatch"], "expected key=value"),
        (["methods=fixmatch", "options.cps.weight=2"], "unknown method 'cps' in options.cps.weight=2 (no row has it)"),
    ],
)
def test_what_makes_no_comparison(words, said):
    assert said in message(*words, *SHAPES)


def test_all_rows_that_cannot_run_are_told_of_at_once():
    plan = plan_study(["methods=fixmach,unimatch:treshold=1,cps", *SHAPES])
    with pytest.raises(UserError) as caught:
        check_rows_can_run(plan)
    assert "fixmach: unknown method" in str(caught.value)
    assert "did you mean 'options.unimatch.threshold'" in str(caught.value)
    assert "cps:" not in str(caught.value)


def test_an_option_goes_to_the_rows_that_have_its_method():
    methods = "methods=fixmatch,unimatch+fixmatch,cps:hooks.pixel_weight=fixmatch,unimatch"
    plan = plan_study([methods, "options.fixmatch.threshold=0.7", *SHAPES])
    options = {run.row.name: run.config().options for run in plan.runs() if run.seed == plan.seeds[0]}
    given = [name for name, of_row in options.items() if "threshold" in dict(of_row.get("fixmatch") or {})]
    assert given == ["fixmatch", "unimatch+fixmatch", "cps:hooks.pixel_weight=fixmatch"]


def test_a_comparison_without_a_finished_run_names_its_data(tmp_path):
    plan = plan_study(["methods=fixmatch,cps", f"output={tmp_path / 'out'}", "data.split=1/8", *SHAPES])
    figures = compute_figures(plan, read_finished_runs(plan))
    assert (figures.dataset, figures.split) == ("shapes", "1/8")


def test_a_device_that_is_not_here_is_told_before_the_first_run():
    plan = plan_study(["methods=fixmatch,cps", "train.device=nope", *SHAPES])
    told = "train.device=nope cannot be used: expected auto, cpu, cuda, cuda:1 or the like"
    assert f"fixmatch: {told}; cps: {told}" in refusal(lambda: check_rows_can_run(plan))


@given(st.lists(st.text("ab=", min_size=1, max_size=6), max_size=5))
def test_commas_in_brackets_part_nothing(words):
    assert split_commas(",".join(words)) == words
    assert split_commas("[1,2],{a,b},c") == ["[1,2]", "{a,b}", "c"]


def test_a_slug_is_a_folder():
    assert parse_row("a+b:k=[1,2]").folder_name == "a+b_k_1_2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: [farcluss, fixmatch]", "rows takes a name and a method each"),
        ("rows: farcluss", "rows takes a name and a method each"),
        ("rows: {soft: [farcluss]}", "rows takes a name and a method each"),
        ("rows: {soft: {method: farcluss}}", "rows takes a name and a method each"),
        ("rows: {soft: }", "rows takes a name and a method each"),
        ("vary: [train.crop]", "vary takes a key and its values each"),
        ("vary: {train: {crop: [96, 128]}}", "vary takes a key and its values each"),
        ("methods: {a: b}", "methods takes values between commas"),
        ("methods: [[a], [b]]", "methods takes values between commas"),
        ("seeds: {a: 1}", "seeds takes values between commas"),
        ("output: [a]", "output takes one value"),
        ("jobs: {a: 1}", "jobs takes one value"),
        ("rows: {'..': cps, fixmatch: fixmatch}", r"the row '\.\.' needs a letter or digit"),
        ("rows: {'[]': cps, fixmatch: fixmatch}", r"the row '\[\]' needs a letter or digit"),
        ("rows: {a/b: cps, a:b: fixmatch}", "would share the folder a_b"),
        ("rows: {a: cps, b: cps}", "the rows 'a' and 'b' are the same"),
        ("[cps, fixmatch]", "must hold keys and values"),
    ],
)
def test_a_study_file_that_holds_something_else(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        plan_study([f"study={tmp_path / 'mine.yaml'}", *SHAPES])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_the_folder_of_a_row_is_a_name_of_its_own_below_the_comparison(name):
    slug = StudyRow(name, ()).folder_name
    assert "/" not in slug
    assert len(slug.encode(errors="replace")) <= 200
    assert slug == StudyRow(name, ()).folder_name
