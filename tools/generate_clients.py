"""Generates the sync methods and the methods of pipelines from the asyncio ones.

    python tools/generate_clients.py            write the generated files
    python tools/generate_clients.py --check    name the files that differ from a new generation, and fail

`GENERATED` lists the files and their sources. Edit only the sources.
"""

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

TO_SYNC: Final = (
    (r"\A#.*\n", ""),
    (r"\ban(?= `?async )", "a"),
    (r"\basync (?=def|for|with)", ""),
    (r"\bawait ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(?=(enter|exit|iter)__)", "__"),
    (r"\bcairnkv\.client\.aio\.client\b", "cairnkv.client.sync"),
    (r"\bcairnkv\.client\.aio\b", "cairnkv.client"),
    (r"\bcairnkv\.aio\b", "cairnkv"),
)
"""Regular expressions that turn asyncio code with its docstrings into sync code, and their replacements."""

NOT_IN_PIPELINES: Final = ("setdefault",)
"""Methods of one call that pipelines do not have."""

PENDING_DOCSTRING: Final = """        The result is in the returned `Pending`.
        """

PIPELINE_METHODS: Final = '''"""The methods of pipelines: the methods of a store that are a single call."""

{imports}
from typing import Any
from cairnkv.client.pending import Pending, PendingCalls


class PipelineMethods(PendingCalls[K, V]):
    """The methods of pipelines. Each adds a command, and returns a `Pending` for its result."""

{methods}
'''


def sync(source: str) -> str:
    """Return asyncio code as sync code."""
    for pattern, replacement in TO_SYNC:
        source = re.sub(pattern, replacement, source)
    return source


def pipeline_methods(source: str) -> str:
    """Return the module with the methods of pipelines, from the module of `AsyncKeyValue`."""
    body = ast.parse(sync(source)).body
    imports = [
        ast.unparse(node)
        for node in body
        if isinstance(node, ast.ImportFrom) and not str(node.module).endswith((".mapping", ".pipeline"))
    ]
    store = next(node for node in body if isinstance(node, ast.ClassDef))
    methods = [node for node in store.body if isinstance(node, ast.FunctionDef)]
    overloaded = {method.name for method in methods if is_overload(method)}
    calls = {method.name: call for method in methods if (call := single_call(method))}
    for method in methods:
        if is_overload(method):
            method.returns = pending(method.returns)
        elif (call := calls.get(method.name)) is not None:
            docstring = f"{str(ast.get_docstring(method, clean=False)).rstrip()}\n\n{PENDING_DOCSTRING}"
            method.returns = pending(ast.Name("Any") if method.name in overloaded else method.returns)
            method.body = [ast.Expr(ast.Constant(docstring)), *ast.parse(f"return self._add({ast.unparse(call)})").body]
    return PIPELINE_METHODS.format(
        imports="\n".join(imports),
        methods="\n\n".join(
            "\n".join(f"    {line}" if line else "" for line in ast.unparse(method).splitlines())
            for method in methods
            if method.name in calls
        ),
    )


def single_call(method: ast.FunctionDef) -> ast.expr | None:
    """Return the argument of `_do` if a public method is nothing but `self._do(...)` of it."""
    if method.name.startswith("_") or method.name in NOT_IN_PIPELINES:
        return None
    match method.body[1:]:
        case [ast.Return(ast.Call(ast.Attribute(attr="_do"), [call]))]:
            return call
        case [ast.Expr(ast.Call(ast.Attribute(attr="_do"), [call]))]:
            return call
    return None


def function(source: str, name: str, docstring: str) -> str:
    """Return a module with one function of the asyncio interface, as sync code."""
    body = ast.parse(sync(source)).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom | ast.Import)]
    definitions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    return "\n".join([f'"""{docstring}"""', *map(ast.unparse, [*imports, *definitions])])


def is_overload(method: ast.FunctionDef) -> bool:
    """Return whether a method is an overload."""
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in method.decorator_list)


def pending(result: ast.expr | None) -> ast.expr:
    """Return the annotation of a pending result."""
    assert result is not None
    return ast.Subscript(ast.Name("Pending"), result)


GENERATED: Final[dict[str, tuple[str, Callable[[str], str]]]] = {
    "src/cairnkv/client/keyvalue.py": ("src/cairnkv/client/aio/keyvalue.py", sync),
    "src/cairnkv/client/pipeline_methods.py": ("src/cairnkv/client/aio/keyvalue.py", pipeline_methods),
    "src/cairnkv/client/pipeline.py": ("src/cairnkv/client/aio/pipeline.py", sync),
    "src/cairnkv/client/entry.py": (
        "src/cairnkv/aio.py",
        partial(function, name="connect", docstring="`cairnkv.connect`: makes a client of the store at an address."),
    ),
    "src/cairnkv/client/opening.py": (
        "src/cairnkv/aio.py",
        partial(function, name="open", docstring="`cairnkv.open`: makes a store in this process."),
    ),
}
"""Generated files: their sources, and the functions that generate them."""


def generated(file: str) -> str:
    """Return the text of a generated file."""
    source, generate = GENERATED[file]
    header = f"# Generated by tools/generate_clients.py from {source}; do not edit.\n"
    return formatted(header + generate((ROOT / source).read_text()), file)


def formatted(code: str, file: str) -> str:
    """Return code without unused imports, with sorted imports, in the layout of the project."""
    for command in (["check", "--fix", "--unsafe-fixes", "--exit-zero", "--select=F401,I,UP028"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", f"--stdin-filename={file}", "-"]
        code = subprocess.run(ruff, input=code, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    return code


def main() -> int:
    """Write or check the generated files."""
    parser = argparse.ArgumentParser(description="Generate the sync methods and the methods of pipelines.")
    parser.add_argument("--check", action="store_true", help="fail if a file differs from a new generation")
    options = parser.parse_args()
    stale = [file for file in GENERATED if not (ROOT / file).exists() or (ROOT / file).read_text() != generated(file)]
    if options.check:
        for file in stale:
            print(f"{file} is stale; run: python tools/generate_clients.py", file=sys.stderr)
        return 1 if stale else 0
    for file in stale:
        (ROOT / file).write_text(generated(file))
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
