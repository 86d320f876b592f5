"""Networks whose discovered group is smaller than on paper, and the reason for each."""

from __future__ import annotations

MISSED = {
    "cellular automaton": "channels of a concatenation pass fixed depthwise filters",
    "one key head, fused": "queries, key and value are slices of one axis of heads",
    "fused per head": "queries, keys and values lie side by side in every head",
    "partial rotation": "of a head's channels some are rotated, others not",
    "gathered experts": "hidden channels of experts that are gathered by an index",
    "graph attention": "channels depend on the head across a sum over segments",
    "masked estimator": "a constant mask has equal columns, which are interchangeable",
    "vector quantised": "codes of which the nearest is chosen",
    "product keys": "the best sums of two scores are chosen",
    "oblivious trees": "the order of a tree's splits transposes its leaves",
    "factorised weights": "summands that the program computes one by one",
    "vector quantiser": "codes of which the nearest is chosen",
}
