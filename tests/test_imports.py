"""Imports that a start does without: all asked of one fresh process, in the order in which they are told here."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ssss_zoo.commands.cli import main

HELP = [["--help"], ["-h"], ["--version"], *([name, "--help"] for name in sorted(main.commands))]
PROGRAM = """
import json, sys
loaded = {}

import ssss_zoo
loaded["the package"] = sorted(sys.modules)

from ssss_zoo.commands.cli import command_line
heavy = {"torch", "numpy", "mlflow", "kornia", "timm", "omegaconf", "yaml", "rich", "pluggy"}
loaded["help"] = [(command_line(arguments), sorted(heavy & set(sys.modules))) for arguments in json.loads(sys.argv[1])]

from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import build_methods, make_manager
config = resolve(["method=supervised"])
make_manager(config, build_methods(config))
assert "farcluss" in installed("methods")
loaded["a method"] = sorted(name for name in sys.modules if name.startswith("ssss_zoo.plugins."))

import ssss_zoo.models.deeplabv3plus
loaded["the models"] = sorted(sys.modules)

from pathlib import Path
from tempfile import TemporaryDirectory
from ssss_zoo.train.logger import TrackedRun
from ssss_zoo.train.tracking import check_loggers, start_tracker
with TemporaryDirectory() as folder:
    for name, override in (("no tracking", "tracking.uri=off"), ("tensorboard", "tracking.to=[tensorboard]")):
        config = resolve(["tracking.to=[mlflow,tensorboard,wandb]", override])
        check_loggers(config)
        start_tracker(TrackedRun("a run", Path(folder), config.tracking), {}).finish("FINISHED", [])
        loaded[name] = sorted({"mlflow", "wandb", "tensorboard", "tensorflow"} & set(sys.modules))
print(json.dumps(loaded), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def process() -> SimpleNamespace:
    """What the process has imported at each point, and what it printed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(HELP)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return SimpleNamespace(loaded=json.loads(done.stderr.splitlines()[-1]), out=done.stdout)


def test_importing_the_package_loads_no_torch(process):
    assert "torch" not in process.loaded["the package"]


def test_help_imports_nothing_heavy(process):
    assert process.loaded["help"] == [[0, []] for _ in HELP]
    assert process.out.count("Usage: ssss") == len(HELP) - 1  # --version has none


def test_only_the_method_that_is_selected_is_imported(process):
    assert process.loaded["a method"] == ["ssss_zoo.plugins.baselines", "ssss_zoo.plugins.baselines.supervised"]


def test_importing_the_models_does_not_import_timm(process):
    assert "torch" in process.loaded["the models"]
    assert "timm" not in process.loaded["the models"]


def test_only_the_loggers_that_are_selected_are_imported(process):
    assert process.loaded["no tracking"] == []
    assert process.loaded["tensorboard"] == ["tensorboard"]  # and no tensorflow
