"""The layers and their order, text read by the type of its key, messages, and that what is written reads back."""

from __future__ import annotations

import dataclasses
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.configs import file_of, message, numeric_keys
from ssss_zoo.config.fields import Range, field_types
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import (
    BRITISH,
    flatten_keys,
    merge,
    nest,
    parse_overrides,
    parse_value,
    read_file,
    split_overrides,
)
from ssss_zoo.config.resolve import lay_over, resolve
from ssss_zoo.config.schema import Config, as_tree, as_yaml, square
from ssss_zoo.errors import UserError, check_choice, check_range, nearest, unknown

ROOT = Path(__file__).parents[1]


# --- layers ---------------------------------------------------------------------------------------------------------


def test_with_no_words_the_defaults_and_the_recipe_of_the_default_data_set_speak():
    config = resolve([])
    assert (config.method, config.dataset, config.plugins.names) == ("farcluss", "shapes", ["farcluss"])
    recipe = read_file(recipes("dataset")["shapes"])
    assert config.train.batch == int(recipe["train"]["batch"])
    assert config.optim.power == 0.9  # the schema; no layer names it


def test_each_layer_wins_over_the_ones_before_it(tmp_path):
    words = ["method=fixmatch", "dataset=cityscapes"]
    threshold = "options.fixmatch.threshold"
    own = file_of(tmp_path, "method: fixmatch\ndataset: cityscapes\n")
    assert resolve(["method=fixmatch"]).options["fixmatch"]["threshold"] == "0.95"  # method file
    assert resolve(words).options["fixmatch"]["threshold"] == "0.0"  # its part for the data set
    assert resolve([], own).options["fixmatch"]["threshold"] == "0.0"
    own.write_text("method: fixmatch\ndataset: cityscapes\noptions: {fixmatch: {threshold: 0.3}}\noptim: {lr: 0.7}\n")
    assert resolve([], own).options["fixmatch"]["threshold"] == "0.3"  # a file of one's own
    assert resolve([f"{threshold}=0.4"], own).options["fixmatch"]["threshold"] == "0.4"  # the words
    assert resolve([], own).optim.lr == 0.7
    assert resolve(words).optim.lr == 0.005  # the data set's file wins over the schema


def test_the_method_file_wins_over_the_data_set_file(tmp_path, monkeypatch):
    text = "train: {batch: 3, steps: 5}\noptim: {lr: 0.2}\ndatasets: {d: {optim: {lr: 0.3}}}\n"
    (tmp_path / "m.yaml").write_text(text)
    (tmp_path / "d.yaml").write_text("train: {batch: 2, crop: 50}\noptim: {lr: 0.1}\n")
    monkeypatch.setattr(
        "ssss_zoo.config.layers.recipes", lambda kind: {"md"[kind == "dataset"]: tmp_path / f"{kind[0]}.yaml"}
    )
    config = resolve(["method=m", "dataset=d"])
    assert (config.train.crop, config.train.batch, config.optim.lr) == ([50], 3, 0.3)
    assert resolve(["method=m", "dataset=other"]).optim.lr == 0.2


def test_the_last_word_of_a_key_wins():
    assert resolve(["seed=1", "seed=2"]).seed == 2


def test_joined_methods_bring_their_files_in_order_and_their_names_once():
    config = resolve(["method=unimatch+fixmatch+unimatch", "options.fixmatch.threshold=0.5"])
    assert config.plugins.names == ["unimatch", "fixmatch"]
    assert config.options == {
        "unimatch": {"threshold": "0.95", "dropout": "0.5"},
        "fixmatch": {"threshold": "0.5"},
    }


def test_a_method_and_a_data_set_without_a_file_are_taken_by_name():
    config = resolve(["method=theirs", "dataset=theirs_too", "train.steps=1"])
    assert (config.plugins.names, config.dataset) == (["theirs"], "theirs_too")


def test_a_method_file_may_name_other_plugins_than_itself(tmp_path, monkeypatch):
    (tmp_path / "mix.yaml").write_text("plugins: [unimatch, fixmatch]\n")
    monkeypatch.setattr("ssss_zoo.config.layers.recipes", lambda kind: {"mix": tmp_path / "mix.yaml"})
    assert resolve(["method=mix", "train.steps=1"]).plugins.names == ["unimatch", "fixmatch"]


def test_layers_do_not_leak_from_one_resolution_into_the_next():
    resolve(["method=fixmatch", "dataset=cityscapes", "options.fixmatch.threshold=0.1", "model.rates=[1,2]"])
    assert resolve(["method=fixmatch"]).options == {"fixmatch": {"threshold": "0.95"}}
    assert resolve([]).model.rates == []


def test_a_resolved_file_keeps_its_method(tmp_path):
    own = file_of(tmp_path, as_yaml(resolve(["method=fixmatch"])))
    assert resolve([], own).method == "fixmatch"
    assert "method=fixmatch" in message(["method=unimatch"], own)


# --- budget ---------------------------------------------------------------------------------------------------------


def test_steps_and_epochs_replace_each_other_whichever_comes_later(tmp_path):
    assert resolve(["train.epochs=2"]).train.steps is None  # shapes.yaml says steps
    assert resolve(["train.epochs=2"]).train.epochs == 2
    voc = resolve(["dataset=voc", "train.steps=7"]).train  # voc.yaml says epochs
    assert (voc.steps, voc.epochs) == (7, None)
    own = file_of(tmp_path, "train: {epochs: 3}")
    assert resolve([], own).train.steps is None
    assert resolve(["train.steps=5"], own).train.epochs is None
    assert resolve(["train.steps=null", "train.epochs=3"], own).train.epochs == 3


def test_both_budgets_at_once_are_refused():
    assert message(["train.steps=5", "train.epochs=2"]) == "give train.steps or train.epochs, not both; got 5 and 2"
    both = ["train.eval_every=5", "train.eval_epochs=2"]
    assert message(both) == "give train.eval_every or train.eval_epochs, not both; got 5 and 2"


def test_a_protocol_evaluates_every_epoch_unless_words_say_otherwise():
    said = resolve(["protocol=voc-classic"]).train
    assert (said.eval_every, said.eval_epochs) == (None, 1)
    said = resolve(["protocol=voc-classic", "train.eval_every=7"]).train
    assert (said.eval_every, said.eval_epochs) == (7, None)
    assert resolve(["protocol=cityscapes-cps"]).train.eval_epochs == 5


def test_an_absent_budget_of_a_later_layer_takes_nothing_away():
    for nothing in ("null", None):
        tree = {"train": {"steps": "3"}}
        assert lay_over(tree, {"train": {"epochs": nothing}}) == {"train": {"steps": "3", "epochs": nothing}}


# --- text by type ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["1_8", "1_16", "yes", "no", "on", "12:30", "1/8", "0x10", "1e3", "null", "010"])
def test_a_split_stays_the_text_it_was_in_words_and_files(split, tmp_path):
    assert resolve([f"data.split={split}"]).data.split == split
    assert resolve([], file_of(tmp_path, f"data: {{split: {split}}}")).data.split == split
    assert resolve([], file_of(tmp_path, as_yaml(resolve([f"data.split={split}"])))).data.split == split


@pytest.mark.parametrize("text", ["[160,208]", "160,208", "[160, 208]", "['160', 208]"])
def test_a_list_is_read_with_and_without_brackets(text):
    assert resolve([f"train.crop={text}"]).train.crop == [160, 208]


def test_one_number_for_a_list_is_a_list_of_one(tmp_path):
    assert resolve(["train.crop=160"]).train.crop == [160]
    assert resolve([], file_of(tmp_path, "train: {crop: 160}")).train.crop == [160]
    assert resolve(["model.rates=[]"]).model.rates == []
    assert (square([160]), square([160, 208])) == ((160, 160), (160, 208))


@pytest.mark.parametrize("text", ["null", "none", "~", ""])
def test_nothing_is_written_in_four_ways_where_a_key_may_hold_nothing(text, tmp_path):
    assert resolve(["output=x", f"output={text}"]).output is None
    assert resolve([], file_of(tmp_path, f"data: {{root: {text}}}")).data.root is None


def test_none_stays_a_word_where_the_key_takes_text():
    assert resolve(["model.weights=none"]).model.weights == "none"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("yes", True), ("1", True), ("false", False), ("off", False)]
)
def test_booleans(text, value):
    assert resolve([f"train.fuse={text}"]).train.fuse is value


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.steps=many", "train.steps takes a whole number; got 'many'"),
        ("train.steps=1.5", "train.steps takes a whole number; got '1.5'"),
        ("train.batch=1_0", "train.batch takes a whole number; got '1_0'"),
        ("train.batch=", "train.batch takes a whole number; got ''"),
        ("train.batch=[1,2]", "train.batch takes a whole number; got '['1', '2']'"),
        ("optim.lr=fast", "optim.lr takes a number; got 'fast'"),
        ("resume=maybe", "resume takes true or false; got 'maybe'"),
        ("train.crop=[a,b]", "train.crop takes a whole number; got 'a'"),
        ("train.crop={a: 1}", "train.crop takes a whole number; got '{'a': '1'}'"),
        ("resume=5", "resume takes true or false; got '5'"),
        ("train=5", "train is a section, it takes train.<key>=value; got '5'"),
        ("hooks=none", "hooks takes hooks.<name>=value; got 'none'"),
    ],
)
def test_a_value_of_another_type_names_key_type_and_value(word, expected):
    assert message([word]) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.batch=0", "train.batch must be between 1 and 1e+09; got 0"),
        ("train.accumulate=0", "train.accumulate must be"),
        ("train.steps=0", "train.steps must be between 1 and 1e+09; got 0"),
        ("train.epochs=-1", "train.epochs must be between"),
        ("train.log_every=0", "train.log_every must be between"),
        ("train.eval_every=-5", "train.eval_every must be between"),
        ("train.threads=0", "train.threads must be between"),
        ("train.crop=[1,2,3]", "train.crop takes one side or [height, width] in pixels; got [1, 2, 3]"),
        ("train.crop=[]", "train.crop takes"),
        ("train.crop=[0,4]", "train.crop takes"),
        ("augment.scale=2", "augment.scale takes [smallest, largest]"),
        ("augment.scale=[2,1]", "augment.scale takes [smallest, largest]"),
        ("augment.scale=[0,1]", "augment.scale takes [smallest, largest]"),
        ("augment.flip=1.1", "augment.flip must be between 0 and 1; got 1.1"),
        ("optim.lr=-1", "optim.lr must be"),
        ("optim.lr=nan", "optim.lr must be"),
        ("evaluate.overlap=1", "evaluate.overlap must be between 0 and 0.95; got 1"),
        ("seed=-1", "seed must be"),
        ("train.precision=64", "train.precision must be one of 32, bf16, fp16; got '64'"),
        ("optim.name=sdg", "optim.name must be one of sgd, adamw; got 'sdg'; did you mean 'sgd'?"),
        ("loss.supervised=focal", "loss.supervised must be one of"),
        ("loss.class_weight=both", "loss.class_weight must be one of"),
        ("evaluate.mode=slide", "evaluate.mode must be one of"),
        ("evaluate.absent=skip", "evaluate.absent must be one of"),
    ],
)
def test_a_value_out_of_range_names_key_range_and_value(word, expected):
    assert message([word]).startswith(expected)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_number_of_a_configuration_may_be_endless_or_not_a_number(value):
    pairs, taken = {"augment.scale", "augment.blur_sigma"}, []
    for key in numeric_keys():
        with suppress(UserError):
            resolve([f"{key}=[{value},{value}]" if key in pairs else f"{key}={value}"])
            taken.append(key)
    assert taken == []


@pytest.mark.parametrize(
    "word",
    [
        "optim.momentum=-1",
        "optim.head_multiplier=-1",
        "optim.power=-1",
        "loss.ohem_min_kept=0",
        "loss.ohem_threshold=-1",
        "augment.brightness=-1",
        "augment.hue=0.6",
        "augment.blur_sigma=1",
        "augment.blur_sigma=[-1,1]",
        "evaluate.window=[-5]",
        "evaluate.window=[1,2,3]",
        "evaluate.predictions=-1",
        "train.workers=-1",
    ],
)
def test_what_would_fail_deep_inside_torch_is_refused_by_the_configuration(word):
    assert word.partition("=")[0] in message([word])


# --- small parts ----------------------------------------------------------------------------------------------------


def test_overrides_are_split_by_their_keys():
    given = ["run=a", "vary.train.crop=1,2", "train.steps=3", "run=b=c", "vary=1", "runs=4", "on"]
    own, rest = split_overrides(given, "run", "on", "vary.")
    assert own == {"run": "b=c", "vary.train.crop": "1,2"}, "the last of a key counts, a dot stands for all keys below"
    assert rest == ["train.steps=3", "vary=1", "runs=4", "on"], "an argument without = is not taken for a key"
    assert split_overrides(iter(given)) == ({}, given)


def test_a_section_given_one_word_means_its_name(tmp_path):
    assert parse_overrides(["model=deeplabv3plus"]) == {"model": {"name": "deeplabv3plus"}}
    assert parse_overrides(["model=a", "model.encoder=b"]) == {"model": {"name": "a", "encoder": "b"}}
    assert parse_overrides(["plugins=[a,b]"]) == {"plugins": {"names": ["a", "b"]}}
    assert read_file(file_of(tmp_path, "plugins: [a, b]\nmodel: c\n")) == {
        "plugins": {"names": ["a", "b"]},
        "model": {"name": "c"},
    }


def test_a_value_may_hold_equals_signs():
    assert parse_overrides(["data.root=a=b"]) == {"data": {"root": "a=b"}}


def test_nest_and_merge():
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {"e": 4}}) == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}
    assert merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    base, layer = {"a": {"b": 1}}, {"a": {"b": 2}}
    merge(base, layer)["a"]["c"] = 3
    assert (base, layer) == ({"a": {"b": 1}}, {"a": {"b": 2}})


def test_a_single_value_is_read_by_its_type():
    assert parse_value("3", int | None, "k") == 3
    assert parse_value("null", int | None, "k") is None
    assert isinstance(parse_value("3", float, "k"), float)
    assert parse_value({"a": "1"}, dict[str, Any], "k") == {"a": "1"}
    assert parse_value("a,b", list[str], "k") == ["a", "b"]
    assert parse_value(" x ", str, "k") == "x"
    with pytest.raises(UserError, match=r"^a\.k takes true or false; got '5'$"):
        parse_value("5", bool, "a.k")


def test_errors_name_the_nearest_word_only_when_one_is_close():
    assert nearest("fixmach", ["fixmatch", "cps"]) == "; did you mean 'fixmatch'?"
    assert nearest("zzz", ["fixmatch"]) == ""
    error = unknown("method", "fixmach", ["unimatch", "fixmatch"], "method=fixmach")
    wanted = "unknown method 'fixmach' in method=fixmach; did you mean 'fixmatch'?  known: fixmatch, unimatch"
    assert str(error) == wanted


def test_ranges_and_choices_include_their_ends_and_exclude_nan():
    check_range("k", 0, 0, 1)
    check_range("k", 1, 0, 1)
    check_choice("k", "a", ("a", "b"))
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="k must be between 0 and 1"):
            check_range("k", value, 0, 1)
    with pytest.raises(UserError, match="k must be at least 2; got 1"):
        check_range("k", 1, 2)
    with pytest.raises(UserError, match=r"k must be one of a, b; got 'c'"):
        check_choice("k", "c", ("a", "b"))


# --- what is written reads back -------------------------------------------------------------------------------------

PLAIN = st.text(
    st.one_of(st.sampled_from("${}:.?*&~!"), st.characters(exclude_categories=["Cc", "Cs"])), max_size=12
).filter(lambda text: text.strip()[:1] not in ("[", "{"))
WORDS = st.one_of(
    st.builds("data.split={}".format, PLAIN),
    st.builds("data.root={}".format, PLAIN),
    st.builds("output={}".format, PLAIN),
    st.builds("tracking.experiment={}".format, PLAIN),
    st.builds("seed={}".format, st.integers(0, 2**31)),
    st.builds("optim.lr={}".format, st.floats(0, 1e3)),
    st.builds("train.steps={}".format, st.integers(1, 10**9)),
    st.builds("train.epochs={}".format, st.floats(1e-3, 1e6)),
    st.builds("train.crop={}".format, st.lists(st.integers(1, 5000), min_size=1, max_size=2)),
    st.builds("model.rates={}".format, st.lists(st.integers(1, 50), max_size=4)),
    st.builds("model.mean={}".format, st.lists(st.floats(0, 1), max_size=4)),
    st.builds("train.compile={}".format, st.booleans()),
    st.builds("hooks.pixel_weight={}".format, st.sampled_from(["none", "fixmatch", "fixmatch+farcluss"])),
    st.builds("options.farcluss.top_k={}".format, st.integers(1, 9)),
    st.builds("options.farcluss.label_mode={}".format, st.sampled_from(["fixed_k", "cumulative"])),
    st.builds("method={}".format, st.sampled_from(["farcluss", "fixmatch", "unimatch+farcluss", "supervised"])),
    st.builds("dataset={}".format, st.sampled_from(["shapes", "voc", "cityscapes", "camvid"])),
)


def one_budget_only(words: list[str]) -> bool:
    return len({w.partition("=")[0] for w in words} & {"train.steps", "train.epochs"}) < 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, max_size=6).filter(one_budget_only))
@example(words=["data.root=\u3000"])  # space alone is no value
def test_a_resolved_configuration_reads_back_to_itself(words, tmp_path):
    config = resolve(words)
    written = file_of(tmp_path, as_yaml(config))
    assert resolve([], written) == config


@pytest.mark.parametrize("key", ["data.root", "output", "options.own.key"])
def test_text_that_is_not_utf8_is_refused(key):
    """Python makes a lone surrogate of such a byte on the command line, and no YAML file can hold one."""
    with pytest.raises(UserError, match=rf"{key} takes text in UTF-8 .* got 'a\\udcff'"):
        resolve(["train.steps=1", f"{key}=a\udcff"])


def test_what_omegaconf_takes_for_a_missing_value_is_refused():
    with pytest.raises(UserError, match="means no value"):
        resolve(["train.steps=1", "data.root=???"])


@pytest.mark.parametrize(
    "text", ["a$b", "${HOME}/x", "http://h/${oc.env:HOME}", "${nope}", "${", "$${a}", "\\${a}", "${oc.decode:1}"]
)
def test_a_dollar_is_text_in_words_and_files_and_what_is_written(text, tmp_path):
    """Nothing is looked up, least of all in the environment."""
    keys = ("data.root", "output", "tracking.uri", "model.encoder", "dataset", "options.own.key")
    for key in keys:
        config = resolve(["train.steps=1", f"{key}={text}"])
        assert value_of(config, key) == text
        own = file_of(tmp_path, yaml.safe_dump(nest(key, text) | {"train": {"steps": 1}}))
        assert value_of(resolve([], own), key) == text
        assert value_of(yaml.safe_load(as_yaml(config)), key) == text


def value_of(found: Any, key: str) -> Any:
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def declared_ranges(schema: type = Config, prefix: str = "") -> list[tuple[str, Range]]:
    """Every key of the schema that declares a range."""
    found = []
    for name, declared in field_types(schema).items():
        if dataclasses.is_dataclass(declared.kind):
            found += declared_ranges(declared.kind, f"{prefix}{name}.")
        elif declared.bounds:
            found.append((f"{prefix}{name}", declared.bounds))
    return found


def test_every_declared_range_holds_at_both_ends():
    """The words that are taken although a value lies beyond the range."""
    taken = []
    for key, bounds in declared_ranges():
        for value in (bounds.low - 1, *([bounds.high + 1] if math.isfinite(bounds.high) else [])):
            whole = int(value) if float(value).is_integer() else value
            with suppress(UserError):
                resolve([f"{key}={whole}"])
                taken.append(f"{key}={whole}")
    assert len(declared_ranges()) > 30
    assert taken == []


AMERICAN = {british: american for american, british in BRITISH.items()}


def test_a_key_in_american_spelling_is_taken_for_ours():
    keys = [key for key in flatten_keys(as_tree(Config())) if set(re.findall("[a-z]+", key)) & set(AMERICAN)]
    assert {"data.unlabelled", "augment.grey"} <= set(keys)
    for key in keys:
        american = re.sub("[a-z]+", lambda part: AMERICAN.get(part[0], part[0]), key)
        value = "0.25" if isinstance(value_of(Config(), key), float) else "a"
        assert resolve([f"{american}={value}"]) == resolve([f"{key}={value}"]) != resolve([])
        assert resolve([f"{key}=1", f"{american}={value}"]) == resolve([f"{key}={value}"])  # the last one wins


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve([]).train.steps = 3
