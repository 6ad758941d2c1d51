"""No link of README and documentation is dead, and each page begins with something to do."""

from __future__ import annotations

import re

from helpers.doc_pages import DOCS, all_pages, headings, without_code

LINK = re.compile(r"\]\(([^()\s]+)\)")


def test_every_link_leads_to_a_page_and_a_heading():
    pages = all_pages()
    dead = []
    for page, text in pages.items():
        for link in LINK.findall(without_code(text)):
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.md" if path.endswith("/") else target
            made_by_mkdocstrings = anchor.startswith("ssss_zoo.")
            if target not in pages and not target.exists():
                dead.append(f"{page.name}: {link}")
            elif anchor and not made_by_mkdocstrings and anchor not in headings(pages[target]):
                dead.append(f"{page.name}: {link} has no such heading")
    assert not dead


def test_no_page_loads_a_picture_or_a_script_from_another_host():
    loads = re.compile(r"!\[[^\]]*\]\(https?:|<(?:img|script|iframe|link)[^>]*https?:")
    assert [page.name for page, text in all_pages().items() if loads.search(text)] == []


def test_a_page_begins_with_what_the_reader_will_be_able_to_do():
    """Written pages: a sentence below the title, before any table, list, block of code or heading."""
    odd = []
    for page in sorted(DOCS.glob("*.md")):
        lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line]
        if lines[0].startswith("# ") and not re.match(r"\w", lines[1]):
            odd.append(page.name)
    assert not odd
