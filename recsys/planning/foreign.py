"""What classes of other packages take, as their source says: importing Lightning to be refused takes seconds."""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recsys.errors import did_you_mean


def foreign_problems(key: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for a class that is not there, and for each argument that it does not take.

    What the source does not show, such as names that are made when it runs, is left to the package itself.

    Args:
        key: Of the settings in the configuration.
        settings: ``_target_`` and arguments.
    """
    target = settings.get("_target_")
    if not isinstance(target, str) or "." not in target:
        return
    module, _, name = target.rpartition(".")
    path = _source(module)
    if path is None:
        if not _is_missing(module):
            return
        yield f"{key}._target_={target}: no module '{module}' is installed; correct the name, or install its package."
        return
    there = _names(path)
    if name not in there:
        if "*" not in there and not _source(target):
            near = did_you_mean(name, there)
            yield f"{key}._target_={target}: '{module}' has no '{name}'.{near} Name one of its classes."
        return
    arguments = _arguments(path, name)
    for argument, value in settings.items():
        if arguments is not None and not argument.startswith("_") and argument not in arguments:
            near = did_you_mean(argument, arguments)
            yield f"{key}.{argument}={value}: {target} takes no such argument.{near} Correct the key, or leave it out."


def _source(module: str) -> Path | None:
    """Return the file of a module, found without importing anything."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    for name in inner:
        below = path.parent / name if path.name == "__init__.py" else None
        if below is None:
            return None
        path = below / "__init__.py" if below.is_dir() else below.with_suffix(".py")
        if not path.is_file():
            return None
    return path


def _is_missing(module: str) -> bool:
    """Tell whether a module is surely not there: compiled ones, folders without source and classes may be."""
    top, _, inner = module.partition(".")
    if not inner:
        return importlib.util.find_spec(top) is None
    parent, _, name = module.rpartition(".")
    path = _source(parent)
    if path is None:
        return _is_missing(parent)
    there = _names(path)
    beside = path.name == "__init__.py" and any(file.name.split(".")[0] == name for file in path.parent.iterdir())
    return not (beside or name in there or "*" in there)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _names(path: Path) -> dict[str, ast.stmt]:
    """Return the names at the top of a module with what defines them; ``*`` stands for names that nobody can see."""
    names: dict[str, ast.stmt] = {}
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            origin = _source(node.module) if node.module and not node.level else None
            names |= {"*": node} if origin is None else _names(origin)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {(alias.asname or alias.name).partition(".")[0]: node for alias in node.names}
    for node in _parsed(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names["*" if node.name == "__getattr__" else node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return names


def _arguments(path: Path, name: str) -> list[str] | None:
    """Return the names of the arguments that a class or function takes; None where the source does not say."""
    node = _names(path).get(name)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        origin = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        source = _source(node.module)
        return _arguments(source, origin) if source else None
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        node = made[0] if made else None
    if not isinstance(node, ast.FunctionDef) or node.args.kwarg is not None:
        return None
    return [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs) if argument.arg != "self"]
