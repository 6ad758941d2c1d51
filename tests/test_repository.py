"""The files around the code: the same version, address and Pythons everywhere, pins that fit, workflows that name what
exists. Each test lists all offenders at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ssss_zoo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LOCKS = ("constraints.txt", "constraints-all.txt")


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


# --- version and address --------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == ssss_zoo.__version__
    assert yaml.safe_load(text_of("CITATION.cff"))["version"] == ssss_zoo.__version__


def test_the_address_of_the_project_is_one_constant():
    """The script that changes it knows every file that holds it."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not tracked[0]:
        pytest.skip("no repository here")
    holders = {
        name
        for name in tracked
        if name
        and (ROOT / name).suffix in (".py", ".md", ".toml", ".yml", ".cff", ".json", "")
        and (ROOT / name).is_file()
        if ssss_zoo.PROJECT_URL in text_of(name)
    }
    known = re.search(r"URL_FILES = \(([^)]*)\)", text_of("scripts/set_project_url.py"))
    assert known
    assert holders == set(re.findall(r'"([^"]+)"', known[1]))
    assert all(url.startswith(ssss_zoo.PROJECT_URL) for url in PROJECT["urls"].values())


def test_a_release_is_refused_with_all_that_it_lacks():
    done = script("check_release.py", "9.9.9")
    assert done.returncode == 2
    for part in ("pyproject.toml has version", "ssss_zoo/__init__.py", "CITATION.cff", "CHANGELOG.md has no heading"):
        assert part in done.stdout


def test_the_changelog_keeps_its_headings():
    headings = re.findall(r"^(##+ .*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "## [Unreleased]"
    for heading in headings:
        assert re.fullmatch(
            r"## \[(Unreleased|\d+\.\d+\.\d+)\]( - \d{4}-\d\d-\d\d)?"
            r"|### (Added|Changed|Deprecated|Removed|Fixed|Security)",
            heading,
        ), heading


# --- dependencies ---------------------------------------------------------------------------------------------------


def pinned(name: str) -> dict[str, list[str]]:
    """The pinned versions of each package; one that differs between Pythons has several."""
    versions: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", text_of(name), re.MULTILINE):
        versions.setdefault(canonicalize_name(package), []).append(version)
    return versions


def test_every_dependency_is_pinned_to_a_version_that_is_allowed():
    """After a change of a dependency `scripts/lock` has to be run again."""
    everything = [
        *PROJECT["dependencies"],
        *(one for many in PROJECT["optional-dependencies"].values() for one in many),
    ]
    for name, wanted in (("constraints.txt", PROJECT["dependencies"]), ("constraints-all.txt", everything)):
        pins = pinned(name)
        offenders = []
        for requirement in map(Requirement, wanted):
            versions = pins.get(canonicalize_name(requirement.name), [])
            itself = canonicalize_name(requirement.name) == PROJECT["name"]
            if not itself and not (versions and all(map(requirement.specifier.contains, versions))):
                offenders.append(f"{name}: {requirement} is pinned to {versions}")
        assert offenders == []


def test_pins_have_digests_and_name_no_host():
    for name in LOCKS:
        text = text_of(name)
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), name
        blocks = re.split(r"\n(?=[\w])", text.partition("\n")[2])
        assert [block.partition(" ")[0] for block in blocks if "--hash=sha256:" not in block] == [], name


# --- workflows and forms --------------------------------------------------------------------------------------------


def test_workflows_and_the_matrix_script_test_the_pythons_that_are_promised():
    promised = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)}
    jobs = yaml.safe_load(text_of(".github/workflows/tests.yml"))["jobs"]
    assert set(jobs["linux"]["strategy"]["matrix"]["python"]) == promised
    assert {"macos-latest", "windows-latest"} == set(jobs["systems"]["strategy"]["matrix"]["system"])
    default = re.search(r"versions=\((3\.[\d. ]+)\)", text_of("scripts/matrix"))
    assert default
    assert set(default[1].split()) == promised
    minors = sorted(int(version.partition(".")[2]) for version in promised)
    assert all(after == before + 1 for before, after in pairwise(minors))


def test_workflows_name_files_and_extras_that_exist():
    wrong = []
    for workflow in WORKFLOWS:
        for job in yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values():
            for line in "\n".join(step.get("run", "") for step in job["steps"]).splitlines():
                extras = [name for group in re.findall(r"\.\[([\w,]+)\]", line) for name in group.split(",")]
                files = re.findall(r"(?:scripts|tests)/[\w./]+", line)
                wrong += [name for name in extras if name not in PROJECT["optional-dependencies"]]
                wrong += [name for name in files if not (ROOT / name).exists()]
    assert wrong == []


def test_forms_and_settings_are_well_formed():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for form in forms:
        content = yaml.safe_load(form.read_text("utf-8"))
        assert {"name", "description", "body"} <= set(content), form.name
        assert len({part["id"] for part in content["body"]}) == len(content["body"]), form.name
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    assert {"ruff", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}
    assert "postCreateCommand" in json.loads(text_of(".devcontainer/devcontainer.json"))


def test_the_container_installs_extras_that_exist_for_both_bases():
    text = text_of("Dockerfile")
    assert set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)) == {"cuda", "cpu", "final"}
    extras = re.search(r"/src\[([\w,]+)\]", text)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
