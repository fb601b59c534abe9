"""Where media may be read from: nothing is opened or asked that was not allowed, whatever a record says."""

from __future__ import annotations

import base64
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.media import addresses
from infer.core.media.loader import MediaLoader
from infer.core.media.policy import MediaPolicy
from infer.core.types.media import MediaPart

pytest.importorskip("PIL.Image")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + _chunk(b"IDAT", zlib.compress(b"\0\7"))
PNG += _chunk(b"IEND", b"")


def load(source: str, policy: MediaPolicy | None = None) -> Any:
    return MediaLoader(policy or MediaPolicy()).load(MediaPart("image", source, "here"))


def error(source: str, policy: MediaPolicy | None = None) -> RecordError:
    with pytest.raises(RecordError) as caught:
        load(source, policy)
    assert caught.value.param == "here"
    assert "\n" not in caught.value.message
    return caught.value


# --- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder with an image, links and a pipe in it, and an image beside it."""
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    for path in (root / "a.png", root / "deep" / "b.png", root / "with space.png", tmp_path / "secret.png", tmp_path / "media-2.png"):
        path.write_bytes(PNG)
    (root / "link.png").symlink_to("a.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "dead").symlink_to("nowhere")
    (tmp_path / "in").symlink_to(root)
    os.mkfifo(root / "pipe")
    return root.resolve()


def test_files_are_refused_unless_a_folder_is_named(folder: Path) -> None:
    for source in (str(folder / "a.png"), f"file://{folder}/a.png", "a.png", "/etc/passwd", "file:///etc/passwd"):
        found = error(source)
        assert (found.code, "--allowed-local-media-path" in found.message) == ("media_refused", True)


@pytest.mark.parametrize(
    "source",
    [
        "a.png",
        "deep/b.png",
        "./deep/../a.png",
        "link.png",
        "{}/a.png",
        "file://{}/a.png",
        "file:///{}/link.png",
        "file://localhost{}/a.png",
        "FILE://{}/with%20space.png",
        "with space.png",
        "{}/../in/a.png",
    ],
)
def test_files_in_the_folder_are_read(folder: Path, source: str) -> None:
    medium = load(source.format(folder), MediaPolicy(local_path=str(folder)))
    assert (medium.data.size, medium.kind) == ((1, 1), "image")


@pytest.mark.parametrize(
    "source",
    [
        "../secret.png",
        "deep/../../secret.png",
        "{}/../secret.png",
        "file://{}/../secret.png",
        "out.png",
        "up/secret.png",
        "file://{}/%2e%2e/secret.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "/proc/self/environ",
        "{}-2.png",
        "../nothing",
        "/proc/self/fd/0",
        "/dev/zero",
        "/proc/self/root/etc/passwd",
    ],
)
def test_nothing_outside_of_the_folder_is_read(folder: Path, source: str) -> None:
    found = error(source.format(folder), MediaPolicy(local_path=str(folder)))
    assert (found.code, "is outside of" in found.message) == ("media_refused", True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nothing.png", "there is no such file"),
        ("a.png/b.png", "there is no such file"),
        ("dead", "there is no such file"),
        ("deep", "is a folder"),
        ("pipe", "is no regular file"),
        ("loop", "cannot be read"),
        ("a\0.png", "is no path"),
        ("file://elsewhere/a.png", "another machine"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(folder: Path, source: str, told: str) -> None:
    found = error(source, MediaPolicy(local_path=str(folder)))
    assert (found.code, told in found.message) == ("media_error", True), found.message


def test_views_of_the_system_are_no_files_even_where_all_files_are_allowed() -> None:
    for path in ("/proc/self/environ", "/proc/self/root/proc/self/environ", "/sys/kernel/mm", "/dev/zero"):
        if Path(path).exists():
            assert error(path, MediaPolicy(local_path="/")).code == "media_refused"


def test_a_file_may_not_be_larger_than_allowed(folder: Path) -> None:
    with (folder / "large").open("wb") as file:
        file.truncate(1 << 40)  # a hole: no bytes on the disk
    found = error("large", MediaPolicy(local_path=str(folder)))
    assert (found.code, "max_media_bytes" in found.message) == ("media_refused", True)


@pytest.mark.parametrize("source", ["ftp://h/a.png", "gopher://h/1", "s3://bucket/a.png", "javascript:alert(1)", "unix:///a", "blob://x"])
def test_other_schemes_are_refused(source: str, folder: Path) -> None:
    found = error(source, MediaPolicy(local_path=str(folder), domains=("*", "h")))
    assert (found.code, "is not read" in found.message) == ("media_refused", True)


# --- the network


class Server(ThreadingHTTPServer):
    """On a free port of this machine; counts what it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.stop = threading.Event()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no matter."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name, _, argument = self.path[1:].partition("/")
        getattr(self, f"do_{name.partition('?')[0]}", self.do_missing)(argument)

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_missing(self, _: str) -> None:
        self.answer(404, b"<html>Not Found</html>")

    def do_png(self, _: str) -> None:
        self.answer(body=PNG, Content_Type="text/html")

    def do_html(self, _: str) -> None:
        self.answer(body=b"<html>log in</html>", Content_Type="image/png")

    def do_status(self, code: str) -> None:
        self.answer(int(code))

    def do_to(self, argument: str) -> None:
        self.answer(302, Location=base64.urlsafe_b64decode(argument).decode())

    def do_loop(self, _: str) -> None:
        self.answer(301, Location="/loop")

    def do_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.stop.is_set():
            self.wfile.write(b"\0" * 65536)

    def do_slow(self, _: str) -> None:
        """A byte now and then: none of them comes too late by itself."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.stop.wait(0.05):
            self.wfile.write(b"\0")

    def do_slowhead(self, _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        while not self.server.stop.wait(0.05):
            self.wfile.write(b"a")

    def do_silent(self, _: str) -> None:
        self.server.stop.wait(60)

    def do_short(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PNG) + 10))
        self.end_headers()
        self.wfile.write(PNG)

    def do_chunked(self, cut: str) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(PNG), PNG) + (b"20\r\nab" if cut else b"0\r\n\r\n"))

    def do_said(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(PNG)

    def do_gzip(self, _: str) -> None:
        self.answer(body=zlib.compress(PNG, wbits=31), Content_Encoding="gzip")

    def do_nothttp(self, _: str) -> None:
        self.wfile.write(b"220 smtp ready\r\n")

    def do_headers(self, _: str) -> None:
        self.answer(body=PNG, **{f"X_{i}": "x" * 100 for i in range(300)})


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the `with` is open."""
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield one
    one.stop.set()
    one.shutdown()
    one.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def policy(*domains: str, **more: Any) -> MediaPolicy:
    return MediaPolicy(domains=domains or ("127.0.0.1",), **{"timeout": 30.0, **more})


def to(url: str) -> str:
    return "to/" + base64.urlsafe_b64encode(url.encode()).decode()


def test_nothing_is_fetched_unless_a_host_is_named(server: Server, folder: Path) -> None:
    for one in (MediaPolicy(), MediaPolicy(local_path=str(folder)), policy("images.example.com", "localhost"), policy("127.0.0.1:1")):
        found = error(f"http://127.0.0.1:{server.port}/png", one)
        assert (found.code, "--allowed-media-domains" in found.message) == ("media_refused", True)
    assert server.asked == []


def test_a_named_host_is_asked(server: Server) -> None:
    for one in (policy("127.0.0.1"), policy("x.example", f"127.0.0.1:{server.port}")):
        for url in (f"http://127.0.0.1:{server.port}/png", f"HTTP://127.0.0.1:{server.port}/chunked?q=1"):
            assert load(url, one).data.size == (1, 1)
    assert server.asked == ["/png", "/chunked?q=1"] * 2


def test_the_same_url_is_asked_once_by_all_that_want_it(server: Server) -> None:
    loader = MediaLoader(policy())
    parts = [MediaPart("image", f"http://127.0.0.1:{server.port}/png?{i % 2}", "here") for i in range(16)]
    found: list[Any] = [None] * len(parts)

    def one(i: int) -> None:
        found[i] = loader.load(parts[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({medium.hash for medium in found}) == 1
    assert sorted(server.asked) == ["/png?0", "/png?1"]
    with pytest.raises(RecordError):
        loader.load(MediaPart("image", f"http://127.0.0.1:{server.port}/nothing", "here"))
    assert not loader._busy  # whatever became of them, nothing is kept of URLs that are no longer asked


@pytest.mark.parametrize(
    ("path", "code", "told", "retryable"),
    [
        ("nothing", "media_error", "the server answers 404", False),
        ("status/403", "media_error", "the server answers 403", False),
        ("status/503", "media_error", "the server answers 503", True),
        ("status/429", "media_error", "the server answers 429", True),
        ("status/204", "media_error", "the server answers 204", False),
        ("html", "media_error", "but an HTML page", False),
        ("loop", "media_error", "more than 5 redirects", False),
        ("endless", "media_refused", "max_media_bytes", False),
        ("said/99999999999", "media_refused", "99,999,999,999 bytes, more than", False),
        ("said/10", "media_error", "damaged", False),
        ("said/-5", "media_error", "", False),
        ("short", "media_error", "ended after", True),
        ("chunked/cut", "media_error", "ended after", True),
        ("gzip", "media_error", "packed (gzip)", False),
        ("nothttp", "media_error", "does not answer in HTTP", True),
        ("headers", "media_error", "does not answer in HTTP", True),
    ],
)
def test_answers_that_are_no_medium(server: Server, path: str, code: str, told: str, retryable: bool) -> None:
    url = f"http://127.0.0.1:{server.port}/{path}"
    if path == "said/-5":  # no length at all: the file ends with the connection
        assert load(url, policy()).data.size == (1, 1)
        return
    found = error(url, policy())
    assert (found.code, told in found.message, found.retryable) == (code, True, retryable), found.message


@pytest.mark.parametrize("path", ["slow", "slowhead", "silent"])
def test_slow_answers_end_with_the_time(server: Server, path: str) -> None:
    began = time.monotonic()
    found = error(f"http://127.0.0.1:{server.port}/{path}", policy(timeout=0.4))
    assert (found.code, found.retryable, "media_timeout" in found.message) == ("media_error", True, True), found.message
    assert 0.3 < time.monotonic() - began < 25  # the server would go on for a minute


def test_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.png"
        found = error(url, policy())
    assert (found.code, found.retryable) == ("media_error", True)


def test_redirects_are_followed_to_allowed_places_alone(server: Server, folder: Path) -> None:
    base = f"http://127.0.0.1:{server.port}"
    one = policy(local_path=str(folder))
    assert load(f"{base}/{to('/png')}", one).data.size == (1, 1)
    assert load(f"{base}/{to(f'{base}/png')}", one).data.size == (1, 1)
    server.asked.clear()
    for url, told in {
        f"http://localhost:{server.port}/png": "leads to localhost",
        f"http://[::1]:{server.port}/png": "leads to [::1]",
        f"http://2130706433:{server.port}/png": "leads to 2130706433",
        f"http://0x7f.1:{server.port}/png": "leads to 0x7f.1",
        "http://169.254.169.254/latest/meta-data": "leads to 169.254.169.254",
        f"http://127.0.0.1@localhost:{server.port}/png": "password",
        f"file://{folder}/a.png": "only http and https",
        "file:///etc/passwd": "only http and https",
        "data:image/png;base64,AAAA": "only http and https",
        "gopher://127.0.0.1:1/x": "only http and https",
    }.items():
        found = error(f"{base}/{to(url)}", one)
        assert (found.code, told in found.message) == ("media_refused", True), found.message
    assert {path.partition("/")[2][:3] for path in server.asked} == {"to/"}  # nothing but the redirects themselves


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:PORT\\@example.com/png",
        "http://127.0.0.1:PORT /png",
        "http://127.0.0.1:99999999/",
        "http:///png",
        "http://[::1/png",
        "http://127.0.0.1:PORT/a\nb",
        "http://127.0.0.1:x/png",
        "http://",
    ],
)
def test_what_is_no_url_is_not_asked(server: Server, url: str) -> None:
    found = error(url.replace("PORT", str(server.port)), policy("*", "127.0.0.1", "example.com"))
    assert found.code == "media_error"
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://a:b@127.0.0.1:PORT/png",
        "http://127.0.0.1.example.com:PORT/png",
        "http://example.com#@127.0.0.1:PORT/png",
        "http://localhost:PORT/png",
        "http://127.0.0.2:PORT/png",
    ],
)
def test_urls_that_look_like_an_allowed_host_are_not_asked(server: Server, url: str) -> None:
    assert error(url.replace("PORT", str(server.port)), policy()).code == "media_refused"
    assert server.asked == []


#: Addresses that a name may turn out to stand for, and whether that is refused under "*" and for a host that is named.
ADDRESSES = {
    "127.0.0.1": (True, True),
    "127.8.8.8": (True, True),
    "0.0.0.0": (True, True),
    "169.254.169.254": (True, True),
    "224.0.0.1": (True, True),
    "::1": (True, True),
    "::": (True, True),
    "fe80::1": (True, True),
    "::ffff:127.0.0.1": (True, True),
    "::ffff:10.0.0.1": (True, False),
    "64:ff9b::7f00:1": (True, True),
    "2002:7f00:1::": (True, True),
    "10.0.0.1": (True, False),
    "192.168.1.1": (True, False),
    "172.16.0.1": (True, False),
    "100.64.0.1": (True, False),
    "fd00::1": (True, False),
    "8.8.8.8": (False, False),
    "2606:4700::1111": (False, False),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_a_name_stands_for_is_looked_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: [(family, 1, 6, "", (address, 80))])
    for domain, refused in zip(("*", "images.example.com"), ADDRESSES[address], strict=True):
        target = addresses.target_of("http://images.example.com/a.png", (domain,), "here")
        if refused:
            with pytest.raises(RecordError, match=r"images\.example\.com is") as caught:
                addresses.addresses_of(target, "here")
            assert caught.value.code == "media_refused"
        else:
            assert addresses.addresses_of(target, "here") == [(family, (address, 80))]


def test_a_name_that_stands_for_this_machine_is_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    local = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
    public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", server.port))
    for found in ([local], [public, local]):  # one bad address is enough
        monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, found=found, **__: found)
        for domain in ("rebound.example", "*"):
            assert error(f"http://rebound.example:{server.port}/png", policy(domain)).code == "media_refused"
    assert server.asked == []


def test_localhost_is_asked_where_it_is_named(server: Server) -> None:
    assert load(f"http://localhost:{server.port}/png", policy("localhost")).data.size == (1, 1)
    assert error(f"http://localhost:{server.port}/png", policy("*")).code == "media_refused"
    assert error(f"http://127.0.0.1:{server.port}/png", policy("*")).code == "media_refused"


def test_messages_tell_no_secrets_of_urls(server: Server) -> None:
    found = error(f"http://127.0.0.1:{server.port}/nothing?token=hunter2", policy())
    assert "hunter2" not in found.message


def test_check_asks_nobody(server: Server, folder: Path) -> None:
    loader = MediaLoader(policy(local_path=str(folder)))
    loader.check(MediaPart("image", f"http://127.0.0.1:{server.port}/nothing", "here"))
    loader.check(MediaPart("image", "a.png", "here"))
    for source in ("http://elsewhere.example/a.png", "nothing.png", "/etc/passwd"):
        with pytest.raises(RecordError):
            loader.check(MediaPart("image", source, "here"))
    assert server.asked == []
