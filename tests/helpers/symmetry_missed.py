"""Networks whose discovered group is smaller than on paper, and the reason for each."""

from __future__ import annotations

MISSED = {
    "oblivious trees": "the order of a tree's splits transposes its leaves",
    "factorised weights": "summands that the program computes one by one",
    "Falcon, one key head": "channels of a value that is read by a stored list of indices",
    "UNet2DModel": "a stored vector of ones that all group norms share ties their groups",
    "AutoencoderKL": "a stored vector of ones that all group norms share ties their groups",
    "GPT-J, pairs rotated": "channels that do not rotate are cut where others' pairs lie",
    "vector quantiser": "codes of which the nearest is chosen",
}
