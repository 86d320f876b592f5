"""ONNX files that Python packages ship, for `symmetry_table`.

The symmetry group on paper is derived from the layers that a file holds: degree of a
symmetric group -> how many independent copies act (None: not derived).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple


class ShippedNetwork(NamedTuple):
    """A file of an installed package.

    Attributes:
        family: Kind of network.
        package: Name of the distribution.
        file: Name of the file in it.
        paper: The group on paper.
    """

    family: str
    package: str
    file: str
    paper: dict[int, int] | None

    def path(self) -> Path:
        """Returns the path of the file.

        Raises:
            FileNotFoundError: if the package is not installed, or lacks the file.
        """
        try:
            installed = files(self.package) or []
        except PackageNotFoundError as error:
            raise FileNotFoundError(self.package) from error
        for entry in installed:
            if entry.name == self.file:
                return Path(str(entry.locate()))
        raise FileNotFoundError(f"{self.package}: {self.file}")


NETWORKS = {
    "wake word": ShippedNetwork("MLP", "openwakeword", "alexa_v0.1.onnx", {128: 2}),
    "timer": ShippedNetwork("MLP", "openwakeword", "timer_v0.1.onnx", {128: 2}),
    # Both layers of the model and of the one that verifies it.
    "wake word, verified": ShippedNetwork(
        "MLP, layer norm", "openwakeword", "hey_jarvis_v0.1.onnx", {128: 2, 64: 2}
    ),
    "speech embedding": ShippedNetwork(
        "CNN", "openwakeword", "embedding_model.onnx", None
    ),
    # Embedded bytes; channels of the convolution, which the maximum over time keeps.
    "file types": ShippedNetwork("CNN", "magika", "model.onnx", {64: 1, 512: 1}),
    "voice activity": ShippedNetwork(
        "CNN, LSTM", "silero-vad", "silero_vad_16k_sequence.onnx", None
    ),
}


def installed() -> Iterator[tuple[str, ShippedNetwork]]:
    """Yields the networks whose packages are installed."""
    for name, network in NETWORKS.items():
        try:
            network.path()
        except FileNotFoundError:
            continue
        yield name, network
