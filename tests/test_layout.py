"""The house rules that a reader cannot see in one file: who may import whom, what stays light, what is packaged."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "configs", "core", "kernels")

#: Top-level folders, lowest first: a file imports from its own folder and from lower ones.
HOUSE = ("kernels", "core", "cli")
#: Rooms of core, lowest first: a file imports from its own room and from rooms of earlier rows, so no rooms import each other.
#: A room is a folder of core/, or a file beside them.
CORE = (
    ("errors",),
    ("containment", "remote"),
    ("types", "spec"),
    ("settings", "parallel"),
    ("weights",),
    ("text", "quant"),
    ("adapters", "media"),
    ("layers",),
    ("models", "sampling"),
    ("memory",),
    ("engine",),
    ("pooling",),
    ("intake", "build"),
    ("fleet",),
    ("jobs",),
    ("api", "bench", "compress", "dataset", "review"),
)
#: Never import torch, at any depth: these test in milliseconds, and what they hold is plain data.
NO_TORCH = (
    "core/types/",
    "core/spec/",
    "core/engine/scheduler.py",
    "core/engine/blocks.py",
    "core/engine/states.py",
    "core/memory/swap.py",
    "core/pooling/recipe.py",
    "core/pooling/limits.py",
    "core/pooling/window.py",
    "core/pooling/batch.py",
    "core/pooling/texts.py",
    "core/build/plan.py",
    "core/build/files.py",
    "core/build/end_tokens.py",
    "core/build/generation_config.py",
    "core/jobs/",
    "core/adapters/adapter.py",
)
#: Do not import torch or transformers when they are imported themselves.
LIGHT = (
    "cli/",
    "core/__init__.py",
    "core/errors.py",
    "core/containment.py",
    "core/types/",
    "core/settings/",
    "core/text/",
    "core/sampling/grammar/source.py",
    "core/sampling/grammar/grammar.py",
    "core/sampling/grammar/valid.py",
    "core/media/",
    "core/intake/",
    "core/jobs/",
    "core/api/",
    "core/dataset/",
    "kernels/__init__.py",
)
HEAVY = {"torch", "transformers"}
#: A file this long has two subjects.
MAX_LINES = 450
#: A folder with more files than this has two subjects.
MAX_FILES = 25


def files() -> list[Path]:
    return sorted(p.relative_to(ROOT) for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


#: What `import infer` imports.
TOP = Path("cli/package")


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    if path.is_relative_to(TOP):
        parts = parts[len(TOP.parts) :]
    return ".".join(("infer", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_name(path): path for path in files()}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _walk(node: ast.AST, *, into_functions: bool, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not into_functions:
            continue
        elif not types and _is_type_checking(child):
            assert isinstance(child, ast.If)
            for branch in child.orelse:
                yield from _walk(branch, into_functions=into_functions, types=types)
        else:
            yield from _walk(child, into_functions=into_functions, types=types)


@cache
def imports(path: Path, *, into_functions: bool = True, types: bool = True) -> frozenset[str]:
    """Names of the modules a file imports: ours in full, others by their first part."""
    found = set()
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in _walk(ast.parse((ROOT / path).read_text(encoding="utf-8")), into_functions=into_functions, types=types):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names]
        found |= {name if name.split(".")[0] == "infer" else name.split(".")[0] for name in names}
    return frozenset(found)


def ours(path: Path, **how: bool) -> list[Path]:
    """The files of ours that a file imports."""
    return [MODULES[name] for name in imports(path, **how) if name in MODULES]


def core_row(path: Path) -> int | None:
    """The row of CORE a file belongs to; None for core/__init__.py, the lazy face of all of it."""
    room = path.parts[1].removesuffix(".py")
    if room == "__init__":
        return None
    row = next((i for i, row in enumerate(CORE) if room in row), None)
    assert row is not None, f"{path}: give {room!r} its place in CORE"
    return row


def test_folders_import_downwards() -> None:
    wrong = []
    for path in files():
        for name in imports(path):
            assert name.split(".")[0] not in FOLDERS, f"{path} imports {name}: say infer.{name}"
            if not name.startswith("infer."):
                continue
            target = name.split(".")[1]
            if target != path.parts[0] and (target not in HOUSE or HOUSE.index(target) > HOUSE.index(path.parts[0])):
                wrong.append(f"{path} -> {name}")
    assert not wrong


def test_core_imports_downwards() -> None:
    wrong = set()
    for path in files():
        row = core_row(path) if path.parts[0] == "core" else None
        if row is None:
            continue
        for target in ours(path):
            below = core_row(target) if target.parts[0] == "core" else None
            if below is not None and below >= row and target.parts[1] != path.parts[1]:
                wrong.add((path.as_posix(), target.as_posix()))
    assert wrong == set()


def test_relative_inside_a_folder_and_absolute_across() -> None:
    wrong = []
    for path in files():
        for node in _walk(ast.parse((ROOT / path).read_text(encoding="utf-8")), into_functions=True, types=True):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith(f"infer.{path.parts[0]}"):
                wrong.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.ImportFrom) and node.level > len(path.parts) - 1:
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_no_cycles_even_in_functions() -> None:
    graph = {path: [p for p in ours(path) if p != path] for path in files() if path != Path("core/__init__.py")}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(map(str, (*trail[trail.index(path) :], path)))
        if path not in done:
            for target in graph.get(path, []):
                visit(target, (*trail, path))
            done.add(path)

    for path in graph:
        visit(path, ())


@pytest.mark.parametrize("start", NO_TORCH)
def test_no_torch_at_any_depth(start: str) -> None:
    wrong = [str(p) for p in files() if p.as_posix().startswith(start) and "torch" in imports(p, types=False)]
    assert not wrong


@pytest.mark.parametrize("start", dict.fromkeys((*LIGHT, *NO_TORCH)))
def test_light_to_import(start: str) -> None:
    """Importing the file, and with it its packages and all it imports, brings in nothing heavy."""
    for path in files():
        if not path.as_posix().startswith(start):
            continue
        todo, seen = [path], set()
        while todo:
            one = todo.pop()
            if one in seen:
                continue
            seen.add(one)
            heavy = HEAVY & imports(one, into_functions=False, types=False)
            assert not heavy, f"{path} imports {one}, which imports {heavy}"
            packages = [Path(*one.parts[:i], "__init__.py") for i in range(1, len(one.parts))]
            todo += [*ours(one, into_functions=False, types=False), *(p for p in packages if p in MODULES.values())]


def test_help_imports_no_torch() -> None:
    code = """
import sys
from infer.cli.main import run
try:
    run(["--help"])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr.strip() == "False"


def test_every_package_is_listed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    in_tree = {module_name(path) for path in files() if path.name == "__init__.py"}
    assert sorted(in_tree) == sorted(setup["packages"])
    assert setup["package-dir"] == {"infer": TOP.as_posix(), **{f"infer.{folder}": folder for folder in FOLDERS}}
    folders = {path.parent for path in files()}
    assert {folder for folder in folders if folder / "__init__.py" not in MODULES.values()} == set(), "a folder without __init__.py"


def test_type_checkers_find_the_package() -> None:
    for folder in FOLDERS:
        assert (ROOT / "tests/_typing/infer" / folder).resolve() == ROOT / folder
        assert (ROOT / folder / "py.typed").exists()


def test_files_are_short() -> None:
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files()}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_rooms_are_small() -> None:
    folders = Counter(path.parent.as_posix() for path in files())
    assert {folder: n for folder, n in folders.items() if n > MAX_FILES} == {}


def test_the_ground_floor_is_what_every_room_stands_on() -> None:
    assert {path.name for path in files() if path.parent == Path("core")} == {"__init__.py", "errors.py", "containment.py"}


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True if it is in Triton's language, which has types of its own."""
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in node.decorator_list)


def test_the_public_docstrings_and_types() -> None:
    """Every module says what it is for; every function says what it returns."""
    wrong = []
    for path in files():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        if tree.body and ast.get_docstring(tree) is None:
            wrong.append(f"{path}: no docstring")
        wrong += [
            f"{path}:{node.lineno}: {node.name} has no return type"
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is None and not is_kernel(node)
        ]
    assert not wrong


def test_no_trace_of_a_machine() -> None:
    text = {str(p): (ROOT / p).read_text(encoding="utf-8") for p in files()}
    assert [p for p, content in text.items() if re.search(r"/home/\w|/root/|/work/", content)] == []
