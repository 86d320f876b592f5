"""Atomic writes, and file locks that are released when their process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metanet.errors import MetanetError


def write_file(path: Path, data: bytes) -> None:
    """Writes a file atomically, by a temporary name and a rename.

    Raises:
        MetanetError: when the file cannot be written (permissions, full disk).
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
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Acquires an exclusive file lock; yields True if it was acquired.

    The operating system releases the lock when the process ends, however it ends. The
    file exists only while a process has the lock, or after one was killed.

    Args:
        path: The lock file.
        wait: Wait until another process releases the lock; otherwise yields False.

    Raises:
        MetanetError: when the file cannot be created.
    """
    operation = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MetanetError(
                f"{path}: cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(handle, operation)
        except BlockingIOError:
            os.close(handle)
            yield False
            return
        if _is_same_file(handle, path):
            break
        os.close(handle)  # the file was removed while this process waited
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
