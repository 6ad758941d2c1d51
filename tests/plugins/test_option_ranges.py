"""A value that makes no sense for an option is refused by the option's name."""

from __future__ import annotations

from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import build_methods
from ssss_zoo.errors import UserError

REFUSED = {
    "augseg": "threshold=1.1 ema_decay=2 operations=0 weight=-1 copy_epochs=-1",
    "corrmatch": "threshold=1.1 momentum=-0.1 regions=-1 kl_weight=-1 dropout=1 partner=self",
    "cps": "weight=-1 partner=self",
    "cutmix_seg": "threshold=2 weight=-1 ema_decay=1.5 partner=self strength=stronk",
    "esl": "mass=2 weight=-1 contrast_temperature=0 contrast_anchors=0",
    "fixmatch": "ema_decay=2 threshold=1.5 threshold=nan partner=self",
    "mean_teacher": "weight=-1 ema_decay=1.5",
    "pixcon": "weight=-1 temperature=0 memory=0 admit=some",
    "prevmatch": "store=val interval=0 models=0 drawn=0 threshold=2 previous_weight=pixel image_factor=-1",
    "rankmatch": "weight=-1 agents=3 guard=-1",
    "stpp": "reliable=0 budget=half select=first cutout=2 scales=0 scales=[1,5] rank_scale=0",
    "u2pl": "drop=101 ema_decay=2 temperature=0 memory=0 anchor_floor=-1",
    "unimatch": "threshold=-0.1 dropout=1 partner=self",
    "unimatch_v2": "threshold=1.1 ema_decay=2 partner=self",
}


def test_a_value_out_of_range_is_refused_by_the_options_name(tiny_config):
    accepted = []
    for method, overrides in REFUSED.items():
        for override in overrides.split():
            key, _, value = f"options.{method}.{override}".partition("=")
            try:
                build_methods(tiny_config(f"method={method}", f"{key}={value}"))
                accepted.append(f"{key}={value}")
            except UserError as error:
                if key not in str(error):
                    accepted.append(f"{key}={value}: {error}")
    assert accepted == []


def test_all_methods_with_options_are_here():
    assert set(installed("methods")) - set(REFUSED) == {"supervised", "farcluss"}  # no options; tests of its own
