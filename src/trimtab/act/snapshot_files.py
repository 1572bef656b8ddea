"""Snapshots on disk: complete or not there at all, and never trusted unchecked."""

from __future__ import annotations

import gc
import os
import re
import shutil
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from trimtab.act import snapshot_format
from trimtab.act.snapshot_format import DamagedError, Read
from trimtab.act.tree import TreeCopy
from trimtab.errors import NumericalWarning, SnapshotError

_MARK, _LOCK = "proven", ".lock"
_NAME = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\.step-\d{6,}\.(writing|dropped)")

# Folders that this process writes to: the lock of a file keeps out other processes only
_open_folders: weakref.WeakValueDictionary[Path, SnapshotFolder] = weakref.WeakValueDictionary()


class SnapshotFolder:
    """The snapshots of one run, each a folder `step-000100` with `state.safetensors` and `state.json`.

    They are written in a background thread: under another name, flushed to the disk, then renamed.

    Args:
        path: The folder, made if absent.
        keep: How many of the newest stay; the newest proven one stays besides.

    Raises:
        SnapshotError: The folder cannot be made or written, or somebody else writes to it.
        MissingDependencyError: safetensors is not installed.

    Cost:
        The thread writes the tensors and reads them once for their checksum. A file of the size of the
        state for each snapshot that is kept, and one more while writing.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: int) -> None:
        snapshot_format.safetensors_module()
        self.path = Path(path)
        self._keep = keep
        self._refuse_second_writer()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = _lock(self.path)
            for leftover in self.path.iterdir():
                if _LEFTOVER.fullmatch(leftover.name):
                    shutil.rmtree(leftover)
            self._is_foreign = bool(self.steps())
        except OSError as error:
            raise SnapshotError(
                f"The folder {self.path} for snapshots cannot be made or written ({error.strerror}). Give a "
                "path that you may write to.",
                path=self.path,
            ) from error
        self._owner = os.getpid()
        self._release = weakref.finalize(self, _unlock, lock, self._owner)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trimtab-snapshots")
        self._writing: Future[None] | None = None
        _open_folders[self.path.resolve()] = self

    def steps(self) -> tuple[int, ...]:
        """Steps of the snapshots that are there, oldest first; whether they are whole is seen when read."""
        found = [_NAME.fullmatch(entry.name) for entry in self.path.iterdir() if entry.is_dir()]
        return tuple(sorted(int(match[1]) for match in found if match))

    def write(self, step: int, copy: TreeCopy) -> None:
        """Begin to write a snapshot. The copy must not change until `wait` has returned.

        Args:
            step: Its step.
            copy: What to write.

        Raises:
            SnapshotError: The last one could not be written; or the folder holds another run.
        """
        self.wait()
        if self._is_foreign:
            raise SnapshotError(
                f"{self.path} holds snapshots of an earlier run (steps {', '.join(map(str, self.steps()))}). "
                "Call guard.resume() before the first step to go on from there, or give another folder.",
                path=self.path,
            )
        if os.getpid() != self._owner:
            raise SnapshotError(
                f"{self.path} belongs to process {self._owner}, from which this one was forked. Give the "
                "child a folder of its own.",
                path=self.path,
            )
        self._writing = self._thread.submit(self._write, step, copy)

    def wait(self) -> None:
        """Return once nothing is being written.

        Raises:
            SnapshotError: What was being written could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def mark_proven(self, step: int) -> None:
        """Keep this one, if it is there, until a newer one is proven."""
        folder = self._folder(step)
        if folder.is_dir():
            (folder / _MARK).touch()

    def drop_newer(self, step: int) -> None:
        """Go on from this step: those after it are of a future that was given up, and are removed.

        An error of what was being written is left to the next `wait`.

        Raises:
            SnapshotError: They cannot be removed.
        """
        if self._writing is not None:
            wait([self._writing])
        self._is_foreign = False
        with _reported("Newer snapshots could not be removed from", self.path):
            for newer in reversed(self.steps()):
                if newer > step:
                    self._drop(newer)

    def newest(self) -> Read | None:
        """The newest snapshot that is whole, or None if there is none at all.

        Damaged ones that are newer are renamed to `step-000100.damaged`, with a warning.

        Raises:
            SnapshotError: There are some, but all are damaged; or one is of a later release.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return snapshot_format.read(self._folder(step))
            except DamagedError as error:
                aside = self._set_aside(step)
                warnings.warn(
                    f"snapshot {self._folder(step)} is damaged ({error}) and was set aside as {aside.name}",
                    NumericalWarning,
                    stacklevel=3,
                )
        if steps:
            raise SnapshotError(
                f"All {len(steps)} snapshots in {self.path} are damaged. Start afresh in another folder.",
                path=self.path,
            )
        return None

    def close(self) -> None:
        """Wait for what is being written, then let go of the folder. Safe to call twice.

        Raises:
            SnapshotError: It could not be written.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._release()
            _open_folders.pop(self.path.resolve(), None)

    def _folder(self, step: int) -> Path:
        return self.path / f"step-{step:06d}"

    def _write(self, step: int, copy: TreeCopy) -> None:
        copy.wait()
        final = self._folder(step)
        temporary = final.with_name(f".{final.name}.writing")
        with _reported(f"The snapshot of step {step} could not be written to", final):
            try:
                temporary.mkdir()
                snapshot_format.write(temporary, step, copy)
                temporary.rename(final)
                snapshot_format.sync(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        with _reported("Older snapshots could not be removed from", self.path):
            self._rotate()

    def _rotate(self) -> None:
        steps = self.steps()
        proven = [step for step in steps if (self._folder(step) / _MARK).exists()]
        for step in set(steps) - set(steps[-self._keep :]) - set(proven[-1:]):
            self._drop(step)

    def _drop(self, step: int) -> None:
        folder = self._folder(step)
        # at once out of sight: half of a snapshot must never look like one
        dropped = folder.rename(folder.with_name(f".{folder.name}.dropped"))
        shutil.rmtree(dropped)

    def _set_aside(self, step: int) -> Path:
        folder = self._folder(step)
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        return folder.rename(aside)

    def _refuse_second_writer(self) -> None:
        known = self.path.resolve()
        if known in _open_folders:
            gc.collect()  # a guard that was dropped may wait for it: hooks make cycles
        if known in _open_folders and _open_folders[known]._owner == os.getpid():
            raise SnapshotError(
                f"Another guard of this process keeps its snapshots in {self.path}. Give each guard a folder "
                "of its own, or close() the other one first.",
                path=self.path,
            )


@contextmanager
def _reported(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, TypeError, ValueError, snapshot_format.safetensors_module().SafetensorError) as error:
        raise SnapshotError(
            f"{what} {path}: {error}. Is the disk full, or the folder not writable? All other snapshots are "
            "untouched.",
            path=path,
        ) from error


def _lock(folder: Path) -> int:
    """Keep other processes out. A lock of the process and not of the file: workers must not inherit it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl
    except ImportError:  # Windows: only guards of the same process are told apart
        return descriptor
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(descriptor)
        raise SnapshotError(
            f"Another process keeps its snapshots in {folder}. Give each run a folder of its own, or end the "
            "other one first.",
            path=folder,
        ) from error
    return descriptor


def _unlock(descriptor: int, owner: int) -> None:
    if os.getpid() == owner:
        os.close(descriptor)
