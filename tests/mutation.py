"""Mutation testing: how many small faults in the core the default suite notices.

A mutant is the package with one operator, number, condition or loop changed by cosmic-ray.
Each mutant runs those tests that execute the changed line, cheapest first, as far as they
fit the time limit; it is killed by the first test that fails. Run from the root, after
``pip install -e '.[mutation]'``:

    pytest --cov=metanet --cov-context=test --cov-report= --junit-xml=durations.xml
    python tests/mutation.py --sample 320 --out mutants.jsonl

The same command goes on where an earlier one stopped. Mutants on lines that no test executes
count as survivors; the output lists each survivor as a diff.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from queue import Queue
from typing import Any
from xml.etree import ElementTree

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from coverage import CoverageData

TARGETS = {
    "symmetry": ["symmetry/*.py", "symmetry/rules/*.py"],
    "layouts": ["graphs/layouts/*.py", "graphs/compiled.py"],
    "model blocks": [
        *(f"models/{name}.py" for name in ("gmn", "ng_gnn", "ng_t", "product_gmn")),
        *(f"models/{name}.py" for name in ("scale_gmn", "scale_product_gmn", "sets")),
        *(f"models/{name}.py" for name in ("aggregators", "layers", "readout")),
        *(f"models/{name}.py" for name in ("equivariant_maps", "functionals")),
    ],
    "training and resume": [
        *(f"training/{name}.py" for name in ("step", "packed", "dense", "batches")),
        *(f"training/{name}.py" for name in ("checkpoint", "loop")),
    ],
}
_BINARY = {
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Div",
    "Div": "Mul",
    "FloorDiv": "Mul",
    "Mod": "FloorDiv",
    "Pow": "Mul",
    "BitOr": "BitAnd",
    "BitAnd": "BitOr",
}
_COMPARISONS = {
    "Eq": "NotEq",
    "NotEq": "Eq",
    "Lt": "LtE",
    "LtE": "Lt",
    "Gt": "GtE",
    "GtE": "Gt",
    "Is": "IsNot",
    "IsNot": "Is",
}
OPERATORS = [
    *(f"ReplaceBinaryOperator_{old}_{new}" for old, new in _BINARY.items()),
    *(f"ReplaceComparisonOperator_{old}_{new}" for old, new in _COMPARISONS.items()),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "AddNot"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr"),
    *("ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("NumberReplacer", "ZeroIterationForLoop"),
]

# Programs that a mutant does not change are compiled once for all mutants.
COMPILATION_CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "mutation-programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        area: Key of ``TARGETS``.
        file: Path from the root.
        operator: Name of the operator in cosmic-ray.
        occurrence: Number of the position among those of the operator in the file.
        line: Line of the change.
    """

    area: str
    file: str
    operator: str
    occurrence: int
    line: int

    def code(self, root: Path) -> str:
        """Returns the text of the changed file."""
        source = (root / self.file).read_text()
        changed = mutate_code(
            source, get_operator("core/" + self.operator)(), self.occurrence
        )
        assert changed is not None, self
        return changed


def mutants_of(root: Path, area: str, path: Path) -> list[Mutant]:
    """Returns all mutants of a file, except for changes of annotations."""
    source = path.read_text()
    tree, annotations = get_ast(source), _annotation_spans(source)
    out = []
    for name in OPERATORS:
        operator = get_operator("core/" + name)()
        positions = [
            start
            for node in ast_nodes(tree)
            for start, _ in operator.mutation_positions(node)
        ]
        for occurrence, position in enumerate(positions):
            in_annotation = any(a <= position < b for a, b in annotations)
            if not in_annotation and not _separates_arguments(source, position):
                file = str(path.relative_to(root))
                out.append(Mutant(area, file, name, occurrence, position[0]))
    return out


def _separates_arguments(source: str, position: tuple[int, int]) -> bool:
    """Returns True for the star before keyword-only arguments, which is no operator."""
    line, column = position
    return source.splitlines()[line - 1][column:].startswith("*,")


def _annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Returns start and end, as (line, column), of every annotation."""
    parts = [
        part
        for node in ast.walk(ast.parse(source))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
    ]
    return [
        ((p.lineno, p.col_offset), (p.end_lineno, p.end_col_offset))
        for p in parts
        if isinstance(p, ast.expr)
    ]


def statement_lines(source: str, line: int) -> range:
    """Returns the lines of the smallest statement at a line, without its body."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            spans.append(range(node.lineno, max(node.lineno, end) + 1))
    return min((s for s in spans if line in s), key=len, default=range(line, line + 1))


def sample(root: Path, count: int, seed: int) -> list[Mutant]:
    """Draws as many mutants from each area, evenly over its mutants."""
    rng = random.Random(seed)
    out = []
    for area, patterns in TARGETS.items():
        files = sorted(
            {p for pattern in patterns for p in (root / "metanet").glob(pattern)}
        )
        everything = [m for path in files for m in mutants_of(root, area, path)]
        print(f"{area}: {len(everything)} mutants in {len(files)} files")
        out += rng.sample(everything, count // len(TARGETS))
    rng.shuffle(out)
    return out


class Tests:
    """The tests of the default suite: lines that they execute, and seconds that they take."""

    def __init__(self, coverage: Path, durations: Path):
        self.data = CoverageData(str(coverage))
        self.data.read()
        self.seconds = {}
        for case in ElementTree.parse(durations).iter("testcase"):
            file = case.get("classname", "").replace(".", "/") + ".py"
            self.seconds[f"{file}::{case.get('name')}"] = float(case.get("time", 0))

    def executing(self, root: Path, mutant: Mutant) -> set[str]:
        """Returns the tests that execute the changed statement.

        For statements that run at import, those that execute anything of the file.
        """
        contexts = self.data.contexts_by_lineno(str(root / mutant.file))
        source = (root / mutant.file).read_text()
        lines = statement_lines(source, mutant.line)
        reached = {c for line in lines for c in contexts.get(line, ())}
        if reached == {""}:
            reached = {c for names in contexts.values() for c in names}
        return {context.split("|")[0] for context in reached - {""}}

    def select(self, executing: set[str], limit: float) -> list[str]:
        """Chooses tests until the limit is reached: those given, then others of their files.

        The others count because a fixture or a cache may execute a line for many tests, of
        which coverage names the first.
        """
        files = {test.split("::")[0] for test in executing}
        others = {t for t in self.seconds if t.split("::")[0] in files} - executing
        chosen = self._in_turn(executing, limit)
        left = limit - sum(map(self._seconds_of, chosen))
        return chosen + self._in_turn(others, left)

    def _in_turn(self, tests: set[str], limit: float) -> list[str]:
        """Chooses tests in turn from each file, cheapest first, until the limit is reached.

        Tests of a file stay together, since they share compiled programs.
        """
        files = defaultdict(list)
        for test in sorted(tests, key=lambda test: (self._seconds_of(test), test)):
            files[test.split("::")[0]].append(test)
        queues = [list(reversed(group)) for group in files.values()]
        chosen, total = set(), 0.0
        while queues and total < limit:
            for queue in queues:
                test = queue.pop()
                total += self._seconds_of(test)
                chosen.add(test)
            queues = [queue for queue in queues if queue]
        groups = [[t for t in group if t in chosen] for group in files.values()]
        groups.sort(key=lambda group: sum(map(self._seconds_of, group)))
        return [test for group in groups for test in group]

    def _seconds_of(self, test: str) -> float:
        return self.seconds.get(test, 1.0)


def killer(
    mutant: Mutant, tests: list[str], root: Path, copy: Path, limit: float
) -> str:
    """Returns the test that fails with the mutant in a copy of the checkout, or ""."""
    target, original = copy / mutant.file, (root / mutant.file).read_text()
    target.write_text(mutant.code(root))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-o", "addopts="]
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", "--tb=no", "-rfE", *tests],
            cwd=copy,
            timeout=3 * limit + 60,
            capture_output=True,
            text=True,
            env={**os.environ, **COMPILATION_CACHE, "PYTHONPATH": str(copy)},
        )
    except subprocess.TimeoutExpired:
        return "time"
    finally:
        target.write_text(original)
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    return failed.group(1) if failed else f"exit code {done.returncode}"


def write_summary(results: list[dict[str, Any]], root: Path) -> None:
    """Prints the share of killed mutants of each area, and each survivor as a diff."""
    for result in results:
        if not result["killed_by"]:
            mutant = Mutant(**{f.name: result[f.name] for f in fields(Mutant)})
            before, after = (root / mutant.file).read_text(), mutant.code(root)
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), mutant.file, lineterm="", n=1
            )
            print("\n".join(lines), f"\n({result['tests']} tests)\n")
    for area in [*TARGETS, None]:
        rows = [r for r in results if area in (None, r["area"])]
        killed = sum(bool(r["killed_by"]) for r in rows)
        print(f"{area or 'all'}: {killed} of {len(rows)} killed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=320, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--limit", type=float, default=90, help="test seconds a mutant")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--coverage", type=Path, default=Path(".coverage"))
    parser.add_argument("--durations", type=Path, default=Path("durations.xml"))
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    args = parser.parse_args()

    root = Path(__file__).resolve().parent.parent
    done = set()
    if args.out.exists():
        for line in args.out.read_text().splitlines():
            row = json.loads(line)
            done.add(tuple(row[f.name] for f in fields(Mutant)))
    mutants = sample(root, args.sample, args.seed)
    waiting = [m for m in mutants if astuple(m) not in done]
    tests = Tests(args.coverage, args.durations)

    with tempfile.TemporaryDirectory() as folder, args.out.open("a") as out:
        copies: Queue[Path] = Queue()
        for i in range(args.workers):
            copies.put(Path(folder) / str(i))
            for name in ("metanet", "experiments", "configs", "tests", "docs", "data"):
                shutil.copytree(root / name, Path(folder) / str(i) / name)
            for path in root.glob("*.*"):
                if path.suffix in (".toml", ".md", ".py", ".cff", ".yml"):
                    shutil.copy(path, Path(folder) / str(i))

        def run(mutant: Mutant) -> dict[str, Any]:
            chosen = tests.select(tests.executing(root, mutant), args.limit)
            copy = copies.get()
            try:
                name = killer(mutant, chosen, root, copy, args.limit) if chosen else ""
            finally:
                copies.put(copy)
            return {**asdict(mutant), "killed_by": name, "tests": len(chosen)}

        with ThreadPoolExecutor(args.workers) as pool:
            futures = [pool.submit(run, mutant) for mutant in waiting]
            for i, future in enumerate(as_completed(futures), start=1):
                row = future.result()
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(
                    f"{i}/{len(waiting)} {row['file']}:{row['line']} {row['killed_by']}"
                )

    write_summary([json.loads(t) for t in args.out.read_text().splitlines()], root)


if __name__ == "__main__":
    main()
