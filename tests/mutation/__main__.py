"""`python -m tests.mutation`: how many faults in the core modules do the tests notice?"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.modules import MODULES
from tests.mutation.mutants import Mutant, chosen, mutants
from tests.mutation.once import once_unnoticed
from tests.mutation.running import NO_VERDICT, ROOT, module_path, preload, run_tests, share_world

EQUIVALENT = Path(__file__).with_name("equivalent.tsv")
ENOUGH = 0.95


@dataclass(frozen=True)
class Tally:
    """What became of the faults of one module, or of several."""

    name: str
    killed: int
    equivalent: int
    survivors: list[Mutant]

    @property
    def share(self) -> float:
        """Of the faults that change something, those that the tests notice."""
        return self.killed / max(1, self.killed + len(self.survivors))

    def row(self) -> str:
        """A line of the table."""
        alive = len(self.survivors)
        return (
            f"| {self.name} | {self.killed + self.equivalent + alive} | {self.killed} | {self.equivalent} | {alive} |"
        )


def main() -> int:
    """Run, and print the table; the exit status is 0 if at least 95 % of the real faults are noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="import names or their last parts; all if left out")
    parser.add_argument("--number", type=int, default=13, help="mutants per module")
    parser.add_argument("--seed", type=int, default=12, help="which mutants")
    parser.add_argument("--survivors", type=Path, help="write the survivors here, to be looked at")
    parser.add_argument("--only", default="", help="only mutants whose text holds this")
    options = parser.parse_args()
    names = [m for m in MODULES if not options.modules or m in options.modules or m.split(".")[-1] in options.modules]
    if not names:
        parser.error(f"no such module: {' '.join(options.modules)}")
    equivalent = known_equivalents()
    preload(sorted({t for name in names for t in MODULES[name]}))
    share_world()
    once, gone = once_unnoticed(names)
    generated, known = [], []
    for name in names:
        tests, limit = MODULES[name], check_tests(name)
        candidates = [m for m in mutants(name, module_path(name).read_text()) if options.only in m.text]
        picked = chosen(candidates, options.number, options.seed)
        generated.append(run_faults(name, picked, tests, limit, equivalent))
        old = [m for m in once if m.module == name and options.only in m.text]
        known.append(run_faults(name, old, tests, limit, equivalent))
    alive = [m for tally in (*generated, *known) for m in tally.survivors]
    if options.survivors:
        options.survivors.write_text("".join(f"{m.module}\t{m.text}\t{m.line}\n" for m in alive))
    return report(generated, known, gone)


def known_equivalents() -> set[tuple[str, str]]:
    """Mutants that change nothing anybody could notice; each has its reason in the file."""
    lines = EQUIVALENT.read_text().split("\n")
    return {(f"avrt.{module}", text) for module, text, _ in (line.split("\t") for line in lines if line)}


def check_tests(name: str) -> float:
    """Run a module's tests without a fault; returns the seconds that one run may take."""
    plain = run_tests(MODULES[name], limit=600)
    if plain.code:
        sys.exit(f"{name}: the tests fail without any fault\n{plain.output}")
    print(f"{name}: the tests take {plain.seconds:.1f} s", flush=True)
    return 30 + 5 * plain.seconds


def run_faults(
    name: str, faults: list[Mutant], tests: list[str], limit: float, equivalent: set[tuple[str, str]]
) -> Tally:
    """Run a module's tests once with each fault."""
    killed, same, alive = 0, 0, []
    for fault in faults:
        if (name, fault.text) in equivalent:
            same += 1
            continue
        outcome = run_tests(tests, module=name, tree=fault.tree, limit=limit)
        if outcome.code in NO_VERDICT:
            sys.exit(f"{name}: no tests ran\n{outcome.output}")
        killed += outcome.killed
        if not outcome.killed:
            alive.append(fault)
            print(f"  survives: {module_path(name).relative_to(ROOT)}:{fault.line} {fault.text}", flush=True)
    return Tally(name, killed, same, alive)


def total(name: str, tallies: list[Tally]) -> Tally:
    """Several modules together."""
    return Tally(
        name,
        sum(t.killed for t in tallies),
        sum(t.equivalent for t in tallies),
        [m for t in tallies for m in t.survivors],
    )


def report(generated: list[Tally], known: list[Tally], gone: list[str]) -> int:
    """Print the table."""
    everything, old = total("all", generated), total("unnoticed once", known)
    print("\n| module | mutants | killed | equivalent | survivors |\n| --- | --- | --- | --- | --- |")
    for tally in (*generated, everything, old):
        print(tally.row())
    print(f"\n{everything.share:.1%} of the real faults are noticed")
    for text in gone:
        print(f"rewritten since: {text}")
    return 0 if everything.share >= ENOUGH and not old.survivors else 1


if __name__ == "__main__":
    sys.exit(main())
