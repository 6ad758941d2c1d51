"""Writes the project's address into every file that names it: python scripts/set_project_url.py https://HOST/OWNER/NAME

The address stands in `PROJECT_URL` of ssss_zoo/__init__.py; files that cannot import it repeat it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
URL_FILES = (
    "ssss_zoo/__init__.py",
    "pyproject.toml",
    "CITATION.cff",
    "SECURITY.md",
    "CHANGELOG.md",
    ".github/ISSUE_TEMPLATE/config.yml",
)  # a test holds this list complete


def current_url() -> str:
    """The address that PROJECT_URL has now."""
    text = (ROOT / "ssss_zoo" / "__init__.py").read_text("utf-8")
    found = re.search(r'^PROJECT_URL = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        raise SystemExit("ssss_zoo/__init__.py has no line PROJECT_URL = ...")
    return found[1]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)*", sys.argv[1]):
        sys.exit("usage: python scripts/set_project_url.py https://HOST/OWNER/NAME (without a slash at the end)")
    old = current_url()
    for name in URL_FILES:
        file = ROOT / name
        file.write_text(file.read_text("utf-8").replace(old, sys.argv[1]), "utf-8", newline="\n")
    print(f"{old} is {sys.argv[1]} now in {', '.join(URL_FILES)}")
