"""Messages of the errors that a user can mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssss_zoo.errors import UserError


def refusal(call: Callable[[], Any], *words: str) -> str:
    """The message of the UserError that `call` raises: one line that holds every one of `words`."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    return message
