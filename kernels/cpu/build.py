"""Build of the CPU kernels: src/*.cpp and those of folders in it to a shared object for this very machine, kept in the cache.

A build is named after all that it depends on: sources, flags, CPU, compiler. So a changed source or another machine is another
file, and a build that is there is used without asking the compiler anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..features import features, model_name
from .cache import Cache

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "src"
SUFFIX = ".so"

#: No product and sum is fused but where the source says so (`vfma`): what is rounded where must not depend on how a compiler
#: unrolled a loop.
FLAGS = (
    "-I.",
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility-inlines-hidden",
    "-fno-exceptions",
)
#: Of each row the first that the compiler takes.
OPTIONAL_FLAGS = (("-march=native", "-mcpu=native"), ("-mprefer-vector-width=512",), ("-fno-semantic-interposition",))
#: Tried in this order unless $CXX names one; after them zig, as the Python package `ziglang` brings it.
COMPILERS = ("c++", "g++", "clang++")
#: In place of OPTIONAL_FLAGS for zig, which would build its own C++ library to answer whether it takes a flag. It calls the CPU -mcpu,
#: looks for undefined behaviour unless told not to, and adds debug information. Its C++ library would be built before anything is linked
#: with it, a hundred files in minutes: what the kernels need of one is in src/runtime.cpp.
ZIG_FLAGS = (
    "-mcpu=native",
    "-mprefer-vector-width=512",
    "-fno-sanitize=undefined",
    "-g0",
    "-fno-threadsafe-statics",
    "-DINFER_OWN_RUNTIME",
)
ZIG_LINKS = ("-O3", "-mcpu=native", "-fno-sanitize=undefined", "-s", "-nostdlib++")
#: Seconds for one source file.
TIME_LIMIT = 300.0

#: Lines of the compiler's messages that are passed on.
_LINES = 3

#: Runs a command in a process group that ends with us, however we end: `g++` is but the parent of what compiles, and a signal
#: reaches one process. The guard waits for the end of standard input, whose other end is ours alone, and kills the group.
_GUARDED = """
exec 3<&0
"$@" </dev/null 3<&- & work=$!
(read -r _ <&3; kill -KILL 0) & guard=$!
wait $work; code=$?
kill $guard
exit $code
"""


class BuildError(RuntimeError):
    """There are no compiled kernels to be had here; the message says why, and what would help."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler of this machine: the words it is called by."""

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return shlex.join(self.command)

    @property
    def is_zig(self) -> bool:
        return Path(self.command[0]).name == "zig" or "ziglang" in self.command

    def environment(self, work: Path) -> dict[str, str]:
        """What it is run with: messages we can find the errors in, and nothing of zig's kept but in `work`."""
        zig = str((work / "zig").resolve())  # the path by our own descriptor leads nowhere in another process
        kept = {"ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig} if self.is_zig else {}
        return {**os.environ, "LC_ALL": "C", **kept}

    def identity(self) -> str:
        """Differs once the compiler is another one; does not call it."""
        found = Path(self.command[0]).resolve()
        status = found.stat()
        return f"{self.name} {found} {status.st_size} {status.st_mtime_ns}"

    def version(self) -> str:
        """The first line of what it says about itself."""
        return (self._ask("--version").stdout.splitlines() or ["unknown version"])[0]

    def accepts(self, flag: str) -> bool:
        return self._ask(flag, "-Werror", "-x", "c++", "-fsyntax-only", "/dev/null").returncode == 0

    def flags(self) -> list[str]:
        """FLAGS and those of OPTIONAL_FLAGS that it takes."""
        if self.is_zig:
            return [*FLAGS, *ZIG_FLAGS]
        chosen = (next(filter(self.accepts, row), None) for row in OPTIONAL_FLAGS)
        return [*FLAGS, *(flag for flag in chosen if flag)]

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            call = [*self.command, *words]
            # In a folder of its own, like all calls: what is found beside the user's files is none of the compiler's.
            with tempfile.TemporaryDirectory(prefix="infer-compiler-") as folder:
                environment = self.environment(Path(folder))
                return subprocess.run(
                    call,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=30,
                    check=False,
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{self.name} does not run: {error}") from error


def compilers() -> list[Compiler]:
    """Those there are, best first: $CXX alone, or COMPILERS and zig. Raises BuildError if there is none."""
    given = shlex.split(os.environ.get("CXX", ""))
    if given:
        path = shutil.which(given[0])
        if path is None:
            raise BuildError(f"CXX={given[0]} is not a program; set it to a C++ compiler, or not at all")
        return [Compiler((str(Path(path).absolute()), *given[1:]))]
    found: dict[Path, Compiler] = {}
    # Not what lies in the current folder, which an empty entry of PATH means too.
    search = os.pathsep.join(filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep)))
    for path in filter(None, (shutil.which(name, path=search) for name in COMPILERS)):
        found.setdefault(Path(path).resolve(), Compiler((path,)))
    if zig := _zig():
        found.setdefault(Path(zig.command[0]), zig)
    if not found:
        raise BuildError("there is no C++ compiler; install g++, or pip install 'infer-jsonl[compiler]'")
    return list(found.values())


def _zig() -> Compiler | None:
    """The one that the package `ziglang` brings, if it is installed."""
    package = importlib.util.find_spec("ziglang")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if program := shutil.which("zig", path=Path(folder).absolute()):
            return Compiler((program, "c++"))
    return None


def find_or_build(cache: Cache) -> tuple[Path, float | None]:
    """The shared object, and how many seconds it took to compile (None: it was there). Raises BuildError."""
    sources = _read(SOURCES)
    base = _digest(sources)
    try:
        candidates = compilers()
    except BuildError:
        # The compiler may be gone since; what it made for this machine is still good.
        for name in cache.names(SUFFIX):
            if name.startswith(base) and (found := cache.find(name)):
                return found, None
        raise
    names = {f"{base}-{_hash(one.identity())}{SUFFIX}": one for one in candidates}

    def find() -> Path | None:
        return next(filter(None, map(cache.find, names)), None)

    if found := find():
        return found, None
    with cache.lock():
        if found := find():  # another process was compiling
            return found, None
        return _build_with_any(cache, names, sources)


def _build_with_any(cache: Cache, names: dict[str, Compiler], sources: dict[str, bytes]) -> tuple[Path, float]:
    """By the first compiler that can. Raises what the first one's failure was."""
    errors: list[BuildError] = []
    log.info("compiling the CPU kernels (once; some seconds)")
    for name, compiler in names.items():
        started = time.monotonic()
        try:
            with cache.work_folder() as work:
                path = cache.put(_compile(compiler, sources, work), name)
        except BuildError as error:
            errors.append(error)
        except OSError as error:
            raise BuildError(f"{cache.path} cannot be written: {error.strerror or error}") from error
        else:
            cache.tidy(SUFFIX)
            log.debug("%s made %s in %.1f s", compiler.name, cache.path / name, time.monotonic() - started)
            return path, time.monotonic() - started
    raise errors[0]


def _compile(compiler: Compiler, sources: dict[str, bytes], work: Path) -> Path:
    """The linked file, in `work`. Sources are copied there and named without a path, so that what comes out depends on
    nothing else. Raises BuildError."""
    for name, content in sources.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(content)
    units = sorted((name for name in sources if name.endswith(".cpp")), key=lambda name: -len(sources[name]))
    flags = compiler.flags()
    objects = [f"{name}.o" for name in sorted(units)]
    _run_all(compiler, [[*flags, "-c", name, "-o", f"{name}.o"] for name in units], work)
    linked = ZIG_LINKS if compiler.is_zig else ()
    _run_all(compiler, [[*linked, "-shared", "-pthread", *objects, "-lm", "-o", f"kernels{SUFFIX}"]], work)
    return work / f"kernels{SUFFIX}"


def _run_all(compiler: Compiler, calls: Sequence[Sequence[str]], work: Path) -> None:
    """Calls the compiler in `work`, as many times at once as there are CPUs. Raises BuildError for the first that fails;
    the others are then killed with all that they started, as they are if we are interrupted or killed ourselves."""
    waiting = list(calls)
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    deadline = time.monotonic() + TIME_LIMIT * len(calls)
    environment = compiler.environment(work)
    try:
        while waiting or running:
            while waiting and len(running) < len(os.sched_getaffinity(0)):
                messages = work / f"messages-{len(waiting)}"
                with messages.open("wb") as file:
                    call = ["/bin/sh", "-c", _GUARDED, "sh", *compiler.command, *waiting.pop(0)]
                    child = subprocess.Popen(
                        call, cwd=work, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
                    )
                running.append((child, messages))
            for child, messages in list(running):
                if child.poll() is None:
                    continue
                running.remove((child, messages))
                _let_go(child)
                if child.returncode:
                    raise BuildError(f"{compiler.name} failed: {_first_errors(messages.read_text(errors='replace'), child.returncode)}")
            if time.monotonic() > deadline:
                raise BuildError(f"{compiler.name} took longer than {TIME_LIMIT * len(calls):.0f} s")
            time.sleep(0.01)
    except OSError as error:
        raise BuildError(f"{compiler.name} does not run: {error.strerror or error}") from error
    finally:
        for child, _ in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            _let_go(child)


def _let_go(child: subprocess.Popen[bytes]) -> None:
    """Closes the pipe that a guarded command's guard waits on."""
    assert child.stdin is not None
    child.stdin.close()


def _first_errors(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines or [f"exit status {code}"]
    return "; ".join(told[:_LINES])


def _read(folder: Path) -> dict[str, bytes]:
    """File name, within `folder` -> content, of all that is compiled."""
    try:
        paths = sorted(path for path in (*folder.iterdir(), *folder.glob("*/*")) if path.suffix in (".cpp", ".h"))
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise BuildError(f"the kernels' sources cannot be read: {error}") from error
    if not found:
        raise BuildError(f"there are no sources in {folder}")
    return found


def _digest(sources: dict[str, bytes]) -> str:
    """Of all that a build depends on, but for the compiler."""
    machine = f"{platform.machine()} {model_name()} {' '.join(sorted(features()))}"
    flags = repr((FLAGS, OPTIONAL_FLAGS, ZIG_FLAGS, ZIG_LINKS))
    return _hash(machine, flags, *(f"{name} {_hash(content)}" for name, content in sources.items()))


def _hash(*parts: str | bytes) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
