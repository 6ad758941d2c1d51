"""What the tests of data sets share."""

import pytest

from helpers.server import serving


@pytest.fixture
def server():
    with serving() as running:
        yield running
