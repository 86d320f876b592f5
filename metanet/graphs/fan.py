"""How many values a parameter's product is summed with."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from metanet.graphs.topology import Topology
from metanet.graphs.view import block_of


@lru_cache(maxsize=4096)
def fan_in(topology: Topology) -> np.ndarray:
    """Fan-in of each parameter ``[P]``, the leaves behind one another.

    Sources times kernel positions of its edge set; 1 for parameters that are read through
    no node. Weights are initialised, and often stay, in proportion to its inverse root
    (He et al. 2015): times its root they look alike in networks of every width.
    """
    shapes = [shape for _, shape in topology.leaves]
    starts = [0, *itertools.accumulate(math.prod(s) for s in shapes)]
    flat = np.ones(starts[-1], np.float32)
    for edge in topology.edges:
        if edge.source is None or not edge.primary:
            continue
        start, shape = starts[edge.leaf], shapes[edge.leaf]
        places = np.arange(start, start + math.prod(shape)).reshape(shape)
        _, sources, _, positions = edge.shape
        flat[block_of(edge, shape, places)] = sources * positions
    flat.setflags(write=False)
    return flat
