"""Names all that a release still lacks: python scripts/check_release.py 0.1.0"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_faults(version: str) -> Iterator[str]:
    """What a release of `version` still lacks, one line each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    package = (ROOT / "ssss_zoo" / "__init__.py").read_text("utf-8")
    if project["version"] != version:
        yield f"pyproject.toml has version {project['version']}, expected {version}"
    if f'__version__ = "{version}"' not in package:
        yield f"ssss_zoo/__init__.py has another __version__ than {version}"
    if f"version: {version}" not in (ROOT / "CITATION.cff").read_text("utf-8").splitlines():
        yield f"CITATION.cff has another version than {version}"
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        yield f"CHANGELOG.md has no heading '## [{version}] - YYYY-MM-DD'"
    if re.search(r'^PROJECT_URL = "https?://[^"/]*\.example\b', package, re.MULTILINE):
        yield "PROJECT_URL is still a placeholder: python scripts/set_project_url.py https://..."


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/check_release.py VERSION")
    faults = list(release_faults(sys.argv[1]))
    print("\n".join(faults) or f"ready to release {sys.argv[1]}")
    sys.exit(2 if faults else 0)
