"""Networks written in the format of the file that they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.importers.binding import unbind
from metanet.importers.files import SAVERS, read_file
from metanet.networks import Network, ParamSpec


def save_network(path: str | Path, network: Network, *, like: str | Path) -> None:
    """Writes a network as a copy of another file with other values.

    Names, layouts and types are those of the file, and everything in it that is no
    parameter is copied. A PyTorch file becomes a plain state dict.

    Args:
        path: File to write, with the suffix of ``like``.
        network: The network.
        like: File from which the network was loaded (`load_network`).

    Raises:
        MetanetError: for a format that cannot be written, another suffix, a file that the
            network does not fit, and a path that cannot be written.
    """
    path, like = Path(path), Path(like)
    suffix = like.suffix.lower()
    if suffix not in SAVERS:
        raise MetanetError(
            f"{like}: the format {suffix!r} cannot be written; others are "
            f"{', '.join(SAVERS)}"
        )
    if path.suffix.lower() != suffix:
        raise MetanetError(f"{path}: must end with {suffix}, as {like}")
    content = read_file(like)
    if isinstance(content, Network):
        values = {name: np.asarray(x) for name, x in network.params.items()}
        if set(content.params) != set(values):
            raise MetanetError(f"{like}: has other parameters than the network")
    else:
        spec = ParamSpec.of(network.params)
        vector = np.asarray(spec.flatten(network.params))
        values = unbind(vector, content, spec, str(like))
    write_file(path, SAVERS[suffix](like, values))
