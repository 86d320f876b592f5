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

    The operating system lets go of it when the process ends, however it ends.

    Args:
        path: The lock file, made where it is missing.
        wait: Wait until another process lets go; otherwise yields False.

    Raises:
        MetanetError: when the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise MetanetError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(handle)
