"""For the authors of plugins: what every method must do, as tests to inherit; and a run small enough for a test.

from ssss_zoo.testing import MethodContract

class TestMine(MethodContract):
    method = "mine"  # an installed method's name, or the path of a file: "./mine.py"
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.methods")

from ssss_zoo.testing.methods import MethodContract  # noqa: E402 - only now are its assertions worth reading

__all__ = ["MethodContract"]
