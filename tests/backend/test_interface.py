"""Both frameworks' files offer the same names with the same signatures."""

import ast
from pathlib import Path

import pytest

import mg

pytestmark = pytest.mark.once

ROOM = Path(mg.__file__).parent / "backend"


def parse(framework):
    return ast.parse((ROOM / f"{framework}.py").read_text(encoding="utf-8"))


def exported(tree):
    assignment = next(
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return ast.literal_eval(assignment.value)


def defined(tree):
    """Every name at the top level of a file, with the node that defines it."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target): node for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            names[ast.unparse(node.target)] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    return names


def signature(function):
    """Names, kinds and defaults of the arguments; annotations are the framework's own."""
    arguments = function.args
    return {
        "positional": [argument.arg for argument in arguments.posonlyargs + arguments.args],
        "defaults": [ast.unparse(default) for default in arguments.defaults],
        "keywords": [argument.arg for argument in arguments.kwonlyargs],
        "keyword defaults": [d and ast.unparse(d) for d in arguments.kw_defaults],
        "rest": [arguments.vararg and arguments.vararg.arg, arguments.kwarg and "kwargs"],
    }


REFUSED = {"to_float"}  # of the framework's modules; PyTorch's counterpart begins with "_"


def public_methods(node):
    return {
        method.name: signature(method)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
        and (method.name == "__init__" or not method.name.startswith("_"))
        and method.name not in REFUSED
    }


def test_both_export_the_same_names_in_order():
    names = exported(parse("torch"))
    assert names == exported(parse("mindspore"))
    assert names == sorted(set(names))
    assert len(names) > 30


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_every_exported_name_is_defined(framework):
    tree = parse(framework)
    assert set(exported(tree)) <= set(defined(tree))


def test_functions_and_classes_have_identical_signatures():
    on_torch, on_mindspore = defined(parse("torch")), defined(parse("mindspore"))
    compared = 0
    for name in exported(parse("torch")):
        here, there = on_torch[name], on_mindspore[name]
        if isinstance(here, ast.FunctionDef):
            assert isinstance(there, ast.FunctionDef), name
            assert signature(here) == signature(there), name
            compared += 1
        elif isinstance(here, ast.ClassDef):
            assert isinstance(there, ast.ClassDef), name
            assert public_methods(here) == public_methods(there), name
            compared += 1
    assert compared > 20


def test_every_function_is_documented_in_the_torch_file():
    for name, node in defined(parse("torch")).items():
        if name in exported(parse("torch")) and isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert ast.get_docstring(node), name
