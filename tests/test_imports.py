"""The import graph of the package: no circle, few layers, and what must not know each other does not."""

import ast
from collections.abc import Iterator
from functools import cache

from conftest import ROOT

LAYERS = 8


def imported(nodes: list[ast.stmt]) -> Iterator[str]:
    """Names that a module imports when it is imported, and not within a function or for types alone."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imported([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from imported([*node.body, *(line for handler in node.handlers for line in handler.body)])


def graph() -> dict[str, set[str]]:
    files = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in (ROOT / "seqgen").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    edges: dict[str, set[str]] = {}
    for module, file in modules.items():
        names = imported(ast.parse(file.read_text()).body)
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        edges[module] = (found & modules.keys()) - {module}
    return edges


GRAPH = graph()


def test_there_are_no_circles_and_few_layers() -> None:
    @cache
    def layer(module: str, path: tuple[str, ...] = ()) -> int:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        return 1 + max((layer(other, (*path, module)) for other in GRAPH[module]), default=0)

    assert max(map(layer, GRAPH)) <= LAYERS


def test_models_and_mechanisms_do_not_import_each_other() -> None:
    shared = {"seqgen.model", "seqgen.model.base", "seqgen.model.encoded"}
    shared |= {"seqgen.attention", "seqgen.attention.generation"}
    for module, others in GRAPH.items():
        for room in ("seqgen.model.", "seqgen.attention."):
            if module.startswith(room):
                assert not {other for other in others if other.startswith(room)} - shared, module


def test_attention_knows_no_data_and_nobody_imports_run() -> None:
    for module, others in GRAPH.items():
        if module.startswith(("seqgen.attention", "seqgen.layers", "seqgen.numerics")):
            assert not any(other.startswith("seqgen.data") for other in others), module
        assert "seqgen.run" not in others, module
