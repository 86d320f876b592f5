"""Files that are whole or absent, and locks that end with their process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metanet.errors import MetanetError


def write_file(path: Path, data: bytes) -> None:
    """Writes a file by a temporary name and a rename: whole or not at all.

    Raises:
        MetanetError: when the place cannot be written (permissions, full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise MetanetError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a file's lock; whether it was to be had.

    The operating system lets go of it when the process ends, however it ends. The file
    is there only while somebody holds it, or was killed.

    Args:
        path: The lock file.
        wait: Wait until another process lets go; otherwise yields False.

    Raises:
        MetanetError: when the file cannot be made.
    """
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MetanetError(
                f"{path}: cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            os.close(handle)
            yield False
            return
        if _is_at(handle, path):
            break
        os.close(handle)  # its holder removed the file while this process waited
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
