"""Fan-in of parameters."""

from __future__ import annotations

import math

import numpy as np

from metanet.graphs.topology import Topology
from metanet.graphs.view import leaf_positions


def fan_in(topology: Topology) -> np.ndarray:
    """Returns the fan-in of each parameter ``[P]``, the leaves one after the other.

    The fan-in is the number of sources times kernel positions; it is 1 for parameters
    that multiply no activation. Weights are initialised, and often stay, in proportion to
    its inverse square root (He et al. 2015): multiplied by the root, they have the same
    distribution in networks of every width.
    """
    positions = leaf_positions(topology)
    flat = np.ones(sum(math.prod(shape) for _, shape in topology.leaves), np.float32)
    for edge in topology.edges:
        if edge.source is not None and edge.primary:
            _, sources, _, parallel = edge.shape
            flat[positions(edge)] = sources * parallel
    return flat
