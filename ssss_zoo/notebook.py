"""How results show themselves in a notebook: data frames of pandas, where it is installed, and small HTML tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from ssss_zoo.errors import UserError


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas.DataFrame with a line for each mapping. Raises UserError where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        raise UserError("to_dataframe() needs pandas: pip install 'ssss-zoo[tracking]'") from None
    return pandas.DataFrame(list(rows))


def html_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of HTML, all of whose texts are escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{lines}</table>"
