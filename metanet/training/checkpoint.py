"""Checkpoints; the only file that touches Orbax.

A checkpoint is the training state and a JSON record (best metric, data position), saved
together and atomically; the data position is the state's step. A checksum manifest
beside each finds damage that a reader would not notice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from metanet.errors import MetanetError
from metanet.files import write_file

S = TypeVar("S")


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Silences Orbax, which logs each directory it touches and each error it raises.

    The level of absl's logger, which belongs to the whole process, is restored.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Checkpoints:
    """The checkpoints of one kind ("latest" or "best") of a run.

    Args:
        directory: The directory of the checkpoints.
        keep: Number of checkpoints that are kept, the newest.
        writing: False opens them to be read only, beside a process that writes them.
    """

    @_quiet_orbax()
    def __init__(self, directory: Path, keep: int, *, writing: bool = True):
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=False,
            create=writing,
            read_only=not writing,
        )
        if writing and jax.process_index() == 0:
            # Remains of a process that was killed. Orbax's own clean-up runs beside the program.
            for left in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise MetanetError(
                f"{directory}: cannot be written: {error.strerror or error}"
            ) from error

    @_quiet_orbax()
    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    @_quiet_orbax()
    def save(self, step: int, state: Any, record: dict[str, Any]) -> None:
        """Stores state and record; replaces a checkpoint of the same step.

        Raises:
            MetanetError: when it cannot be written (permissions, full disk).
        """
        try:
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
                ),
            )
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:  # the storage library raises either
            why = str(error).splitlines()[0]
            raise MetanetError(
                f"{self.directory}: checkpoint {step} cannot be written: {why}"
            ) from error
        if jax.process_index() == 0:
            sums = json.dumps(_checksums(self.directory / str(step)), indent=1)
            write_file(self._manifest(step), sums.encode())
            for old in self.directory.glob("*.sha256.json"):
                if not (self.directory / old.name.split(".")[0]).is_dir():
                    old.unlink()

    @_quiet_orbax()
    def restore(self, example: S) -> tuple[S, dict[str, Any]] | None:
        """Returns the newest intact checkpoint; None if there are no checkpoints.

        Damaged checkpoints are reported on standard error and skipped.

        Args:
            example: A state of the same structure, shapes and shardings; shapes alone
                are restored to the first device.

        Raises:
            MetanetError: if all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                self._verify(step)
                items = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(_abstract(example)),
                        record=ocp.args.JsonRestore(),
                    ),
                )
                return items["state"], items["record"]
            except Exception as error:  # damage surfaces as nearly any error
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                print(
                    f"metanet: warning: {self.directory / str(step)}: damaged "
                    f"checkpoint ({why}); falling back to the one before",
                    file=sys.stderr,
                )
        if steps:
            raise MetanetError(
                f"{self.directory}: every checkpoint is damaged; delete the run's "
                "directory to start again"
            )
        return None

    @_quiet_orbax()
    def discard_after(self, step: int) -> None:
        """Deletes the (damaged) checkpoints after a step, which will be written again."""
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)

    @_quiet_orbax()
    def close(self) -> None:
        """Releases the resources of Orbax."""
        self._manager.close()

    def _manifest(self, step: int) -> Path:
        return self.directory / f"{step}.sha256.json"

    def _verify(self, step: int) -> None:
        manifest = self._manifest(step)
        # A process killed between the two writes leaves a complete checkpoint without one.
        if not manifest.is_file():
            return
        checksums = _checksums(self.directory / str(step))
        for name, expected in json.loads(manifest.read_text()).items():
            if checksums.get(name) != expected:
                raise ValueError(f"{name}: missing or altered")


def _abstract(state: Any) -> Any:
    # Bare shapes have no device, and the devices that saved may not exist here.
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def describe(x: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or default)

    return jax.tree.map(describe, state)


def _checksums(directory: Path) -> dict[str, str]:
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }
