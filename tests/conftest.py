"""Where the tests find their fixtures: helpers/fixtures.py."""

from __future__ import annotations

import sys

import pytest

from helpers.systems import LINUX_TESTS

collect_ignore = ["fixtures"]  # one of them is a package with tests of its own: test_packages.py runs them
if sys.platform != "linux":
    collect_ignore += LINUX_TESTS


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, but not in the process that only hands tests out to others: they import torch, which takes
    seconds."""
    hands_out = bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("helpers.fixtures")
