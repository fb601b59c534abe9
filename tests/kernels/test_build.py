"""Compiled once for all processes, kept where nobody else can write, and refused with a reason that helps."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infer.kernels.cpu import build, cache, library
from infer.kernels.cpu.build import BuildError, find_or_build
from infer.kernels.cpu.cache import Cache, Unsafe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled kernels are for Linux")

TWICE = 'extern "C" void twice(float *x) { *x = *x * 2; }\n'
SUM = """
#include "n.h"
extern "C" void count(long *total) {
    long sum = 0;
    for (int i = 0; i < N; i++) sum += i;
    *total = sum;
}
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in no time."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "twice.cpp").write_text(TWICE)
    (folder / "more").mkdir()
    (folder / "more" / "count.cpp").write_text(SUM)
    (folder / "n.h").write_text("enum { N = 101 };\n")
    monkeypatch.setattr(build, "SOURCES", folder)
    return folder


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """$CXX is a compiler that keeps a list of its calls; this gives the files compiled so far."""
    log = tmp_path / "calls"
    script = tmp_path / "compiler"
    real = build.compilers()[0].command[0]
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))

    def calls() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [words[words.index("-c") + 1] for words in map(str.split, lines) if "-c" in words]

    return calls


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "infer" / "kernels"


def made() -> tuple[str, bool]:
    """The name of the build there is or is made now, and whether it was made now."""
    opened = Cache.open()
    try:
        path, seconds = find_or_build(opened)
        assert path.stat().st_size > 0
        return path.name, seconds is not None
    finally:
        opened.close()


class TestBuild:
    def test_once(self, sources: Path, compiler: Callable[[], list[str]], folder: Path) -> None:
        name, new = made()
        assert new
        assert sorted(compiler()) == ["more/count.cpp", "twice.cpp"]
        assert made() == (name, False)
        assert len(compiler()) == 2
        assert [p.name for p in folder.iterdir()] == [name]
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_what_is_there_is_used_without_calling_the_compiler(
        self, sources: Path, compiler: Callable[[], list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, _ = made()
        monkeypatch.setattr(subprocess, "run", None)
        monkeypatch.setattr(subprocess, "Popen", None)
        assert made() == (name, False)
        monkeypatch.setenv("CXX", "/no/such/compiler")  # nor is it needed any more
        assert made() == (name, False)

    def test_the_same_sources_give_the_same_bytes(
        self, sources: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, _ = made()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        again, new = made()
        assert (again, new) == (name, True)
        assert (folder / name).read_bytes() == (tmp_path / "other" / "infer" / "kernels" / name).read_bytes()

    @pytest.mark.parametrize("changed", ["twice.cpp", "n.h", "new.cpp"])
    def test_other_sources_are_another_build(self, sources: Path, folder: Path, changed: str) -> None:
        name, _ = made()
        path = sources / changed
        path.write_text((path.read_text() if path.exists() else "") + "\n")
        other, new = made()
        assert new
        assert {p.name for p in folder.iterdir()} == {name, other}
        path.unlink() if changed == "new.cpp" else path.write_text(path.read_text()[:-1])
        assert made() == (name, False)

    def test_so_are_another_compiler_cpu_or_flag(
        self, sources: Path, compiler: Callable[[], list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = {made()[0]}
        os.utime(os.environ["CXX"], (1, 1))
        names.add(made()[0])
        monkeypatch.setattr(build, "features", lambda: frozenset({"avx2"}))
        names.add(made()[0])
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DX"))
        names.add(made()[0])
        assert len(names) == 4

    def test_a_flag_the_compiler_does_not_know_is_left_out(self, sources: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(build, "OPTIONAL_FLAGS", (("-march=nonsense", "-march=native", "-mcpu=native"), ("-fnonsense",)))
        flags = build.compilers()[0].flags()
        assert not {"-march=nonsense", "-fnonsense"} & set(flags)
        assert flags[-1] in ("-march=native", "-mcpu=native")
        assert made()[1]

    def test_few_are_kept(self, sources: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache, "KEPT", 2)
        names = []
        for number in range(3):
            (sources / "n.h").write_text(f"enum {{ N = {number} }};\n")
            names.append(made()[0])
            for name in names:
                if (folder / name).exists():  # the second is used least
                    os.utime(folder / name, (number + 10 * (name == names[0]), number + 10 * (name == names[0])))
        assert {p.name for p in folder.iterdir()} == {names[0], names[2]}

    def test_what_a_killed_process_left_is_cleared_away(self, sources: Path, folder: Path) -> None:
        old, young = folder / "work-old", folder / "work-young"
        for work in (old, young):
            work.mkdir(parents=True)
            (work / "x.o").write_bytes(b"x")
        folder.chmod(0o700)
        os.utime(old, (1, 1))
        made()
        assert (old.exists(), young.exists()) == (False, True)


class TestRefusals:
    def test_what_the_compiler_says(self, sources: Path, folder: Path) -> None:
        (sources / "twice.cpp").write_text("int f() { return missing; }\n")
        with pytest.raises(BuildError, match=r"failed: twice\.cpp:1:\d+: error: .*missing"):
            made()
        assert list(folder.iterdir()) == []

    def test_no_compiler(self, sources: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(BuildError, match=r"^there is no C\+\+ compiler; install g\+\+, or pip install 'infer-jsonl\[compiler\]'$"):
            made()

    def test_the_order_in_which_compilers_are_looked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's first, then the one of the package, which is found without PATH; $CXX alone where it is set."""

        def program(path: Path) -> str:
            path.parent.mkdir(exist_ok=True)
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
            return str(path)

        folder, package = tmp_path / "bin", tmp_path / "ziglang"
        zig, clang, gcc = program(package / "zig"), program(folder / "clang++"), program(folder / "g++")
        (package / "__init__.py").touch()
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.syspath_prepend(str(tmp_path))
        assert [one.command for one in build.compilers()] == [(gcc,), (clang,), (zig, "c++")]
        Path(gcc).unlink(), Path(clang).unlink()
        (only,) = build.compilers()
        assert only.command == (zig, "c++")
        work = tmp_path / "work"
        work.mkdir()
        (tmp_path / "link").symlink_to(work)
        kept = {only.environment(tmp_path / "link")[name] for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        assert kept == {str(work.resolve() / "zig")}
        assert "-mcpu=native" in only.flags()
        monkeypatch.setenv("CXX", "/bin/sh -c")
        assert [one.command for one in build.compilers()] == [("/bin/sh", "-c")]

    def test_a_compiler_that_is_not_there(self, sources: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "nonsense++ -O0")
        with pytest.raises(BuildError, match=r"^CXX=nonsense\+\+ is not a program"):
            made()

    def test_the_next_compiler_is_tried(self, sources: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "broken"
        broken.write_text("#!/bin/sh\nexit 7\n")
        broken.chmod(0o755)
        good = build.compilers()[0]
        monkeypatch.setattr(build, "compilers", lambda: [build.Compiler((str(broken),)), good])
        assert made()[1]
        monkeypatch.setattr(build, "compilers", lambda: [build.Compiler((str(broken),))])
        (sources / "n.h").write_text("enum { N = 1 };\n")
        with pytest.raises(BuildError, match="broken failed: exit status 7"):
            made()

    def test_one_failure_ends_the_other_calls(self, sources: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script, started = tmp_path / "slow", tmp_path / "started"
        # The longest file first: it would take for ever, and the other waits for it to have begun.
        script.write_text(f"""#!/bin/sh
case "$*" in
*"-c more/count.cpp"*) echo $$ > {started}.part; mv {started}.part {started}; exec sleep 3600;;
*"-c twice.cpp"*) while [ ! -e {started} ]; do sleep 0.01; done; echo 'error: no'; exit 1;;
esac
""")
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        with pytest.raises(BuildError, match="failed: error: no"):
            made()
        until(lambda: not runs(int(started.read_text())))


COMPILING = """
import signal, sys
from pathlib import Path
from infer.kernels.cpu import build
from infer.kernels.cpu.cache import Cache

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
build.SOURCES = Path(sys.argv[1])
build.find_or_build(Cache.open())
"""


def runs(pid: int) -> bool:
    """True if a process runs: one that ended may be there until somebody asks for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_compiler_started_ends_with_us(
    sources: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As with `g++`, the process that compiles is a child of the one that was called."""
    script, started = tmp_path / "compiler", tmp_path / "started"
    script.write_text(f"""#!/bin/sh
case "$*" in
*"-c "*) sleep 3600 & echo $! >> {started}; wait;;
esac
""")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with subprocess.Popen([sys.executable, "-c", COMPILING, str(sources)], stderr=subprocess.DEVNULL) as child:
        try:
            until(lambda: started.exists() and started.read_text().endswith("\n"))
            child.send_signal(number)
            child.wait(60)
        finally:
            child.kill()
    pids = [int(line) for line in started.read_text().split()]
    assert pids
    until(lambda: not any(map(runs, pids)))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestFolder:
    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
    def test_one_that_others_can_write_to_is_not_used(
        self, folder: Path, sources: Path, mode: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder.mkdir(parents=True)
        folder.chmod(mode)
        with pytest.raises(Unsafe, match="can be written by other users"):
            Cache(folder)
        with caplog.at_level(logging.WARNING):
            opened = Cache.open()
        assert f"compiled kernels are not kept: {folder} can be written by other users" in caplog.text
        instead = opened.path
        assert instead.stat().st_mode & 0o777 == 0o700
        find_or_build(opened)
        assert list(folder.iterdir()) == []
        opened.close()
        assert not instead.exists()

    def test_nor_one_of_another_user(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir(parents=True, mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(Unsafe, match="belongs to another user"):
            Cache(folder)

    def test_nor_a_link_to_one(self, folder: Path, tmp_path: Path) -> None:
        real = tmp_path / "real"
        real.mkdir(mode=0o700)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(real)
        with pytest.raises(Unsafe):
            Cache(folder)

    def test_nor_one_that_cannot_be_made(self, folder: Path) -> None:
        folder.parent.parent.mkdir()
        folder.parent.write_text("a file")
        with pytest.raises(Unsafe):
            Cache(folder)

    def test_one_that_others_can_read_is_closed(self, folder: Path) -> None:
        folder.mkdir(parents=True, mode=0o755)
        Cache(folder).close()
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_a_file_others_can_write_to_is_not_loaded(self, sources: Path, folder: Path) -> None:
        name, _ = made()
        (folder / name).chmod(0o666)
        assert made() == (name, True)
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")
        assert made() == (name, True)

    def test_a_folder_put_in_its_place_is_not_looked_at(self, folder: Path) -> None:
        opened = Cache(folder)
        folder.rename(folder.with_name("moved"))
        folder.mkdir()
        (folder / "a.so").write_bytes(b"theirs")
        assert opened.find("a.so") is None
        opened.close()

    @pytest.mark.parametrize("base", ["", "relative/path"])
    def test_default(self, base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.cache_folder() == tmp_path / ".cache" / "infer" / "kernels"


RACER = """
import sys, time
from pathlib import Path
from infer.kernels.cpu import build, library
build.SOURCES = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
found = library.library()
print(found.path.name, found.compile_seconds is not None, found.digest, flush=True)
"""


class TestLibrary:
    def test_two_processes_at_once_compile_once(self, sources: Path, compiler: Callable[[], list[str]], folder: Path) -> None:
        command = [sys.executable, "-c", RACER, str(sources)]
        racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 2
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        results = [racer.communicate(timeout=120)[0].split() for racer in racers]
        assert [racer.returncode for racer in racers] == [0, 0]
        assert results[0][0] == results[1][0]
        assert results[0][2] == results[1][2]
        assert sorted(result[1] for result in results) == ["False", "True"]
        assert sorted(compiler()) == ["more/count.cpp", "twice.cpp"]

    def test_a_lock_held_for_ever_is_not_waited_for(self, sources: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache, "PATIENCE", 0.2)
        holder = Cache(folder)
        with holder.lock():
            assert made()[1]
        holder.close()

    def test_a_damaged_file_is_made_anew(self, sources: Path, folder: Path) -> None:
        name, _ = made()
        (folder / name).write_bytes(b"\x7fELF")
        opened = Cache.open()
        found = library._load_from(opened)
        opened.close()
        assert found.path == folder / name
        assert found.compile_seconds is not None
        assert (folder / name).stat().st_size > 1000

    def test_no_openmp(self) -> None:
        """Any compiler does, and threads are our own."""
        content = library.library().path.read_bytes()
        assert b"infer_set_threads" in content
        assert not [name for name in (b"GOMP_", b"__kmpc_", b"libgomp", b"libomp", b"libiomp") if name in content]

    def test_another_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(BuildError, match="compiled kernels need Linux"):
            library.library.__wrapped__()

    def test_functions_are_looked_up_when_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise BuildError("no")

        monkeypatch.setattr(library, "load", refuse)
        missing = library.function("infer_missing", "pif")
        with pytest.raises(BuildError):
            missing(None, 1, 1.0)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="flags of x86")
def test_the_real_sources_are_right_for_machines_with_avx2() -> None:
    """As far as a compiler goes before it writes code, which -m grid has it do."""
    compiler = build.compilers()[0]
    flags = [*build.FLAGS, "-march=x86-64-v3", "-fsyntax-only"]
    files = [str(path.relative_to(build.SOURCES)) for path in sorted(build.SOURCES.rglob("*.cpp"))]
    assert files
    done = subprocess.run([*compiler.command, *flags, *files], cwd=build.SOURCES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("level", ["x86-64", pytest.param("x86-64-v3", marks=pytest.mark.grid)])
def test_the_real_sources_compile_for_other_machines(level: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("flags of x86")
    monkeypatch.setattr(build, "FLAGS", (*(flag for flag in build.FLAGS if flag != "-O3"), "-O0", f"-march={level}"))
    # What GCC does lane by lane, for want of registers that wide, is ten times slower. Other compilers do not know the flag.
    monkeypatch.setattr(build, "OPTIONAL_FLAGS", (("-Werror=vector-operation-performance",),))
    assert made()[1]
