"""Lists of methods, hooks, data sets and networks."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ssss_zoo.engine.catalog import listing
from ssss_zoo.testing.tiny import make_method


def test_everything_listed_has_a_name_and_a_line_about_it():
    listed = {kind: listing(kind) for kind in ("methods", "hooks", "datasets", "models")}
    assert all(listed.values())
    items = [item for kind in listed.values() for item in kind]
    assert [item for item in items if not item["name"] or not item["about"]] == []
    assert [item for item in items if "\n" in item["about"]] == []
    assert [item for item in items if item["about"].startswith(("BROKEN", "no description"))] == []


def test_methods_are_listed_with_their_paper_and_hooks():
    found = {item["name"]: item for item in listing("methods")}
    assert "arXiv 2506.11142" in found["farcluss"]["about"]
    assert found["fixmatch"]["hooks"] == ["make_teacher", "make_views", "pixel_weight"]
    assert found["fixmatch"]["package"] == "ssss-zoo"


def test_hooks_are_listed_with_who_answers_them():
    found = {item["name"]: item for item in listing("hooks")}
    assert "farcluss" in found["class_weight"]["answered_by"]
    assert "supervised" not in found["class_weight"]["answered_by"]
    assert found["class_weight"]["choosable"]
    assert not found["setup"]["choosable"]


def test_what_setup_makes_and_does_not_return_is_told_of(tiny_plugins, tiny_run, caplog):
    def forgets(self, info):
        self.memory, self.count = nn.Linear(1, 1), torch.zeros(2)

    def keeps(self, info):
        self.memory, self.first = nn.ModuleDict({"inner": nn.Linear(1, 1)}), info.students[0]
        self.inner = self.memory["inner"]
        return {"keeps": self.memory}

    for name, setup in (("forgets", forgets), ("keeps", keeps)):
        tiny_plugins.add("methods", name, make_method(name.capitalize(), setup=setup))
        with caplog.at_level(logging.WARNING, logger="ssss_zoo"):
            tiny_run(f"method={name}")
    told = [record.getMessage().partition(" is in")[0] for record in caplog.records if "setup" in record.getMessage()]
    assert told == ["forgets: self.memory", "forgets: self.count"]
