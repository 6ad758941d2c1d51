"""What several test files share, one theme a module; no test is in here, and no test file imports another."""

from pathlib import Path

import pytest

# Their assertions show values, as those of test files do.
pytest.register_assert_rewrite(*(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")))
