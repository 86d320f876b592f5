"""How many values a parameter's product is summed with."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from metanet.graphs.packing import leaf_numbers
from metanet.graphs.topology import Topology


@lru_cache(maxsize=4096)
def fan_in(topology: Topology) -> np.ndarray:
    """Fan-in of each parameter ``[P]``, the leaves behind one another.

    Sources times kernel positions of its edge set; 1 for parameters that are read through
    no node. Weights are initialised, and often stay, in proportion to its inverse root
    (He et al. 2015): times its root they look alike in networks of every width.
    """
    numbers = leaf_numbers(topology)
    flat = np.ones(sum(math.prod(shape) for _, shape in topology.leaves), np.float32)
    for edge in topology.edges:
        if edge.source is not None and edge.primary:
            _, sources, _, positions = edge.shape
            flat[numbers(edge)] = sources * positions
    flat.setflags(write=False)
    return flat
