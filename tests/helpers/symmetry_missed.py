"""Networks whose discovered group is smaller than on paper, and the reason for each."""

from __future__ import annotations

MISSED = {
    "oblivious trees": "the order of a tree's splits transposes its leaves",
    "factorised weights": "summands that the program computes one by one",
    "vector quantiser": "codes of which the nearest is chosen",
}
