"""Commands in processes forked from one that has imported torch and `infer` already.

A new interpreter takes two to three seconds of CPU time to import them, which is most of what a run of a tiny model costs. The
forked process is one of its own in all that such tests are about: its memory, its descriptors, its signals and its death. It differs in
what happens before `infer.cli.main.run`: nothing is imported, and Python's hashes of strings have the seed of the process that it was
forked from. Tests of the start itself take the program (`infer_program`).
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Modules that a run imports, and these all others. None of them starts a thread.
IMPORTED = (
    *("torch", "infer.cli.job", "infer.core.build.engines", "infer.core.jobs.job", "infer.kernels.cpu.library"),
    *("infer.core.build.rank", "infer.core.fleet.replica"),
)
#: The module of ranks and replicas, which have a descriptor to talk over.
WORKER = "infer.core.parallel.worker"
#: Descriptors that a process may keep have lower numbers.
KEPT = 256
#: Commands that import torch, or are started often.
COMMANDS = frozenset({"generate", "chat", "embed", "beam", "score", "classify", "run", "merge"})
#: What they may be started with.
OPTIONS = frozenset({"stdin", "stdout", "stderr", "env", "cwd", "text"})
#: But not these: each run says the first to torch and sets the second itself.
SET_ANYWAY = frozenset({"OMP_NUM_THREADS", "PYTHONSAFEPATH"})
#: Beginnings of variables that are read as an interpreter or a library starts.
READ_AT_THE_START = ("PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "TORCH_", "CUDA", "TRITON")
#: Bytes of a request: its words and its environment.
REQUEST = 1 << 17


class Forker:
    """The process that forks; started when it is first needed."""

    def __init__(self, program: str, folder: Path) -> None:
        self.environment = dict(os.environ)
        self._program = program
        self._address = folder / "forker"
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def suits(self, argv: list[str], options: dict[str, Any]) -> bool:
        """True if it makes no difference to this process that it is forked: a command that imports torch, in an environment of which
        nothing has been read by then."""
        if sys.platform != "linux" or not argv or argv[0] not in COMMANDS or not options.keys() <= OPTIONS:
            return False
        ours, env = self.environment, options.get("env") or os.environ
        read = {name for name in {*ours, *env} - SET_ANYWAY if name.startswith(READ_AT_THE_START)}
        return all(ours.get(name) == env.get(name) for name in read)

    def ask(self, request: dict[str, Any], fds: list[int]) -> socket.socket:
        """Asks for a process with these as its stdin, stdout, stderr, and what is kept. Its id comes as one message, and its status as
        the next."""
        with self._starting:
            if self._process is None:
                self._start()
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.connect(str(self._address))
        socket.send_fds(ours, [json.dumps(request).encode()], fds)
        return ours

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._program, str(self._address)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def start(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        """As subprocess.Popen: forked where that makes no difference, or else the program."""
        return Forked(self, argv, **options) if self.suits(argv[1:], options) else subprocess.Popen(argv, **options)

    def worker(self, argv: list[str], **options: Any) -> subprocess.Popen[Any]:
        """A rank or a replica, as core/parallel/ranks.py starts one."""
        suited = sys.platform == "linux" and WORKER in argv and all(fd < KEPT for fd in options["pass_fds"])
        return Forked(self, argv, **options) if suited else subprocess.Popen(argv, **options)

    def run(
        self, argv: list[str], *, input: Any = None, timeout: float | None = None, capture_output: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """As subprocess.run, without `check`."""
        if capture_output:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(argv, **options) as child:
            try:
                out, err = child.communicate(input, timeout)
            except BaseException:
                child.kill()
                raise
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Forked(subprocess.Popen[Any]):
    """A process of the forker's, with the face of subprocess.Popen."""

    def __init__(self, forker: Forker, argv: list[str], **options: Any) -> None:
        self._forker = forker
        super().__init__(argv, **options)

    def _execute_child(self, *given: Any, **named: Any) -> None:
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *given, **named).arguments  # type: ignore[attr-defined]
        env = dict(os.environ if asked["env"] is None else asked["env"])
        kept = list(asked["pass_fds"])
        blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
        argv = [str(word) for word in asked["args"]]
        request = {"argv": argv, "env": env, "cwd": str(asked["cwd"] or Path.cwd()), "kept": kept, "blocked": blocked}
        ends = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        try:
            self._told = self._forker.ask(request, [*(end if end >= 0 else number for number, end in enumerate(ends)), *kept])
            self.pid = int(self._told.recv(64))
            self._child_created = True
        finally:  # of pipes, the ends that are the process's
            pairs = (("p2cread", "p2cwrite"), ("c2pwrite", "c2pread"), ("errwrite", "errread"))
            its = {asked[end] for end, other in pairs if asked[other] >= 0} | {getattr(self, "_devnull", -1)}
            for end in its - {-1}:
                os.close(end)

    def _internal_poll(self, *_given: Any, **_named: Any) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(int(self._told.recv(64) or signal.SIGKILL))  # nothing: the forker is gone
        return self.returncode


def _requests(listener: socket.socket) -> Iterator[tuple[socket.socket, dict[str, Any], list[int]]]:
    """Requests as they come; in between, tells those who asked how their processes ended. Ends when stdin does."""
    death, died = os.pipe()
    os.set_blocking(died, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(died)
    while True:
        ready = select.select([listener, death, 0], [], [])[0]
        if 0 in ready:
            return
        if death in ready:
            os.read(death, 4096)
            _bury()
        if listener in ready:
            asking, _ = listener.accept()
            data, fds, _, _ = socket.recv_fds(asking, REQUEST, 8)
            if data:
                yield asking, json.loads(data), fds


ASKING: dict[int, socket.socket] = {}


def _bury() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError), ASKING.pop(ended[0]) as asking:  # OSError: nobody waits for it
                asking.send(str(ended[1]).encode())


def _serve(address: str) -> dict[str, Any]:
    """Forks; returns in each forked process, with what is asked of it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    for asking, request, fds in _requests(listener):
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            given = [fcntl.fcntl(fd, fcntl.F_DUPFD, KEPT) for fd in fds]
            os.closerange(3, KEPT)
            for fd, number in zip(given, [0, 1, 2, *request["kept"]], strict=True):
                os.dup2(fd, number)
            os.closerange(KEPT, os.sysconf("SC_OPEN_MAX"))
            return request
        asking.send(str(pid).encode())
        ASKING[pid] = asking
        for fd in fds:
            os.close(fd)
    sys.exit()


def _become(program: str, request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    sys.argv = [program, *request["argv"][1:]]
    sys.path[0] = str(Path(program).parent)
    # Made anew, since each has looked whether it is a terminal.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]


if __name__ == "__main__":
    import gc
    import importlib

    from infer.core.settings.threads import bound_spinning

    bound_spinning()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _become(sys.argv[1], _serve(sys.argv[2]))
    if WORKER in sys.argv:
        from infer.core.parallel import worker

        sys.argv = sys.argv[sys.argv.index(WORKER) :]
        worker._die_with = lambda _: None  # its parent is this process's; it ends when nobody is left to talk to
        ended = worker.main()
        sys.stderr.flush()
        os._exit(ended)  # as the module itself does
    from infer.cli.main import run as main

    main()
