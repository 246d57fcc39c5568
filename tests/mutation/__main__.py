"""`python -m tests.mutation`: how many faults in the core modules do the tests notice?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.mutation.modules import MODULES
from tests.mutation.mutants import Mutant, chosen, mutants
from tests.mutation.running import NO_VERDICT, ROOT, module_path, preload, run_tests, share_world

EQUIVALENT = Path(__file__).with_name("equivalent.tsv")


def main() -> int:
    """Run, and print the table; the exit status is 0 if at least 95 % of the real faults are noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="import names or their last parts; all if left out")
    parser.add_argument("--number", type=int, default=12, help="mutants per module")
    parser.add_argument("--seed", type=int, default=12, help="which mutants")
    parser.add_argument("--survivors", type=Path, help="write the survivors here, to be looked at")
    parser.add_argument("--only", default="", help="only mutants whose text holds this")
    options = parser.parse_args()
    names = [m for m in MODULES if not options.modules or m in options.modules or m.split(".")[-1] in options.modules]
    equivalent = known_equivalents()
    preload(sorted({t for name in names for t in MODULES[name]}))
    share_world()
    rows, survivors = [], []
    for name in names:
        candidates = [m for m in mutants(name, module_path(name).read_text()) if options.only in m.text]
        row, alive = run_module(name, chosen(candidates, options.number, options.seed), equivalent)
        rows.append(row)
        survivors += alive
    if options.survivors:
        options.survivors.write_text("".join(f"{m.module}\t{m.text}\t{m.line}\n" for m in survivors))
    return report(rows)


def known_equivalents() -> set[tuple[str, str]]:
    """Mutants that change nothing anybody could notice; each has its reason in the file."""
    lines = EQUIVALENT.read_text().split("\n")
    return {(module, text) for module, text, _ in (line.split("\t") for line in lines if line)}


def run_module(
    name: str, faults: list[Mutant], equivalent: set[tuple[str, str]]
) -> tuple[tuple[str, int, int, int, int], list[Mutant]]:
    """Run a module's mutants: (name, mutants, killed, equivalent, survivors), and the survivors."""
    tests = MODULES[name]
    plain = run_tests(tests, limit=600)
    if plain.code:
        sys.exit(f"{name}: the tests fail without any fault\n{plain.output}")
    print(f"{name}: {len(faults)} mutants; the tests take {plain.seconds:.1f} s", flush=True)
    killed, same, alive = 0, 0, []
    for fault in faults:
        if (name, fault.text) in equivalent:
            same += 1
            continue
        outcome = run_tests(tests, module=name, tree=fault.tree, limit=30 + 5 * plain.seconds)
        if outcome.code in NO_VERDICT:
            sys.exit(f"{name}: no tests ran\n{outcome.output}")
        killed += outcome.killed
        if not outcome.killed:
            alive.append(fault)
            print(f"  survives: {module_path(name).relative_to(ROOT)}:{fault.line} {fault.text}", flush=True)
    return (name, len(faults), killed, same, len(alive)), alive


def report(rows: list[tuple[str, int, int, int, int]]) -> int:
    """Print the table."""
    total = ("all", *(sum(row[i] for row in rows) for i in range(1, 5)))
    print("| module | mutants | killed | equivalent | survivors |\n| --- | --- | --- | --- | --- |")
    for row in [*rows, total]:
        print("| " + " | ".join(map(str, row)) + " |")
    killed, alive = int(total[2]), int(total[4])
    share = killed / max(1, killed + alive)
    print(f"{share:.1%} of the real faults are noticed")
    return 0 if share >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
