"""ssss-zoo: semi-supervised semantic segmentation methods side by side, on one engine, with parts that mix.

    from ssss_zoo import compare, run

    result = run(method="farcluss", dataset="shapes", train={"steps": 60}, seed=1)
    table = compare(methods=["fixmatch", "farcluss"], seeds=[0, 1, 2], dataset="shapes", train={"steps": 60})

`__all__` is what stays; everything else may change.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
PROJECT_URL = "https://ssss-zoo.example"  # no address is fixed yet; scripts/set_project_url.py writes it everywhere
__all__ = [
    "CompareResult",
    "Config",
    "Interrupted",
    "RunResult",
    "SearchResult",
    "TrainingPlan",
    "UserError",
    "compare",
    "configure",
    "evaluate",
    "inspect",
    "load",
    "plan",
    "report",
    "run",
    "search",
]  # fmt: skip

if TYPE_CHECKING:
    from ssss_zoo.api import (
        CompareResult,
        Config,
        Interrupted,
        RunResult,
        SearchResult,
        TrainingPlan,
        UserError,
        compare,
        configure,
        evaluate,
        inspect,
        load,
        plan,
        report,
        run,
        search,
    )


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: `import ssss_zoo` loads no torch."""
    if name in __all__:
        from ssss_zoo import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
