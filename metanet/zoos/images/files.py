"""Files of image sets: found in folders or downloaded, and verified by checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pooch

from metanet.errors import MetanetError


def damaged_file(path: Path | str, reason: object) -> MetanetError:
    """Returns the error of a file that cannot be read."""
    return MetanetError(f"{path}: truncated or not of the expected format: {reason}")


class ImageFiles:
    """Finds the files of an image set.

    Args:
        name: Name of the set.
        url: Publisher's address of its files. The environment variable METANET_MIRROR
            replaces it by a folder or server that holds the sets' folders.
        checksums: MD5 of known files.
        root: Folder that holds the set's folder, or its files directly.
        download: Fetch missing files.
    """

    def __init__(
        self,
        name: str,
        url: str,
        checksums: Mapping[str, str],
        root: Path | None,
        *,
        download: bool,
    ):
        self._name, self._url, self._checksums = name, url, checksums
        self._root, self._download = root, download

    def _candidates(self, file: str) -> list[Path]:
        if self._root is None:
            return []
        return [self._root / self._name / file, self._root / file]

    def exists(self, file: str) -> bool:
        """Returns True if a file or folder of that name is below the root."""
        return any(path.exists() for path in self._candidates(file))

    def find(self, file: str) -> Path:
        """Returns the path of a file, verified against its known checksum.

        The file is ``root/name/file`` or ``root/file``.

        Raises:
            MetanetError: for a missing or altered file, with the command that fetches it.
        """
        candidates = self._candidates(file)
        for path in candidates:
            if path.is_file():
                self._verify(file, path)
                return path
        if self._download and file in self._checksums:
            return self._fetch(file)
        reason = "missing"
        if candidates:
            reason = f"not found as {' or '.join(map(str, candidates))}"
        hint = "give the folder that holds it with --data-root"
        if file in self._checksums:
            hint += (
                f", or fetch it with: metanet zoo fit-inrs --images {self._name} "
                "--download --out DIR"
            )
        raise MetanetError(f"{self._name}: {file}: {reason}; {hint}")

    def _verify(self, file: str, path: Path) -> None:
        expected = self._checksums.get(file)
        if expected is None:
            return
        with path.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "md5").hexdigest()
        if checksum != expected:
            raise MetanetError(
                f"{path}: checksum {checksum} is not the publisher's {expected}; the file "
                "is truncated or altered: delete it and fetch it again"
            )

    def _fetch(self, file: str) -> Path:
        mirror = os.environ.get("METANET_MIRROR")
        base = f"{mirror.rstrip('/')}/{self._name}/" if mirror else self._url
        target = (self._root or Path(pooch.os_cache("metanet"))) / self._name
        try:
            path = pooch.retrieve(
                base + file,
                known_hash=f"md5:{self._checksums[file]}",
                fname=file,
                path=target,
            )
        except Exception as error:
            # pooch raises the exceptions of whatever transports the file.
            raise MetanetError(
                f"{self._name}: {file}: download failed: {error}"
            ) from error
        return Path(path)
