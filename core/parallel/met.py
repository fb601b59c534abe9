"""Those that a rank exchanges with: the ranks of its stage, and a rank of the stage before and of the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .channel import Channel
from .group import SINGLE, Group
from .stages import WHOLE, Place


@dataclass(frozen=True, slots=True)
class Met:
    """Those that a rank exchanges with."""

    place: Place
    group: Group
    """Of its stage."""
    before: Channel | None
    """From the stage before, if there is one."""
    after: Channel | None
    """To the stage after it."""
    everyone: Group = SINGLE
    """Whom the channels go through, where that is a backend."""

    def greet(self, device: torch.device) -> None:
        """See `Group.greet`: all ranks have to call it."""
        self.everyone.greet(device)
        self.group.greet(device)

    def abort(self) -> None:
        """Ends what waits for other ranks, from any thread."""
        self.everyone.abort()
        self.group.abort()


#: One rank that has all layers.
ALONE = Met(Place(0, WHOLE, 0, 1), SINGLE, None, None)
