"""What a mutant is, and which mutants a module has: every small fault at every place of its syntax tree."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

Path = tuple[tuple[str, int | None], ...]

BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
TWINS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin", "argmax": "argmin",
    "minimum": "maximum", "ceil": "floor", "floor": "ceil",
}  # fmt: skip
# Calls that may be left out without an error; the receiver, or the first argument of a function, stays.
OPTIONAL = {
    "strip", "lstrip", "rstrip", "lower", "casefold", "upper", "float", "double", "long", "bool", "detach", "clamp",
    "exp", "abs", "square", "mean", "cumsum", "clone", "sorted", "set", "int", "round", "max", "min", "masked_fill",
    "to", "transpose", "reversed",
}  # fmt: skip
# Their first two arguments may change places.
SYMMETRIC = {"min", "max", "minimum", "maximum", "transpose", "isclose", "gcd"}
# Where a change alters no behaviour that a test should know: types, messages and decorators.
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "bases"}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        module: Import name of the module.
        line: Where it is.
        text: `function: before -> after`, which names it also when lines move.
        tree: The whole module with the fault in it.
    """

    module: str
    line: int
    text: str
    tree: ast.Module


def mutants(module: str, source: str) -> list[Mutant]:
    """All mutants of a module, each text once, in the order of the source."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for path, function, node in _places(tree, (), "module"):
        for changed in _changes(node):
            before, after = _shown(node), _shown(changed)
            text = f"{function}: {before} -> {after}"
            if before == after or text in found:
                continue
            found[text] = Mutant(module, node.lineno, text, _replaced(tree, path, changed))
    return list(found.values())


def chosen(candidates: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of the mutants, the same for the same seed and source; at most two at one line while others have none."""
    if not candidates:
        return []
    order = random.Random(f"{seed} {candidates[0].module}").sample(candidates, len(candidates))
    at_line: dict[int, int] = {}
    first, rest = [], []
    for mutant in order:
        at_line[mutant.line] = at_line.get(mutant.line, 0) + 1
        (first if at_line[mutant.line] <= 2 else rest).append(mutant)
    return sorted((first + rest)[:count], key=lambda mutant: mutant.line)


def _places(node: ast.AST, path: Path, function: str) -> Iterator[tuple[Path, str, ast.expr | ast.stmt]]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        function = node.name if function == "module" else f"{function}.{node.name}"
    if isinstance(node, (ast.expr, ast.stmt)) and not _is_docstring(node):
        yield path, function, node
    if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)) or _is_alias(node):
        return
    for name, value in ast.iter_fields(node):
        if name in SKIPPED_FIELDS:
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.AST):
                yield from _places(child, (*path, (name, index)), function)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_alias(node: ast.AST) -> bool:
    """`Name = Literal[...]` and the like mean nothing while the program runs."""
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _TYPES


_TYPES = {"Literal", "Callable", "Sequence", "Mapping", "Iterator", "Iterable", "Generator", "list", "dict", "tuple",
          "set", "frozenset", "type"}  # fmt: skip


def _changes(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    yield from _expressions(node) if isinstance(node, ast.expr) else _statements(node)


def _expressions(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            yield from _compared(node)
        case ast.BinOp() if not _is_text(node.left) and not _is_text(node.right):
            if type(node.op) in ARITHMETIC:
                yield _with(node, op=ARITHMETIC[type(node.op)]())
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for i in range(len(node.values)):
                kept = node.values[:i] + node.values[i + 1 :]
                yield kept[0] if len(kept) == 1 else _with(node, values=kept)
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant():
            yield from _constants(node)
        case ast.Call():
            yield from _called(node)
        case ast.Subscript(slice=ast.Slice()):
            yield from _sliced(node)
        case ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.AugAssign():
            yield ast.Pass()
            if type(node.op) in ARITHMETIC:
                yield _with(node, op=ARITHMETIC[type(node.op)]())
        case ast.If(test=test) | ast.While(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.With():
            yield ast.If(ast.Constant(True), node.body, [])
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _compared(node: ast.Compare) -> Iterator[ast.AST]:
    for i, operator in enumerate(node.ops):
        for table in (BOUNDARY, OPPOSITE):
            if type(operator) in table:
                yield _with(node, ops=[*node.ops[:i], table[type(operator)](), *node.ops[i + 1 :]])


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
        if node.value > 0:
            yield ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        yield ast.Constant(node.value * 2 if node.value else 1.0)


def _called(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name.endswith("Error") or name in _TYPES:
        return
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
    plain = not any(isinstance(a, ast.Starred) for a in node.args)
    if len(node.args) > 1 and plain and name not in SYMMETRIC:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
        if isinstance(node.args[-1], (ast.Attribute, ast.BinOp)) and "re." in _shown(node.args[-1]):
            yield _with(node, args=node.args[:-1])
    if name in TWINS:
        func = copy.deepcopy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", TWINS[name])
        yield _with(node, func=func)
    if name in OPTIONAL:
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
        elif node.args and plain:
            yield node.args[0]


def _sliced(node: ast.Subscript) -> Iterator[ast.AST]:
    part = node.slice
    assert isinstance(part, ast.Slice)
    for side in ("lower", "upper"):
        bound = getattr(part, side)
        if bound is not None:
            yield _with(node, slice=_with(part, **{side: None}))
            yield _with(node, slice=_with(part, **{side: ast.BinOp(bound, ast.Add(), ast.Constant(1))}))
    if part.step is not None:
        yield _with(node, slice=_with(part, step=None))


def _with(node: ast.AST, **changed: object) -> ast.AST:
    """A shallow copy of a node with other fields."""
    fields = {name: getattr(node, name, None) for name in node._fields}
    return type(node)(**{**fields, **changed})


def _shown(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))
    return text.splitlines()[0] if isinstance(node, (ast.If, ast.While, ast.With)) else " ".join(text.split())


def _replaced(tree: ast.Module, path: Path, changed: ast.AST) -> ast.Module:
    result = copy.deepcopy(tree)
    node: ast.AST = result
    for name, index in path[:-1]:
        child = getattr(node, name)
        node = child if index is None else child[index]
    name, index = path[-1]
    old = getattr(node, name) if index is None else getattr(node, name)[index]
    new = ast.copy_location(copy.deepcopy(changed), old)
    if index is None:
        setattr(node, name, new)
    else:
        getattr(node, name)[index] = new
    return ast.fix_missing_locations(result)
