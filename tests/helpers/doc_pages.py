"""The pages of the documentation: those written by hand, and those that docs/generate.py makes of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load_module(path: Path):
    """The Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


generate = load_module(DOCS / "generate.py")


def all_pages() -> dict[Path, str]:
    """The text of README, of CONTRIBUTING and of each page, by the file that it is or would be."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for p in DOCS.glob("*.md") if p.stem[-5:] != "-head")]
    made = {DOCS / name: text for name, text in generate.pages().items()}
    return {file: file.read_text(encoding="utf-8") for file in files} | made


def without_code(text: str) -> str:
    """The text without blocks of code and code in a line, where brackets are no links and `#` is no heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def headings(text: str) -> set[str]:
    """The anchors of a page: those of its headings, and those that its HTML sets."""
    blocks_removed = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", blocks_removed, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain} | set(re.findall(r'id="([^"]+)"', text))
