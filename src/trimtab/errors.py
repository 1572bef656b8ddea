"""Every exception and warning that trimtab raises on its own account.

    TrimtabError
      NonFiniteError          a remedy gave up on a faulty step; carries the step and its outcome
      RunLogError             a run log cannot be written or read; carries the path
      SnapshotError           a snapshot cannot be written, read or restored; carries the path
      EvidenceError           a fault folder cannot be read, or is of another model; carries the path
      CheckpointError         a checkpoint was refused or could not be written; carries path and culprits
      MissingDependencyError  an optional package is needed; names the extra that brings it
    TrimtabWarning
      NumericalWarning        something about the numbers of this run deserves a look

Wrong arguments are plain `ValueError` and `TypeError`; wrong order of calls is `RuntimeError`.
"""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.types import Culprit, StepOutcome


class TrimtabError(Exception):
    """Base of all errors of this package."""


class NonFiniteError(TrimtabError):
    """A faulty step that no remedy was willing, or still able, to pass over.

    The model and the optimizer are as they were before the step; the gradients are left in place
    for inspection.

    Attributes:
        step: Number of the step, counted from 0.
        outcome: What was measured and found, with the culprits.
    """

    def __init__(self, message: str, *, step: int, outcome: StepOutcome) -> None:
        super().__init__(message)
        self.step = step
        self.outcome = outcome


class RunLogError(TrimtabError):
    """A run log that cannot be opened, written or understood.

    Attributes:
        path: The file or folder in question.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class SnapshotError(TrimtabError):
    """A snapshot that cannot be written, read, or restored into this model.

    Attributes:
        path: The file or folder in question; None for a snapshot in memory.
    """

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class EvidenceError(TrimtabError):
    """A fault folder that cannot be read, or does not fit the model it is to be replayed with.

    Attributes:
        path: The folder in question.
    """

    def __init__(self, message: str, *, path: Path) -> None:
        super().__init__(message)
        self.path = path


class CheckpointError(TrimtabError):
    """A checkpoint that was refused, or could not be written. The file that was there is as before.

    Attributes:
        path: Where it was to be saved.
        culprits: The entries that are not finite, by name, with exact counts; empty for another cause.
    """

    def __init__(self, message: str, *, path: Path, culprits: tuple[Culprit, ...] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.culprits = culprits


class MissingDependencyError(TrimtabError, ImportError):
    """An optional package is not installed.

    Args:
        package: Import name of what is missing.
        extra: The extra of trimtab that brings it.
        purpose: What it is needed for, as a noun phrase.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Run: pip install 'trimtab[{extra}]'"
        )
        self.package = package
        self.extra = extra


class TrimtabWarning(UserWarning):
    """Base of all warnings of this package."""


class NumericalWarning(TrimtabWarning):
    """The numbers of this run deserve a look."""


_OURS = os.path.dirname(__file__) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def told(error: BaseException) -> str:
    """What somebody else's code raised, and the innermost line of it that is neither a library's nor ours.

    Args:
        error: What was raised.

    Returns:
        One line. After kind and message it holds, in brackets, file, line, function and text of the line.

    Example:
        >>> told(ValueError("too large"))
        'ValueError: too large'
    """
    # torch lists its checks below the first line
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    for code, line in reversed(frames):
        file = code.co_filename
        is_installed = any(part in file for part in _INSTALLED)
        if not (is_installed or file.startswith((_OURS, _STANDARD, "<frozen"))):
            text = linecache.getline(file, line).strip()
            where = f"{file}, line {line}, in {code.co_name}" + (f": {text}" if text else "")
            return f"{said} ({where})"
    return said
