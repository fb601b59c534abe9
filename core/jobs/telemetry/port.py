"""The port of --metrics-port: the newest metrics over HTTP, by prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...errors import ConfigError
from .metrics import Sample

#: Nobody else's machine reaches it unless that is asked for.
LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "[HOST:]PORT"; an IPv6 host stands in brackets. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(f"{text!r} is not PORT or HOST:PORT, such as 9464 (0: any free one)")
    return host.removeprefix("[").removesuffix("]") or LOOPBACK, int(port)


class MetricsPort:
    """Listens from construction to `close`, in a thread of its own.

    Args:
        newest: gives the samples to answer with.

    Attributes:
        url: where they are.

    Raises ConfigError without the library, and where the port cannot be had.
    """

    def __init__(self, host: str, port: int, newest: Callable[[], Sequence[Sample]]) -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            why = f"--metrics-port needs prometheus-client, which cannot be imported ({error})"
            raise ConfigError(f"{why}; pip install 'infer-jsonl[metrics]', or write --metrics FILE, which needs nothing") from None
        registry: Any = CollectorRegistry()
        registry.register(_Collector(newest))
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise ConfigError(f"--metrics-port {host}:{port}: {error.strerror}; choose another port (0: any free one)") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Collector:
    def __init__(self, newest: Callable[[], Sequence[Sample]]) -> None:
        self._newest = newest

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import Metric

        for one in self._newest():
            # The library adds the `_total` of counters itself.
            metric: Any = Metric(one.name.removesuffix("_total") if one.kind == "counter" else one.name, one.help, one.kind)
            for labels, value in one.values:
                metric.add_sample(one.name, dict(labels), value)
            yield metric
