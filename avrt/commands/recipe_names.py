"""The recipes by name, found without importing any, since `avrt shards --help` must not wait for their imports."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from difflib import get_close_matches
from pathlib import Path

from avrt import data_recipes
from avrt.data_recipes.recipe import Recipe
from avrt.errors import AvrtError


def recipe_summaries() -> dict[str, str]:
    """Name of each recipe -> the first line of its module: every module of `avrt.data_recipes` that has a `recipe`."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(data_recipes.__path__):
        spec = importlib.util.find_spec(f"{data_recipes.__name__}.{info.name}")
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        names = {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if _is_name(t)}
        if "recipe" in names:
            found[info.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _is_name(target: ast.expr) -> bool:
    return isinstance(target, ast.Name)


def recipes() -> dict[str, type[Recipe]]:
    """The recipes by name, all imported."""
    return {name: find_recipe(name) for name in recipe_summaries()}


def find_recipe(name: str, others: tuple[str, ...] = ()) -> type[Recipe]:
    """A recipe by its name, or by the import path of a class such as `mymodule.MyRecipe`.

    Args:
        name: The name.
        others: Further words that may stand there, for the message.

    Raises:
        AvrtError: If there is no such recipe.
    """
    known = recipe_summaries()
    if name in known:
        kind: type[Recipe] = importlib.import_module(f"{data_recipes.__name__}.{name}").recipe
        return kind
    module, _, attribute = name.rpartition(".")
    try:
        own = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        own = None
    if isinstance(own, type) and issubclass(own, Recipe):
        return own
    near = get_close_matches(name, [*known, *others], 1)
    meant = f"did you mean {near[0]}? " if near else ""
    remedy = f"{meant}use one of {', '.join([*known, *others])}, or the import path of your own"
    raise AvrtError("no such recipe", where=name, remedy=remedy)
