"""What a run log must do so that `os.fork` in the user's program cannot harm it.

SQLite's rule is that a connection must not be used, nor even closed, in a process that inherited it.
And a connection that a child opens itself is not enough: SQLite believes that the locks which the
child inherited as memory are held, but POSIX locks stay with the parent. When the parent then closes
as "the last user", it removes the write-ahead file under the child, and the child's rows with it.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from trimtab.errors import RunLogError

# Where SQLite locks: sqlite.org/fileformat2.html#the_lock_byte_page (the shared range starts two
# bytes into it) and os_unix.c, UNIX_SHM_DMS (the "somebody uses this index" byte).
_SHARED_START, _SHARED_BYTES = 0x40000002, 510
_INDEX_IN_USE_BYTE = 128


def release(db: sqlite3.Connection, owner: int) -> None:
    """Close a connection in the process that opened it; in a forked child never touch it again.

    Args:
        db: The connection.
        owner: Id of the process that opened it.
    """
    if owner != os.getpid():
        # an extra reference for ever: deallocation would close it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))
        return
    # one plain file is what a finished run should be. Refused while somebody else has it open:
    # then it stays in write-ahead mode, which reads just as well
    with suppress(sqlite3.Error):
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()


def index_identity(file: Path) -> int:
    """Identity of the write-ahead index next to the file; 0 when there is none."""
    try:
        return os.stat(f"{file}-shm").st_ino
    except OSError:
        return 0


def hold_locks(file: Path, index: int) -> None:
    """Take in this forked child the locks that SQLite wrongly believes it has. They last until exit.

    Args:
        file: The run log.
        index: What `index_identity` said in the parent, after it had opened the file.

    Raises:
        RunLogError: The parent has closed the log meanwhile, so what the child inherited is stale.
    """
    import fcntl  # not on Windows, where nothing forks

    database = os.open(file, os.O_RDWR)
    fcntl.lockf(database, fcntl.LOCK_SH, _SHARED_BYTES, _SHARED_START)
    if index == 0 or index_identity(file) != index:
        raise RunLogError(
            f"{file} was closed by process {os.getppid()} or another parent, after this process was "
            f"forked from it. Make a new RunWriter with a folder of its own in the child process.",
            path=file,
        )
    in_use = os.open(f"{file}-shm", os.O_RDWR)
    fcntl.lockf(in_use, fcntl.LOCK_SH, 1, _INDEX_IN_USE_BYTE)
