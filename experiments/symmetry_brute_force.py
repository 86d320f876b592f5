# pyright: reportMissingImports=false
"""Discovered symmetries compared with brute force, or tried on random programs.

    python experiments/symmetry_brute_force.py                    # all tricky programs
    python experiments/symmetry_brute_force.py --only='argmax'    # some of them
    python experiments/symmetry_brute_force.py --random=20000 --seed=0
    python experiments/symmetry_brute_force.py --steps='relu,layer,greatest'

The tricky programs have two sets of 4 units each; all 576 pairs of permutations are tried on
them. Prints a line per program whose group is not the true one, and a summary; 5 minutes
on a free core. Of random programs every group is tried on random parameters and inputs; a
fault is printed with the steps that reproduce it. About 0.1 s a program on a free core.
"""

from __future__ import annotations

import os

# Thousands of small programs are compiled and run once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import re
import sys
import warnings
from collections import Counter
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import brute_force, random_programs, tricky_programs

from metanet.progress import track

_ONLY = flags.DEFINE_string("only", "", "Regular expression on the programs' names.")
_RANDOM = flags.DEFINE_integer("random", 0, "Number of random programs instead.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random programs.")
_STEPS = flags.DEFINE_list("steps", [], "Steps of one random program instead.")


def compare_tricky_programs() -> bool:
    """Compares the tricky programs and returns False if one has a fault."""
    programs = {
        name: program
        for name, program in tricky_programs.PROGRAMS.items()
        if re.search(_ONLY.value, name)
    }
    counts: Counter[str] = Counter()
    slowest = 0.0
    with track(len(programs), "brute force", unit="programs") as tracker:
        for name, program in programs.items():
            result = brute_force.compare(program)
            counts[result.status] += 1
            slowest = max(slowest, result.seconds)
            reason = tricky_programs.KNOWN_SMALLER.get(name, "")
            message = result.message or f"order {result.found} of {result.order}"
            if result.status != "equal":
                print(f"{result.status}: {name}: {message}. {reason}".strip())
            elif reason:
                print(f"equal: {name}: no longer smaller")
            tracker.advance(1, **counts)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(
        f"{len(programs)} programs: {summary}; discovery takes at most {slowest:.1f} s"
    )
    return set(counts) <= {"equal", "smaller"}


def try_random_programs() -> bool:
    """Tries random programs and returns False if one has a fault."""
    if _STEPS.value:
        programs = [_STEPS.value]
    else:
        programs = [*random_programs.draw_programs(_RANDOM.value, _SEED.value)]
    faults = symmetric = 0
    with track(len(programs), "random programs", unit="programs") as tracker:
        for number, names in enumerate(programs):
            seed = _SEED.value + number
            order, fault = random_programs.find_fault(names, seed)
            symmetric += order > 1
            if fault:
                faults += 1
                print(f"--steps='{','.join(names)}' --seed={seed}: {fault}", flush=True)
            tracker.advance(1, faults=faults)
    print(f"{len(programs)} programs: {symmetric} have permutations; {faults} faults")
    return not faults


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    random = _RANDOM.value or _STEPS.value
    sound = try_random_programs() if random else compare_tricky_programs()
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    app.run(main)
