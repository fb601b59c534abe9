"""A bucket of a real S3 server on this machine, with a proxy before it that fails as it is told to."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("flask")
moto_server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

from infer.core.remote import store as store_module  # noqa: E402


class Proxy(http.server.ThreadingHTTPServer):
    """Hands on what it is asked, but for the faults: (method, what is in the path, "500", "cut" or "stall"), each once."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.faults: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()

    def fault_of(self, method: str, path: str) -> str:
        with self.lock:
            for fault in self.faults:
                if fault[0] == method and fault[1] in path:
                    self.faults.remove(fault)
                    return fault[2]
        return ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: Any) -> None:
        pass

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault_of(self.command, self.path)
        if fault == "stall":
            time.sleep(3)
            self.close_connection = True
            return
        if fault == "500":
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        if self.command != "HEAD" and answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        self.close_connection = fault == "cut"
        behind.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _hand_on


class Bucket:
    """A bucket, of which a test looks at the objects. `bucket("a")` is the URL of one."""

    def __init__(self, client: Any, name: str, proxy: Proxy) -> None:
        self.client, self.name, self.proxy = client, name, proxy
        client.create_bucket(Bucket=name)

    def __call__(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)
        return self(key)

    def get(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return body

    @property
    def keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    @property
    def uploads(self) -> list[str]:
        """Uploads in parts that are under way."""
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]


@pytest.fixture(scope="module")
def s3_proxy() -> Iterator[Proxy]:
    s3fs.S3FileSystem.clear_instance_cache()  # those of another module's server, which is gone
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    server.stop()


@pytest.fixture
def bucket(s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Bucket:
    endpoint = f"http://127.0.0.1:{s3_proxy.server_address[1]}"
    settings = {"ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing", "DEFAULT_REGION": "us-east-1", "ENDPOINT_URL": endpoint}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(store_module, "FIRST_PAUSE_S", 0.01)
    s3_proxy.faults.clear()
    name = "".join(letter for letter in request.node.name.lower().replace("_", "-") if letter.isalnum() or letter == "-")
    return Bucket(boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3_proxy.behind}"), name[:60].strip("-"), s3_proxy)
