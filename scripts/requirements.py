"""Prints the dependencies at their oldest allowed releases, one `name==version` a line, to install and test with:

    python scripts/requirements.py >oldest.txt && pip install -r oldest.txt -e '.[test]'

With an extra's name as argument, its dependencies are printed, too.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest_releases(extras: list[str]) -> list[str]:
    """The pins. A dependency without a lower bound, and extras of the package itself, give none."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    unknown = [name for name in extras if name not in project["optional-dependencies"]]
    if unknown:
        raise SystemExit(f"no extra {unknown[0]}; there are {' '.join(sorted(project['optional-dependencies']))}")
    wanted = [*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])]
    found = [re.match(r"([\w.-]+)(\[[\w,]+\])?\s*>=([\w.]+)", text) for text in wanted]
    return [f"{match[1]}{match[2] or ''}=={match[3]}" for match in found if match]


if __name__ == "__main__":
    print("\n".join(oldest_releases(sys.argv[1:])))
