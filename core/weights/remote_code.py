"""Python code that comes with a model: what of it would run, and whether it may.

A config file names it under `auto_map`: {"AutoModelForCausalLM": "modeling_x.XForCausalLM"} is class XForCausalLM of the
folder's modeling_x.py. Only what lies in the folder is ever run.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError

log = logging.getLogger(__name__)

#: What `auto_map` calls the classes that may be needed, by the file that has it.
CONFIGS = {
    "tokenizer_config.json": ("AutoTokenizer",),
    "config.json": ("AutoTokenizer", "AutoConfig", "AutoModelForCausalLM"),
}
#: The setting that allows it, as the user can give it.
SETTING = "trust_remote_code=True (--trust-remote-code)"


def named_code(config: Mapping[str, Any] | None, classes: Iterable[str], name: str) -> list[str]:
    """The files that a config's `auto_map` names for these auto classes, e.g. ["modeling_x.py"]; none if it names none.

    Raises ModelError if they are not plain files of the model's folder.
    """
    found = (config or {}).get("auto_map")
    if isinstance(found, (list, tuple)):  # old tokenizer configs: [slow, fast]
        found = {"AutoTokenizer": found}
    if not isinstance(found, Mapping):
        return []
    files: list[str] = []
    for one in classes:
        references = found.get(one)
        for reference in references if isinstance(references, (list, tuple)) else [references]:
            if reference is None:
                continue
            file = _file(str(reference), one, name)
            if file not in files:
                files.append(file)
    return files


def allow(folder: Path, files: list[str], name: str) -> None:
    """Says which files of the folder are about to be run, those they import counted. Raises ModelError if one is not there."""
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelError(f"{name}: auto_map names {', '.join(missing)}, which {folder} does not have")
    log.warning("trust_remote_code: running Python code that came with the model: %s in %s", ", ".join(_all_files(folder, files)), folder)


def refusal(files: list[str], name: str, what: str) -> ModelError:
    """The error for code that is needed and not allowed."""
    return ModelError(
        f"{name}: {what} needs Python code that comes with the model ({', '.join(files)}); code can do anything on this machine, "
        f"so read it first, then allow it with {SETTING}"
    )


def _file(reference: str, auto_class: str, name: str) -> str:
    repository, divided, rest = reference.rpartition("--")
    if divided:
        raise ModelError(
            f"{name}: auto_map takes {auto_class} from another repository ({repository}), and only code in the model's own folder is run; "
            f"put the files there and write {rest!r} in auto_map"
        )
    module, dot, _ = rest.partition(".")
    if not dot or not module.isidentifier():
        raise ModelError(f"{name}: auto_map names {reference!r} for {auto_class}, which is not of the form module.Class")
    return f"{module}.py"


def _all_files(folder: Path, files: list[str]) -> list[str]:
    """These files and what they import from the same folder, in order of discovery."""
    found = list(files)
    for file in found:  # grows on the way
        try:
            tree = ast.parse((folder / file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # running it will say what is wrong
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level != 1:
                continue
            for module in [node.module] if node.module else [alias.name for alias in node.names]:
                path = f"{module.replace('.', '/')}.py"
                if path not in found and (folder / path).is_file():
                    found.append(path)
    return found
