"""For the authors of plugins: what every method, data set and network must do, as tests to inherit.

    from ssss_zoo.testing import MethodContract

    class TestMine(MethodContract):
        method = "mine"  # an installed method's name, or the path of a file: "./mine.py"

`DatasetContract` takes `dataset` and `settings`, `NetworkContract` takes `model` and `settings`.
"""

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("methods", "datasets", "networks")))

from ssss_zoo.testing.datasets import DatasetContract  # noqa: E402 - only now are its assertions worth reading
from ssss_zoo.testing.methods import MethodContract  # noqa: E402
from ssss_zoo.testing.networks import NetworkContract  # noqa: E402

__all__ = ["DatasetContract", "MethodContract", "NetworkContract"]
