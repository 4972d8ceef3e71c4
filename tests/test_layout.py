"""Rules of the code base that no linter knows: who may import whom, and which idioms are gone."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("boards", "golden", "insitu", "rtl", "sim")
PROJECT = {*PACKAGES, "tests", "examples"}

MAY_IMPORT = {
    "golden": {"golden"},
    "rtl": {"rtl"},
    "sim": {"sim", "rtl", "golden"},
    "boards": {"boards", "rtl", "insitu.errors"},
    "insitu": {"insitu", "golden", "rtl", "sim", "boards"},
}
"""The parts of the project that each package may import."""

GONE_MODULES = {"amaranth.hdl.ast", "amaranth.hdl.rec", "amaranth.hdl.mem", "amaranth.hdl.dsl"}
GONE_NAMES = {"Record", "Memory", "ReadPort", "WritePort"}
"""Names of ``amaranth`` and ``amaranth.hdl`` that have successors in ``amaranth.lib``."""
GONE_METHODS = {"add_sync_process", "add_process"}
RESET_TAKERS = {"Signal"}


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Every imported module with the names taken from it; relative ones are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, [alias.name for alias in node.names]


def layering_faults(tree: ast.AST, package: str) -> Iterator[str]:
    """What ``package`` imports and must not."""
    allowed = MAY_IMPORT[package]
    for module, _ in _imports(tree):
        top = module.split(".")[0]
        if top in PROJECT and not {top, module} & allowed:
            yield f"imports {module}"
        foreign = top not in PROJECT and top not in sys.stdlib_module_names
        if package == "golden" and foreign and top != "numpy":
            yield f"imports {module}: golden models need NumPy only"


def torch_faults(tree: ast.AST) -> Iterator[str]:
    """Imports of PyTorch, which only the extra `train` installs."""
    yield from (
        f"imports {module}" for module, _ in _imports(tree) if module.split(".")[0] == "torch"
    )


def idiom_faults(tree: ast.AST) -> Iterator[str]:
    """Amaranth idioms with a successor; several do not even warn."""
    for module, names in _imports(tree):
        if module in GONE_MODULES:
            yield f"imports {module}"
        if module in ("amaranth", "amaranth.hdl"):
            yield from (f"imports {module}.{name}" for name in sorted(GONE_NAMES & {*names}))
            if "*" in names:
                yield f"imports everything from {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in GONE_METHODS:
                yield f"line {node.lineno}: {name}()"
            if name in RESET_TAKERS and any(key.arg == "reset" for key in node.keywords):
                yield f"line {node.lineno}: {name}(reset=): it is init= now"


def generator_faults(tree: ast.AST) -> Iterator[str]:
    """Testbenches as generators: ``yield`` of a signal or a command to the simulator."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Call):
            name = getattr(node.value.func, "attr", getattr(node.value.func, "id", ""))
            if name in {"Tick", "Delay", "Settle", "eq", "Active", "Passive"}:
                yield f"line {node.lineno}: yield {name}()"


def annotation_faults(tree: ast.AST) -> Iterator[str]:
    """Postponed annotations, which hide the members of components and structures."""
    if any(module == "__future__" and "annotations" in names for module, names in _imports(tree)):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases}
                annotated = any(isinstance(part, ast.AnnAssign) for part in node.body)
                if annotated and bases & {"Component", "Struct", "Union"}:
                    yield f"line {node.lineno}: members of {node.name} with postponed annotations"


def assert_faults(tree: ast.AST) -> Iterator[str]:
    """Asserts, which ``python -O`` drops: arguments are checked with ``raise``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: assert"


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _report(faults: dict[Path, list[str]]) -> str:
    return "\n".join(
        f"{path.relative_to(ROOT)}: {fault}" for path, found in faults.items() for fault in found
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_layering(package: str) -> None:
    faults = {path: list(layering_faults(_parse(path), package)) for path in _sources(package)}
    assert not _report(faults)


def test_document_says_who_may_import_whom() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = {
        package: {package, *re.findall(r"`([\w.]+)`", allowed)}
        for package, allowed in re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", text, re.MULTILINE)
    }
    assert {package: table[package] for package in PACKAGES} == MAY_IMPORT


@pytest.mark.parametrize("package", PACKAGES)
def test_only_training_needs_pytorch(package: str) -> None:
    training = ROOT / "insitu" / "train"
    sources = [path for path in _sources(package) if training not in path.parents]
    assert not _report({path: list(torch_faults(_parse(path))) for path in sources})


@pytest.mark.parametrize("folder", sorted(PROJECT))
def test_idioms(folder: str) -> None:
    faults = {}
    for path in _sources(folder):
        tree = _parse(path)
        faults[path] = [*idiom_faults(tree), *generator_faults(tree), *annotation_faults(tree)]
    assert not _report(faults)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_assert_in_the_product(package: str) -> None:
    faults = {path: list(assert_faults(_parse(path))) for path in _sources(package)}
    assert not _report(faults)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("golden", "import rtl.config"),
        ("golden", "from scipy import signal"),
        ("rtl", "from golden.decode import decode"),
        ("sim", "import insitu"),
        ("insitu", "from tests import x"),
    ],
)
def test_layering_is_seen(package: str, source: str) -> None:
    assert list(layering_faults(ast.parse(source), package))


@pytest.mark.parametrize(
    "source",
    [
        "from amaranth import *",
        "from amaranth.hdl import Record",
        "from amaranth import Memory",
        "import amaranth.hdl.rec",
        "from amaranth.hdl.ast import Signal",
        "Signal(8, reset=1)",
        "simulator.add_sync_process(bench)",
    ],
)
def test_old_idiom_is_seen(source: str) -> None:
    assert list(idiom_faults(ast.parse(source)))


def test_modern_idiom_is_left_alone() -> None:
    source = "from amaranth.lib.memory import Memory\nSignal(8, init=1)\nFIFO(reset=1)"
    assert not list(idiom_faults(ast.parse(source)))


def test_other_faults_are_seen() -> None:
    assert list(generator_faults(ast.parse("def f():\n  yield Tick()")))
    assert list(torch_faults(ast.parse("def f():\n  from torch.nn import functional")))
    assert list(assert_faults(ast.parse("def f(x):\n  assert x > 0")))
    postponed = "from __future__ import annotations\nclass A(wiring.Component):\n  i: In(1)"
    assert list(annotation_faults(ast.parse(postponed)))
    assert not list(annotation_faults(ast.parse(postponed.partition("\n")[2])))
