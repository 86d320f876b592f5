"""metanet: weight-space metanetworks in JAX.

Networks that take other networks' weights as input. The stages, in the order in which
data flows through them:

    networks -> importers -> symmetry -> graphs -> zoos -> models -> augment -> tasks
    -> training -> report -> cli

A stage imports only from stages to its left.
"""

__version__ = "0.1.0"
