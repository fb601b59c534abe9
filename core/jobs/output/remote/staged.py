"""An OUT that is a URL: it is made in a folder of this machine as any OUT is, and put in place when all of it is there.

    STATE/outputs/NAME-HASH/     one folder for each URL
        NAME, NAME.partial, …    as beside a local OUT (output_files.py)
        NAME.upload.json         the memory of this file: what is to be put in place, and how far that has come

    made -> told (NAME.upload.json) -> NAME appears here -> what belongs to it goes up -> NAME goes up -> nothing is left here

A run that is killed before NAME is in place is gone on with from the folder; one that was put in place is fetched when it is to be
gone on with. Runs on this machine keep off each other by the lock beside NAME; of one elsewhere it is noticed, before OUT is put in
place, that OUT is not what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ....errors import ConfigError, OutputError, UnfinishedOutput
from ....remote.download import download, write_all
from ....remote.state import state_folder
from ....remote.store import Store, version_of
from ....remote.upload import abandon, refuse_unwritable, remove, upload
from ....remote.url import base_name, is_remote, place, shown
from .. import faults
from ..files import is_there, write_whole
from ..job_note import note_paths

MEMORY_SUFFIX = ".upload.json"


@dataclass
class _Memory:
    """What is known of the files of the folder from one attempt to the next."""

    #: OUT is made, or about to be, and is to be put in place.
    pending: bool = False
    #: The version of OUT that was there when this began; None: there was none.
    before: dict[str, str] | None = None
    #: The version of OUT whose copy is in the folder.
    fetched: dict[str, str] | None = None
    #: The id of the upload of each file that is under way, and the sha256 of the bytes it is of, by the file's name.
    uploads: dict[str, tuple[str, str]] = field(default_factory=dict)


class Staged:
    """
    Args:
        url: OUT.
        errors: the file of --errors, here or elsewhere.
        beside: endings of the files that belong to OUT, apart from its note.
        state_dir: see `state_folder`.

    Raises ConfigError for what cannot be written. Whoever has the lock beside `target` calls the rest.

    Attributes:
        target: where OUT is made.
        errors: where the file of failed lines is made, if it is to lie elsewhere; else as it was given.
        exists: OUT is in its place. Known after `look`.
    """

    def __init__(self, url: str, *, errors: str | None, beside: Sequence[str] = (), state_dir: str | None = None) -> None:
        self.name = shown(url)
        self._store = Store(url, "output")
        refuse_unwritable(self._store)
        name = base_name(url)
        if not name:
            raise ConfigError(f"output {self.name!r} is a folder; name a file")
        digest = hashlib.blake2b(place(url).encode(), digest_size=8).hexdigest()
        self._folder = state_folder(state_dir) / "outputs" / f"{name[:80]}-{digest}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the state of output {self.name!r} cannot be kept in {str(self._folder)!r}: {error.strerror}") from None
        self.target = self._folder / name
        self._memory_path = self._folder / (name + MEMORY_SUFFIX)
        self._beside = [self.target.with_name(name + ending) for ending in beside]
        self._stores = {path: Store(url + path.name[len(name) :], "output") for path in (*self._beside, *note_paths(self.target))}
        self.errors = errors
        if errors is not None and is_remote(errors):
            if place(errors) == place(url):
                raise ConfigError("--errors names the output; choose another file")
            store = Store(errors, "--errors")
            refuse_unwritable(store)
            path = self._folder / f"errors-{base_name(errors)}"
            self.errors = str(path)
            self._stores[path] = store
            self._beside.insert(0, path)
        self._memory = _Memory()
        self._looked = False
        self.exists = False

    # -- before a run ---------------------------------------------------------------------------------------------
    def look(self, *, fetch: bool, overwrite: bool, has_partial: bool) -> None:
        """Finds out what is there, and has in the folder what an attempt looks at.

        Args:
            fetch: OUT is to be gone on with: it is brought here if it is there.
            overwrite: whatever is there may be replaced.
            has_partial: an unfinished output is in the folder.

        Raises InferError; UnfinishedOutput where an OUT was made and not put in place, which is to be neither gone on with nor replaced.
        """
        self._memory = self._read_memory()
        self._looked = True
        if self.is_pending and not has_partial:
            if overwrite:
                self.discard()
            elif not fetch:
                what = f"output {self.name!r} was made, and is not in its place yet: its bytes are in {str(self._folder)!r}"
                raise UnfinishedOutput(f"{what}; put it there with --resume, or start again with --overwrite")
            else:
                self.exists = True
                return
        found = self._store.find()
        self.exists = found is not None
        before = None if found is None else version_of(found)
        if fetch and found is not None and not (self._memory.fetched == before and is_there(self.target)):
            self._fetch(found)
        elif found is None or not fetch:
            self._forget(self.target, *self._beside, *note_paths(self.target))
            self._memory.fetched = None
            if not overwrite:
                self._bring(note_paths(self.target))
            if not overwrite and not has_partial:
                self._refuse_errors()
        self._memory.pending, self._memory.before = False, before

    @property
    def is_pending(self) -> bool:
        """True if OUT is in the folder, whole, and to be put in its place."""
        return self._memory.pending and is_there(self.target)

    def discard(self) -> None:
        """Throws away what was made and is not in its place."""
        for name, (upload_id, _) in self._memory.uploads.items():
            abandon(self._store_of(self._folder / name), upload_id)
        self._forget(self.target, *self._beside, *note_paths(self.target), self._memory_path)
        self._memory = _Memory()

    # -- after one ------------------------------------------------------------------------------------------------
    def will_send(self) -> None:
        """Says that the OUT which appears in the folder from now on is to be put in its place. Raises OSError."""
        self._memory.pending, self._memory.uploads = True, {}
        self._memory.fetched = None
        self._write_memory()

    def send(self) -> None:
        """Puts everything in place, OUT last, and leaves nothing here. Does so again where it was interrupted. Raises InferError."""
        if not self.is_pending:
            self._tidy()
            return
        sha256 = _sha256_of(self.target)
        if not self._is_in_place(sha256):
            notes = note_paths(self.target)
            for path in (*self._beside, *notes):
                if is_there(path):
                    self._put(path, self._stores[path])
            faults.fault("beside-sent")
            for path in notes:  # of the other kind
                if not is_there(path):
                    remove(self._stores[path])
            self._put(self.target, self._store, sha256)
        faults.fault("sent")
        self._tidy()

    def put_notes(self) -> None:
        """Puts the note in place that an OUT got which stays as it is. Raises InferError."""
        if not self.is_pending:  # it goes up with OUT
            for path in note_paths(self.target):
                if is_there(path):
                    self._put(path, self._stores[path])

    def close(self, *, has_partial: bool) -> None:
        """Copies of what is in its place go, and the folder if nothing else is in it. Never raises."""
        self._store.stop()
        with contextlib.suppress(OSError, OutputError):
            if not has_partial and not self.is_pending and self._looked:
                self._tidy()
            self._folder.rmdir()

    # -- own ------------------------------------------------------------------------------------------------------
    def _is_in_place(self, sha256: str) -> bool:
        """True if OUT is there already, by an attempt that died then. Raises OutputError if it is somebody else's."""
        found = self._store.find()
        if found is None or version_of(found) == self._memory.before:
            return False
        if found.get("size") == self.target.stat().st_size:
            hashed = hashlib.sha256()
            write_all(self._store, found, hashed.update)
            if hashed.hexdigest() == sha256:
                return True
        raise OutputError(
            f"output {self.name!r} was written by someone else while this run went on, and is left as it is; what this run made is "
            f"{str(self.target)!r}: look at both, and put it there with --overwrite"
        )

    def _put(self, path: Path, store: Store, sha256: str | None = None) -> None:
        sha256 = sha256 or _sha256_of(path)
        upload_id, of = self._memory.uploads.get(path.name, (None, ""))

        def keep(begun: str | None) -> None:
            assert begun is not None
            self._memory.uploads[path.name] = begun, sha256
            with self._telling():
                self._write_memory()

        upload(path, store, begun=upload_id if of == sha256 else None, keep=keep, point=faults.fault)

    def _tidy(self) -> None:
        """Nothing here is needed any more. The memory goes last: as long as it is there, OUT may not be in its place."""
        self._forget(self.target, *self._beside, *note_paths(self.target))
        self._forget(self._memory_path)
        self._memory = _Memory()

    def _fetch(self, info: dict[str, Any]) -> None:
        self._forget(self.target)  # what is fetched first does not belong to it
        self._bring([*self._beside, *note_paths(self.target)])
        version = download(self._store, self.target, info)
        self._memory.fetched = version
        with self._telling():
            self._write_memory()

    def _bring(self, paths: Sequence[Path]) -> None:
        for path in paths:
            found = self._stores[path].find()
            if found is None:
                self._forget(path)
            else:
                download(self._stores[path], path, found)

    def _refuse_errors(self) -> None:
        for path, store in self._stores.items():
            if store.what == "--errors" and str(path) == self.errors and store.find() is not None:
                raise ConfigError(f"{store.name} exists; use --overwrite to replace it, or choose another file")

    def _store_of(self, path: Path) -> Store:
        return self._store if path == self.target else self._stores.get(path, self._store)

    def _forget(self, *paths: Path) -> None:
        with self._telling():
            for path in paths:
                path.unlink(missing_ok=True)

    def _read_memory(self) -> _Memory:
        try:
            value = orjson.loads(self._memory_path.read_bytes())
            uploads = {name: (str(upload_id), str(of)) for name, (upload_id, of) in value["uploads"].items()}
            return _Memory(bool(value["pending"]), value["before"], value["fetched"], uploads)
        except FileNotFoundError:
            return _Memory()
        except OSError as error:
            raise OutputError(f"{str(self._memory_path)!r} of output {self.name!r} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            what = f"{str(self._memory_path)!r} of output {self.name!r} is damaged"
            raise ConfigError(f"{what}; remove that folder to start without what it holds") from None

    def _write_memory(self) -> None:
        write_whole(self._memory_path, orjson.dumps({"url": self.name, **asdict(self._memory)}, option=orjson.OPT_INDENT_2))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"the state of output {self.name!r} cannot be kept in {str(self._folder)!r}: {error.strerror}") from None


def _sha256_of(path: Path) -> str:
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                hashed.update(data)
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    return hashed.hexdigest()
