"""Runs tests on mutants: everything heavy is imported once, then each mutant has a forked process of its own."""

from __future__ import annotations

import ast
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

from tests.mutation.modules import SLOW

ROOT = Path(__file__).parents[2]
OURS = ("avrt", "tests", "benchmarks")
MEMORY = 8 << 30
NO_VERDICT = (4, 5)  # pytest: wrong arguments; no tests


@dataclass(frozen=True)
class Outcome:
    """What the tests said.

    Attributes:
        code: How pytest ended; negative: the signal that ended it, the limits on time and memory included.
        seconds: How long it took.
        output: The end of what it wrote.
    """

    code: int
    seconds: float
    output: str

    @property
    def killed(self) -> bool:
        """Whether the tests noticed."""
        return self.code != 0


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(MetaPathFinder):
    def __init__(self, name: str, tree: ast.Module) -> None:
        self._name, self._tree = name, tree

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        file = str(module_path(name))
        return spec_from_file_location(name, file, loader=_Loader(name, file, compile(self._tree, file, "exec")))


def module_path(module: str) -> Path:
    """The file of a module."""
    return ROOT / (module.replace(".", "/") + ".py")


def preload(tests: list[str]) -> None:
    """Import what the tests import except our own modules, and write the clips that they share."""
    with tempfile.NamedTemporaryFile("w+") as found:
        run_tests(["--collect-only", *tests], names=Path(found.name), limit=600)
        names = found.read().split()
    for name in names:
        # Some modules cannot be imported by their name; then they are imported again by each mutant.
        try:
            importlib.import_module(name)
        except BaseException:
            continue
    if any(name.split(".")[0] in OURS[:1] for name in sys.modules):
        raise RuntimeError("our own modules were imported too early: the mutants would not be seen")


def share_world() -> None:
    """Write the clips of the `world` fixture once for all mutants."""
    folder = tempfile.mkdtemp(prefix="avrt-mutation-")
    os.environ["AVRT_TEST_WORLD"] = folder
    run_tests(["tests/mutation/share_world.py"], limit=600)


def run_tests(
    tests: list[str],
    *,
    module: str = "",
    tree: ast.Module | None = None,
    limit: float,
    names: Path | None = None,
) -> Outcome:
    """Run tests in a forked process, with a mutant in the place of a module.

    Args:
        tests: Arguments for pytest.
        module: Import name of the module to replace.
        tree: What to replace it by.
        limit: Seconds, after which the process is ended.
        names: Where to write which modules were imported.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            code = 3
            try:
                os.setsid()
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                if tree is not None:
                    sys.meta_path.insert(0, _Finder(module, tree))
                import pytest

                common = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=line", "-k", SLOW]
                code = int(pytest.main([*common, *tests]))
                if names is not None:
                    imported = [name for name in list(sys.modules) if name.split(".")[0] not in OURS]
                    names.write_text("\n".join(n for n in imported if n.isascii() and "__main" not in n))
                sys.stdout.flush()
            finally:
                os._exit(code)
        code = _wait(child, begin + limit)
        output.seek(0)
        return Outcome(code, time.monotonic() - begin, output.read()[-3000:])


def _wait(child: int, until: float) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.02)
