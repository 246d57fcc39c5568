"""Constructor arguments read from source text: names, defaults and documented meaning, with nothing imported.

Importing PyTorch and Lightning takes seconds, which a help page, a tab or a misspelt option should not cost. What the
real parser makes of the same signatures is compared in `tests/test_signatures.py`.
"""

from __future__ import annotations

import ast
import importlib.util
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import avrt

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}  # fmt: skip
_SCALARS = frozenset(("bool", "int", "float", "str", "Path", "None", "Literal", "Location"))


@dataclass(frozen=True)
class Expression:
    """A default that cannot be known without running code, as it is written."""

    text: str


@dataclass(frozen=True)
class Parameter:
    """One constructor argument.

    Attributes:
        name: Its name.
        text: What its docstring says, in one line.
        default: Its default; of a nested class the arguments that its instance is made with; an `Expression` for what
            has to be run, and for none at all.
        nested: The dataclass that it is, whose fields can be set one by one.
        scalar: Whether it is a plain value, that has no fields below it.
        choices: The values that its type allows, if it names them.
        optional: Whether it may be None.
    """

    name: str
    text: str
    default: Any
    nested: Signature | None = None
    scalar: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """The constructor of a class.

    Attributes:
        name: The class's name.
        text: First sentence of its docstring.
        parameters: Its arguments by name.
        complete: Whether these are all of them; else it passes others on to what it calls.
    """

    name: str
    text: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    complete: bool = True


class Module:
    """The source of a module.

    Args:
        name: Its dotted name.
        path: Its file.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path

    @cached_property
    def _definitions(self) -> dict[str, ast.stmt]:
        found: dict[str, ast.stmt] = {}
        for statement in ast.parse(self._path.read_bytes()).body:
            for name in _names(statement):
                found.setdefault(name, statement)
        return found

    def find(self, name: str) -> tuple[Module, ast.stmt] | None:
        """Where a name is defined: a class, a function or an assignment, in this module or one that it imports from."""
        statement = self._definitions.get(name)
        if not isinstance(statement, ast.ImportFrom):
            return None if statement is None else (self, statement)
        source = statement.module or ""
        if statement.level:
            parts = self.name.split(".")
            is_package = self._path.name == "__init__.py"
            base = parts[: len(parts) - statement.level + is_package]
            source = ".".join([*base, *([source] if source else [])])
        original = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
        other = module(source)
        return None if other is None else other.find(original)

    @property
    def classes(self) -> list[str]:
        """The names of its own classes."""
        return [name for name, node in self._definitions.items() if isinstance(node, ast.ClassDef)]

    @property
    def functions(self) -> list[str]:
        """The names of its own functions."""
        return [name for name, node in self._definitions.items() if isinstance(node, ast.FunctionDef)]

    def text_of(self, name: str) -> str:
        """First sentence of the docstring of a function or class of its own; empty if there is none."""
        node = self._definitions.get(name)
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            return ""
        return _documentation(ast.get_docstring(node) or "")[0]

    def defines(self, name: str) -> bool:
        """Whether the module has such a name, or may have it by importing everything from another."""
        return name in self._definitions or "*" in self._definitions or "__getattr__" in self._definitions


@cache
def module(name: str) -> Module | None:
    """A module by its name, found without importing it; None if there is no such source file."""
    top, *rest = name.split(".")
    if top == "avrt":
        folder = Path(avrt.__file__).parent
    else:
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return None
        if not rest:
            return Module(name, Path(spec.origin))
        folder = Path(spec.origin).parent
    path = folder.joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return Module(name, candidate)
    return None


@cache
def signature(path: str) -> Signature | None:
    """The constructor of the class at an import path, such as `avrt.training.sft_module.SFTModule`; None if unknown."""
    home, _, name = path.rpartition(".")
    source = module(home) if home else None
    return None if source is None else _signature_in(source, name)


def _signature_in(source: Module, name: str) -> Signature | None:
    found = source.find(name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    return _class_signature(found[0], found[1])


@cache
def _class_signature(source: Module, node: ast.ClassDef) -> Signature:
    text, documented = _documentation(ast.get_docstring(node) or "")
    inherited = _base(source, node)
    known_bases = not node.bases or (inherited is not None and inherited.complete)
    if _is_dataclass(node):
        return Signature(node.name, text, _fields(source, node, documented, inherited), known_bases)
    constructor = method(node, "__init__")
    if constructor is None:
        return Signature(node.name, text, inherited.parameters if inherited else {}, known_bases)
    texts = _documentation(ast.get_docstring(constructor) or "")[1] | documented
    own = [replace(p, text=texts.get(p.name, "")) for p in method_parameters(source, constructor)]
    passes_on = constructor.args.kwarg is not None or constructor.args.vararg is not None
    return Signature(node.name, text, {p.name: p for p in own}, complete=not passes_on)


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A method of a class by its name."""
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def method_parameters(source: Module, node: ast.FunctionDef) -> list[Parameter]:
    """The arguments of a method without its first, `self`."""
    texts = _documentation(ast.get_docstring(node) or "")[1]
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = [*list(zip(positional, defaults, strict=True))[1:], *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [_parameter(source, arg.arg, arg.annotation, value, texts) for arg, value in pairs]


def _fields(
    source: Module, node: ast.ClassDef, documented: dict[str, str], inherited: Signature | None
) -> dict[str, Parameter]:
    """The fields of a dataclass, those of its bases first."""
    parameters = dict(inherited.parameters) if inherited else {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if "ClassVar" in ast.unparse(item.annotation):
                continue
            name = item.target.id
            parameters[name] = _parameter(source, name, item.annotation, item.value, documented)
    return parameters


def _base(source: Module, node: ast.ClassDef) -> Signature | None:
    """The constructor that a class has from its first base."""
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := _signature_in(source, base.id)):
            return found
    return None


def _parameter(
    source: Module, name: str, annotation: ast.expr | None, value: ast.expr | None, texts: dict[str, str]
) -> Parameter:
    nested = None
    names = [] if annotation is None else _type_names(annotation)
    found = [place for name in names if (place := source.find(name)) is not None]
    classes = [(home, node) for home, node in found if isinstance(node, ast.ClassDef) and _is_dataclass(node)]
    if len(classes) == 1 and set(names) <= {classes[0][1].name, "None"}:
        nested = _class_signature(*classes[0])
    scalar = bool(names) and set(names) <= _SCALARS
    default = Expression("") if value is None else _evaluate(source, value)
    choices = () if annotation is None else _choices(source, annotation)
    return Parameter(name, texts.get(name, ""), default, nested, scalar, choices, optional="None" in names)


def _choices(source: Module, annotation: ast.expr) -> tuple[str, ...]:
    """The values of a Literal type, which may go by a name of its own or stand beside others."""
    if isinstance(annotation, ast.BinOp):
        return (*_choices(source, annotation.left), *_choices(source, annotation.right))
    if isinstance(annotation, ast.Name) and (found := source.find(annotation.id)):
        value = found[1].value if isinstance(found[1], ast.Assign) else None
        return _choices(found[0], value) if isinstance(value, ast.Subscript) else ()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        values = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return tuple(str(value.value) for value in values if isinstance(value, ast.Constant))
    return ()


def _type_names(annotation: ast.expr) -> list[str]:
    """The names of a type's alternatives; of a generic one its outermost name."""
    if isinstance(annotation, ast.BinOp):
        return [*_type_names(annotation.left), *_type_names(annotation.right)]
    if isinstance(annotation, ast.Subscript):
        outer = _type_names(annotation.value)
        if outer == ["Optional"]:
            return [*_type_names(annotation.slice), "None"]
        if outer == ["Union"] and isinstance(annotation.slice, ast.Tuple):
            return [name for part in annotation.slice.elts for name in _type_names(part)]
        return outer
    if isinstance(annotation, ast.Constant):
        if isinstance(annotation.value, str):
            return _type_names(ast.parse(annotation.value, mode="eval").body)
        return [str(annotation.value)]
    return [annotation.attr if isinstance(annotation, ast.Attribute) else ast.unparse(annotation)]


def _evaluate(source: Module, node: ast.expr) -> Any:
    """A default's value; of a dataclass the arguments of the call that makes it."""
    if isinstance(node, ast.Name) and (found := source.find(node.id)) is not None:
        home, statement = found
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            return _evaluate(home, statement.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _evaluate(source, node.left), _evaluate(source, node.right)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Call):
        made = _call(source, node)
        if made is not None:
            return made
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return Expression(ast.unparse(node))


def _call(source: Module, node: ast.Call) -> Any:
    name = ast.unparse(node.func)
    if name == "field":
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "default" in given:
            return _evaluate(source, given["default"])
        factory = given.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return _evaluate(source, factory.body)
        empty: dict[str, Any] = {"list": [], "dict": {}, "tuple": (), "set": set()}
        if isinstance(factory, ast.Name):
            return empty.get(factory.id, {})
        return None
    found = source.find(name)
    if found is None or not isinstance(found[1], ast.ClassDef) or not _is_dataclass(found[1]):
        return None
    in_order = zip(_class_signature(found[0], found[1]).parameters, node.args, strict=False)
    given = {**dict(in_order), **{keyword.arg: keyword.value for keyword in node.keywords}}
    return {name: _evaluate(source, value) for name, value in given.items()}


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _documentation(docstring: str) -> tuple[str, dict[str, str]]:
    """First sentence of a docstring, and what it says of each argument, each in one line."""
    from docstring_parser import google

    parsed = google.parse(docstring)
    return " ".join((parsed.short_description or "").split()), {
        parameter.arg_name: " ".join((parameter.description or "").replace("``", "`").split())
        for parameter in parsed.params
    }
