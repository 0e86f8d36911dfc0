"""Nodes of a configuration held against the signatures of what they build, before anything is built."""

import inspect
import pkgutil
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from seqgen.errors import UserError, nearest

UNIONS = (Union, types.UnionType)


def check_node(node: dict[str, Any], path: str, hint: Any = None) -> None:
    """Hold the keys and values of a node, and of all nodes below it, against what they build.

    Args:
        node: Plain containers; one with `_target_` builds a class or calls a function.
        path: The key of the node.
        hint: What the parent's signature asks for; the keys of a TypedDict or a dataclass must all be there.

    Raises:
        UserError: Names the key that does not fit.
    """
    hints: dict[str, Any] = {}
    hint = next(filter(_is_node, get_args(hint) if get_origin(hint) in UNIONS else (hint,)), None)
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        if set(node) - set(hints) or hint.__required_keys__ - set(node):
            raise UserError(f"{path}={node} must hold {', '.join(hints)}, and nothing else.")
    elif hint is not None:
        _check_dataclass(node, path, hint)
    if "_target_" in node:
        target = _locate(node["_target_"], path)
        parameters, open_ended = _parameters(target)
        hints = _hints(target)
        for key in node:
            if not key.startswith("_") and key not in parameters and not open_ended:
                names = [f"{path}.{name}" for name in parameters]
                raise UserError(f"{path}.{key} is not a key of {node['_target_']}{nearest(f'{path}.{key}', names)}.")
    for key, value in node.items():
        if isinstance(value, dict):
            check_node(value, f"{path}.{key}", hints.get(key))
        elif key in hints:
            check_type(f"{path}.{key}", value, hints[key])


def check_type(path: str, value: Any, hint: Any) -> None:
    """Hold a value that is no node against a type.

    Raises:
        UserError: Names the key, and what it must be.
    """
    if not _fits(value, hint):
        raise UserError(f"{path}={value} must be {' or '.join(dict.fromkeys(_described(hint)))}.")


def _check_dataclass(node: dict[str, Any], path: str, hint: Any) -> None:
    name = f"{hint.__module__}.{hint.__qualname__}"
    if "_target_" not in node:
        raise UserError(f"{path} builds nothing: it has no _target_; give it _target_={name}.")
    target = _locate(node["_target_"], path)
    if not isinstance(target, type):  # a function that makes one
        return
    if not issubclass(target, hint):
        raise UserError(f"{path}._target_={node['_target_']} must be {name}.")
    for field in fields(hint):
        needed = field.init and field.default is MISSING and field.default_factory is MISSING
        if needed and field.name not in node:
            raise UserError(f"{path}.{field.name} is not given, but {node['_target_']} needs it.")


def _is_node(hint: Any) -> bool:
    return is_typeddict(hint) or is_dataclass(hint)


def _locate(name: str, path: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={name} cannot be imported: {error}.") from error
    return found


def _parameters(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names that a target takes, and whether it takes any other.

    `**settings` of a class of ours, or of one built on it, are its parent's.
    """
    names: list[str] = []
    classes = inspect.getmro(target) if isinstance(target, type) else ()
    ours = any(step.__module__.startswith("seqgen.") for step in classes)
    for step in classes if ours else [target]:
        parameters = inspect.signature(step).parameters.values()
        names += [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, False
    return names, True


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    classes = reversed(inspect.getmro(target)) if inspect.isclass(target) else ()
    steps = [vars(step)["__init__"] for step in classes if "__init__" in vars(step)] or [target]
    try:
        return {name: hint for step in steps for name, hint in get_type_hints(step).items()}
    except Exception:  # annotations of other people's code that cannot be read are not checked
        return {}


def _described(hint: Any) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from map(str, arguments)
    elif origin in UNIONS:
        for part in filter(_checkable, arguments):
            yield from _described(part)
    elif _is_node(hint):
        yield f"a node of {', '.join(get_type_hints(hint))}"
    elif arguments:
        count = f"{len(arguments)} " if origin is tuple and Ellipsis not in arguments else ""
        listed = get_origin(arguments[0]) is Literal
        of = ", ".join(_described(arguments[0])) if listed else getattr(arguments[0], "__name__", "values")
        yield f"a list of {count}{of}"
    else:
        yield {int: "an integer", float: "a number", bool: "true or false", str: "a text"}.get(hint, "null")


def _checkable(hint: Any) -> bool:
    """Whether a plain value can be held against a hint; a class, such as Tensor, says nothing about a number."""
    plain = hint in (int, float, bool, str, type(None))
    return plain or _is_node(hint) or get_origin(hint) is not None


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return any(_fits(value, part) for part in filter(_checkable, arguments))
    if _is_node(hint):  # asks for a node, which `check_node` looks at
        return False
    if hint is type(None):
        return value is None
    if origin is Literal:
        return value in arguments
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin is tuple and Ellipsis not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin in (list, tuple, Sequence) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        parts = [part for part in arguments if part is not Ellipsis]
        return isinstance(value, list) and all(_fits(v, parts[0]) for v in value if parts)
    return True
