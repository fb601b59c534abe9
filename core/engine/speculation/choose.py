"""The speculation that the settings ask for."""

from __future__ import annotations

from ...settings.config import EngineConfig
from ...settings.speculation_args import DRAFTS, MOST_DRAFTS
from ..scheduler import Scheduler
from .drafter import Drafter
from .own_text import OwnText
from .speculation import Speculation


def speculation_of(config: EngineConfig, scheduler: Scheduler, drafter: Drafter | None, *, padded: bool) -> Speculation | None:
    """None where there is none, as with models that keep states: they cannot go back.

    Args:
        drafter: None: sequences' own text.
        padded: as of `Speculation`.
    """
    if config.speculation == "off" or scheduler.blocks.states is not None:
        return None
    drafter = drafter or OwnText(config.prompt_lookup_min, config.prompt_lookup_max)
    if config.speculation == "auto":
        return Speculation(scheduler, drafter, config.num_speculative_tokens or MOST_DRAFTS, thrifty=True, padded=padded)
    return Speculation(scheduler, drafter, config.num_speculative_tokens or DRAFTS, thrifty=False)
