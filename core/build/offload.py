"""Weights of the last layers in CPU memory, brought to the device one layer ahead of the computation.

The device has room for two of these layers. While one computes, the next is on its way into the other's room, and the one behind the
last is the first: the next step finds its first two there. Only weights of linear layers move; norms and biases are small, and stay.

    layers   0 1 2 3 | 4 5 6 7        4 to 7 are offloaded
    room A             4   6   4
    room B               5   7   5
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, EngineError
from ..models.decoder import Decoder
from ..models.decoder_layer import DecoderLayer
from ..quant.base import LinearMethod
from ..settings.config import EngineConfig

log = logging.getLogger(__name__)

#: Offloaded layers that the device has room for.
ROOMS = 2


class Copier(Protocol):
    """Moves weights to the device beside its computation."""

    def host_tensor(self, like: Tensor) -> Tensor:
        """Memory on the CPU for the content of a tensor, of any content."""

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Any:
        """Queues copies source -> target, to start when all that was given to the device until now is done. Returns a ticket."""

    def wait(self, ticket: Any) -> None:
        """Makes all that is given to the device from now on start when these copies are done."""


class CudaCopier:
    """Copies from pinned memory on a stream of their own. torch takes a power of two of pinned bytes for each tensor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def host_tensor(self, like: Tensor) -> Tensor:
        return torch.empty_strided(like.size(), like.stride(), dtype=like.dtype, pin_memory=True)

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> torch.cuda.Event:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record(self._stream)
        return done

    def wait(self, ticket: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(ticket)


@dataclass(slots=True)
class Room:
    """Memory on the device that holds one offloaded layer, or soon will."""

    tensors: list[list[Tensor]]
    """Those of each linear layer."""
    number: int
    """Whose weights, counted from the first offloaded layer."""
    ticket: Any


class Offload:
    """Made before weights are loaded, which then go to the CPU one by one; `start` puts it into the model.

    Args:
        methods: of the linear layers of each offloaded layer, all layers alike.
        device: where the model computes.
    """

    def __init__(self, methods: Sequence[Sequence[LinearMethod]], device: torch.device, copier: Copier) -> None:
        assert len(methods) > ROOMS, "or nothing would be saved"
        self._methods = methods
        self._device = device
        self._copier = copier
        self._homes: list[list[list[Tensor]]] = []
        self._rooms: list[Room] = []
        self._lent: Room | None = None
        for method in self._all():
            method.place = self._to_host

    @property
    def num_layers(self) -> int:
        return len(self._methods)

    def start(self, model: Decoder) -> None:
        """Takes the rooms' memory; from now on the model's layers find their weights on the device while they are visited."""
        self._homes = [[method.tensors() for method in methods] for methods in self._methods]
        kinds = [[_kinds(tensors) for tensors in home] for home in self._homes]
        if any(kind != kinds[0] for kind in kinds):
            raise ConfigError(
                "cpu_offload_gb: the layers to be offloaded are not stored in one way, so they cannot share memory on the device; "
                "leave it out, or set activation_dtype=model"
            )
        for number in range(ROOMS):
            room = [[torch.empty_strided(*kind[:2], dtype=kind[2], device=self._device) for kind in linear] for linear in kinds[0]]
            self._rooms.append(Room(room, number, None))
            self._fetch(self._rooms[-1], number)
        model.visit = self.visit
        for method in self._all():
            method.place = None

    def visit(self, layers: Sequence[DecoderLayer]) -> Iterator[DecoderLayer]:
        """The layers one by one. What is left of a visit that was broken off is put right by the next one."""
        first = len(layers) - self.num_layers
        for index, layer in enumerate(layers):
            if index >= first:
                self._lend(index - first)
            yield layer
        self._take_back()

    def _all(self) -> Iterator[LinearMethod]:
        for methods in self._methods:
            yield from methods

    def _to_host(self, tensors: list[Tensor]) -> list[Tensor]:
        try:
            homes = [self._copier.host_tensor(tensor) for tensor in tensors]
        except RuntimeError as error:
            raise EngineError("no CPU memory for offloaded weights; lower --cpu-offload-gb") from error
        for home, tensor in zip(homes, tensors, strict=True):
            home.copy_(tensor)
        return homes

    def _lend(self, number: int) -> None:
        """Gives a layer its weights on the device."""
        self._take_back()
        room = next((room for room in self._rooms if room.number == number), None)
        if room is None:  # the visit before did not come to its end
            for ahead, one in enumerate(self._rooms):
                self._fetch(one, (number + ahead) % self.num_layers)
            room = self._rooms[0]
        self._copier.wait(room.ticket)
        for method, tensors in zip(self._methods[number], room.tensors, strict=True):
            method.replace(tensors)
        self._lent = room

    def _take_back(self) -> None:
        """After the last lent layer was given to the device: its room is for the next layer that has none."""
        room, self._lent = self._lent, None
        if room is None:
            return
        for method, tensors in zip(self._methods[room.number], self._homes[room.number], strict=True):
            method.replace(tensors)
        self._fetch(room, (room.number + ROOMS) % self.num_layers)

    def _fetch(self, room: Room, number: int) -> None:
        pairs = [
            pair for sources, targets in zip(self._homes[number], room.tensors, strict=True) for pair in zip(sources, targets, strict=True)
        ]
        room.number, room.ticket = number, self._copier.begin(pairs)


def _kinds(tensors: Iterable[Tensor]) -> list[tuple[torch.Size, tuple[int, ...], torch.dtype]]:
    return [(tensor.size(), tensor.stride(), tensor.dtype) for tensor in tensors]


def plan_offload(
    config: EngineConfig, model: Decoder, dtype: torch.dtype, device: torch.device, copier: Copier, free_bytes: int
) -> Offload | None:
    """The layers to offload for `cpu_offload_gb`; None: nothing is to be done.

    Args:
        model: before its weights are loaded.
        free_bytes: what there is of CPU memory for this rank.

    Raises ConfigError if CPU memory cannot hold it.
    """
    budget = int(config.cpu_offload_gb * 2**30)
    methods = [[linear.method for linear in layer.linears()] for layer in model.layers]
    sizes = [
        sum(linear.method.num_bytes(linear.out_features, linear.in_features, dtype) for linear in layer.linears()) for layer in model.layers
    ]
    count = count_layers(sizes, budget)
    if not count:
        if budget:
            log.warning("cpu_offload_gb has no effect: the device has room for %d layers, and the model has %d", ROOMS, len(sizes))
        return None
    if len({tuple((linear.out_features, linear.in_features) for linear in layer.linears()) for layer in model.layers[-count:]}) > 1:
        raise ConfigError("cpu_offload_gb: the model's layers are of several kinds, which cannot share memory on the device; leave it out")
    held, saved = sum(sizes[-count:]), _saved(sizes, count)
    if held > free_bytes:
        raise ConfigError(
            f"cpu_offload_gb={config.cpu_offload_gb:g} takes {held / 2**30:.2f} GiB of CPU memory ({count} layers), and "
            f"{free_bytes / 2**30:.2f} GiB are free; lower it to {free_bytes / held * config.cpu_offload_gb * 0.9:.1f}"
        )
    if saved < budget:
        log.warning("cpu_offload_gb: no more than %.2f GiB of this model can be kept off the device", saved / 2**30)
    log.info(
        "weights of %d of %d layers are in CPU memory (%.2f GiB); the device holds %.2f GiB less",
        count,
        len(sizes),
        held / 2**30,
        saved / 2**30,
    )
    return Offload(methods[-count:], device, copier)


def count_layers(sizes: Sequence[int], budget: int) -> int:
    """The fewest layers, from the last, that free `budget` bytes of the device; all of them if none do. 0 where nothing can be freed.

    Args:
        sizes: bytes of each layer.
    """
    if budget <= 0 or len(sizes) <= ROOMS:
        return 0
    return next((count for count in range(ROOMS + 1, len(sizes)) if _saved(sizes, count) >= budget), len(sizes))


def _saved(sizes: Sequence[int], count: int) -> int:
    """Bytes that the device holds less when the last `count` layers are offloaded."""
    return sum(sizes[-count:]) - ROOMS * max(sizes[-count:])
