"""The books that a fleet keeps: of each replica, and of each request that is not answered."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..types.placed import Placed
from .replica import COUNTED
from .transport import Replica


@dataclass(eq=False, slots=True)
class Member:
    """A replica of a fleet, under one number: it and what takes its place.

    Args:
        replica: as its transport knows it.
        number: counted from 0.
        is_ready: it has loaded its model.
        num_blocks, num_states: what its memory has room for, see EngineStats.
        load: sequences that it has.
        requests: those that it has, in the order in which they were sent.
        numbers: its counts, see COUNTED.
        heard: time.monotonic() of the last word of it, or of what it was given when it had nothing.
        is_on_trial: it has nothing but requests that may be what ends replicas.
        num_lost: replicas of this number that were lost in a row, with no answer of any of them.
    """

    replica: Replica
    number: int
    is_ready: bool = False
    num_blocks: int = 0
    num_states: int = 0
    load: int = 0
    requests: dict[str, None] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=lambda: [0] * len(COUNTED))
    heard: float = 0.0
    is_on_trial: bool = False
    num_lost: int = 0


@dataclass(eq=False, slots=True)
class Asked:
    """A request that is not answered.

    Args:
        encoded: to be sent, and sent again.
        weight: its sequences, or texts.
        member: who has it; None: nobody.
        media: those of its prompt, which replicas may ask for.
        num_lost: replicas that were lost while they had it.
        num_lost_alone: of these, those that had nothing else.
    """

    encoded: bytes
    weight: int
    member: Member | None = None
    media: tuple[Placed, ...] = ()
    num_lost: int = 0
    num_lost_alone: int = 0
