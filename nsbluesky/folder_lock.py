"""A folder, or a file, that one process at a time works at: the next one is refused at once, and told who is there.

The lock is the operating system's and ends with the process, however that ends: none is ever left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["FolderInUse", "FolderLock"]

NAME = ".lock"


class FolderInUse(RuntimeError):
    """Another process works in the folder.

    Parameters
    ----------
    folder : path
        Or the file.
    holder : str
        Who works there, as in ``process 1234 (nsbluesky serve)``.
    advice : str
        What to do.
    """

    def __init__(self, folder: Path, holder: str, advice: str) -> None:
        super().__init__(f"{folder} is in use by {holder}: {advice}")


class FolderLock:
    """Holds a folder, as a context manager; what it writes there, a file of who holds it, is removed at its end.

    Where a disk knows no locks, as some network disks do, nobody is refused.

    Parameters
    ----------
    folder : path
        Made where missing.
    work : str
        What is done in it, for those who come too late.
    advice : str
        What whoever comes too late is told to do.
    file : str
        Name of the one file in the folder that is held, which need not be there; "" for the folder.
    """

    def __init__(self, folder: Path, work: str, advice: str = "wait for its end", file: str = "") -> None:
        self.folder = folder
        self._held = file
        self._work = work
        self._advice = advice
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Lock the folder.

        Raises
        ------
        FolderInUse
            If another process has it.
        """
        while self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # whoever just ends may remove the folder as well
                self._file = self._lock()
        with contextlib.suppress(OSError):  # of a full disk, which must not keep the work away
            os.truncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n{socket.gethostname()}\n{self._work}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others into the folder."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # the folder may be gone
            if self._is_there(self._file):
                self._path.unlink()
        os.close(self._file)
        self._file = None

    @property
    def _path(self) -> Path:
        return self.folder / f"{self._held}{NAME}"

    def _is_there(self, file: int) -> bool:
        """Return whether the name is that of an open file: who had it may have removed it, and another made one."""
        return os.path.samestat(os.fstat(file), self._path.stat())

    def _lock(self) -> int | None:
        """Return the locked file; None where its holder has removed it in the same moment."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_there(file):
                return file
        except BlockingIOError:
            holder = _holder(file)
            os.close(file)
            raise FolderInUse(self.folder / self._held, holder, self._advice) from None
        except FileNotFoundError:  # of its name
            pass
        except OSError:  # some network disks know no locks
            return file
        os.close(file)
        return None


def _holder(file: int) -> str:
    """Return who has locked a file, as it has written there."""
    pid, _, rest = os.pread(file, 1024, 0).decode(errors="replace").partition("\n")
    host, _, work = rest.partition("\n")
    if not pid.isdecimal():  # it has just come
        return "another process"
    where = "" if host == socket.gethostname() else f" on {host}"
    return f"process {pid}{where} ({work.strip()})"
