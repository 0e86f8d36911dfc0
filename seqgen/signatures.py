"""Nodes of a configuration held against the signatures of what they build, before anything is built."""

import collections.abc
import inspect
import pkgutil
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import is_dataclass
from os import PathLike
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from seqgen.errors import UserError, nearest
from seqgen.limits import check_limits

UNIONS = (Union, types.UnionType)
# How Hydra builds a node, with the values that each may have.
HYDRA_KEYS: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_args_": None,
}


def check_node(node: dict[str, Any], path: str, hint: Any = None, *, given: Collection[str] = ()) -> None:
    """Hold the keys and values of a node, and of all nodes below it, against what they build.

    Args:
        node: Plain containers; one with `_target_` builds a class or calls a function.
        path: The key of the node.
        hint: What the node must build, as the signature it feeds says; None where nothing is known. The keys of a
            TypedDict or a dataclass must all be there.
        given: Arguments that whoever builds the node adds to it.

    Raises:
        UserError: Names the key that does not fit.
    """
    hints: dict[str, Any] = {}
    node_hint: Any = next(filter(_is_node, _parts(hint)), None)
    if is_typeddict(node_hint):
        hints = get_type_hints(node_hint)
        if set(node) - set(hints) or node_hint.__required_keys__ - set(node):
            raise UserError(f"{path}={node} must hold {', '.join(hints)}, and nothing else.")
    elif node_hint is not None:
        _check_dataclass(node, path, node_hint)
    elif "_target_" not in node and hint is not None and not _takes_mapping(hint):
        typed = any(map(_can_be_typed, _parts(hint)))
        named = f"{path}={node}" if typed else f"{path} builds nothing: it has no _target_; it"
        raise UserError(f"{named} must be {_alternatives(hint)}.")
    if "_target_" in node:
        target = _locate(node["_target_"], path)
        hints = _hints(target)
        _check_keys(node, path, target)
        if hint is not None:
            if node.get("_partial_") is not True:
                _check_complete(node, path, target, hint, given)
            _check_product(node, path, target, hint)
        check_limits(node, path, target)
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
        raise UserError(f"{path}={value} must be {_alternatives(hint)}.")


def _check_dataclass(node: dict[str, Any], path: str, hint: Any) -> None:
    name = f"{hint.__module__}.{hint.__qualname__}"
    if "_target_" not in node:
        raise UserError(f"{path} builds nothing: it has no _target_; give it _target_={name}.")
    target = _locate(node["_target_"], path)
    if not isinstance(target, type):  # a function that makes one
        return
    if not issubclass(target, hint):
        raise UserError(f"{path}._target_={node['_target_']} must be {name}.")


def _check_keys(node: dict[str, Any], path: str, target: Callable[..., Any]) -> None:
    """Refuse keys that a target does not take, and wrong values of Hydra's own keys."""
    parameters, open_ended = _parameters(target)
    for key, value in node.items():
        if key == "_args_":
            raise UserError(f"{path}._args_ is not read; give each argument by its name.")
        if key in HYDRA_KEYS:
            check_type(f"{path}.{key}", value, HYDRA_KEYS[key])
        elif key not in parameters and not open_ended:
            names = [f"{path}.{name}" for name in parameters]
            raise UserError(f"{path}.{key} is not a key of {node['_target_']}{nearest(f'{path}.{key}', names)}.")
    if node.get("_recursive_") is False and node["_target_"].startswith("seqgen."):
        raise UserError(f"{path}._recursive_=False must be true: {node['_target_']} takes its parts built.")


def _check_complete(
    node: dict[str, Any], path: str, target: Callable[..., Any], hint: Any, given: Collection[str]
) -> None:
    """Refuse a node without an argument that has no default; a parent's arguments may be given by the class itself."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some functions written in C say nothing
        return
    named = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [name for name in named if name not in node and name not in given]
    if missing and _calls(hint):
        raise UserError(f"{path}._partial_ must be true: the run itself gives {', '.join(missing)}.")
    if missing:
        raise UserError(f"{path}.{missing[0]} is not given, but {node['_target_']} needs it.")


def _check_product(node: dict[str, Any], path: str, target: Callable[..., Any], hint: Any) -> None:
    """Refuse a target that makes something else than what is asked for, as far as annotations say."""
    product, wanted = _product(target), _parts(hint)
    if any(map(_open, wanted)):
        return
    if node.get("_partial_") is True:
        wanted = tuple(get_args(part)[1] if get_args(part) else Any for part in _calls(hint))
        if not wanted:
            raise UserError(f"{path}._partial_=True must be false: the part is built at once.")
    if product is not None and not any(_makes(product, part) for part in wanted):
        raise UserError(f"{path}._target_={node['_target_']} does not make {_alternatives(hint)}.")


def _calls(hint: Any) -> list[Any]:
    """The callables among what a hint allows, which a node makes with `_partial_: true`."""
    return [part for part in _parts(hint) if get_origin(part) is collections.abc.Callable]


def _product(target: Callable[..., Any]) -> Any:
    """What calling a target gives: the class, or what a function's annotation says; None where it says nothing."""
    return target if isinstance(target, type) else _hints(target).get("return")


def _makes(product: Any, wanted: Any) -> bool:
    """Whether a product may be what is wanted; what annotations leave open may."""
    product_class, wanted_class = (get_origin(hint) or hint for hint in (product, wanted))
    if _open(wanted) or _open(product) or product_class in UNIONS:
        return True
    if wanted_class is Literal:
        return any(_makes(product, type(choice)) for choice in get_args(wanted))
    if wanted_class is collections.abc.Callable:
        return not isinstance(product_class, type) or _gives(product_class, wanted)
    if not isinstance(product_class, type) or not isinstance(wanted_class, type):
        return True
    try:
        return issubclass(product_class, wanted_class) or (product_class is int and wanted_class is float)
    except TypeError:  # a protocol that cannot be asked
        return True


def _gives(product: type, wanted: Any) -> bool:
    """Whether instances can be called, and may give what a callable is wanted for."""
    if product is collections.abc.Callable:
        return True
    # torch's modules say what a call gives at `forward`.
    calls = [vars(step)[name] for name in ("forward", "__call__") for step in product.__mro__ if name in vars(step)]
    if not any("__call__" in vars(step) for step in product.__mro__):
        return False
    given = _hints(calls[0]).get("return")
    return given is None or not get_args(wanted) or _makes(given, get_args(wanted)[1])


def _open(hint: Any) -> bool:
    return hint in (Any, object, None) or isinstance(hint, TypeVar | str)


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in UNIONS else (hint,)


def _is_node(hint: Any) -> bool:
    return is_typeddict(hint) or is_dataclass(hint)


def _takes_mapping(hint: Any) -> bool:
    classes = [get_origin(part) or part for part in _parts(hint)]
    return any(_open(c) or (isinstance(c, type) and issubclass(dict, c)) for c in classes)


def _locate(name: Any, path: str) -> Callable[..., Any]:
    if not isinstance(name, str):
        raise UserError(f"{path}._target_={name} must be the full name of a class or function, such as package.Class.")
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={name} cannot be imported: {error}.") from error
    if not callable(found):
        raise UserError(f"{path}._target_={name} is neither a class nor a function, so it builds nothing.")
    return found


def _parameters(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names that a target takes, and whether it takes any other.

    `**settings` of a class of ours, or of one built on it, are its parent's.
    """
    names: list[str] = []
    classes = inspect.getmro(target) if isinstance(target, type) else ()
    ours = any(step.__module__.startswith("seqgen.") for step in classes)
    for step in classes if ours else [target]:
        try:
            parameters = inspect.signature(step).parameters.values()
        except (TypeError, ValueError):  # some functions written in C say nothing
            return names, True
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


def _alternatives(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_described(hint)))


def _described(hint: Any) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from map(str, arguments)
    elif origin in UNIONS:
        # What can be typed is named; a class among it only where there is nothing else.
        typed = [part for part in arguments if _can_be_typed(part)]
        for part in typed if set(typed) - {type(None)} else arguments:
            yield from _described(part)
    elif _is_node(hint):
        yield f"a node of {', '.join(get_type_hints(hint))}"
    elif origin is collections.abc.Callable:
        yield "a node with _target_ and _partial_: true"
    elif arguments:
        count = f"{len(arguments)} " if origin is tuple and Ellipsis not in arguments else ""
        listed = get_origin(arguments[0]) is Literal
        of = ", ".join(_described(arguments[0])) if listed else getattr(arguments[0], "__name__", "values")
        yield f"a list of {count}{of}"
    else:
        names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
        yield names.get(hint, f"a node whose _target_ is a {getattr(hint, '__name__', hint)}")


def _can_be_typed(hint: Any) -> bool:
    plain = hint in (int, float, bool, str, type(None))
    sequence = get_origin(hint) in (list, tuple, collections.abc.Sequence, Literal)
    return plain or _is_node(hint) or (sequence and get_origin(get_args(hint)[0]) is not tuple)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in UNIONS:
        return any(_fits(value, part) for part in arguments)
    if _open(hint):
        return True
    if hint is type(None):
        return value is None
    if _is_node(hint) or origin is collections.abc.Callable:  # asks for a node, which `check_node` looks at
        return False
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint is bool or isinstance(value, bool):
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, int | float)
    if origin is tuple and Ellipsis not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if isinstance(value, str):  # never for its letters
        return kind is str or issubclass(kind, PathLike)
    if isinstance(value, list) and issubclass(kind, collections.abc.Collection) and not issubclass(kind, str):
        parts = [part for part in arguments if part is not Ellipsis]
        return all(_fits(v, parts[0]) for v in value if parts)
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True
