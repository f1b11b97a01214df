"""Generates the methods of stores and pipelines, and sync code from asyncio code.

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
    (r"\bimport asyncio\n", "import time\n"),
    (r"\basyncio\.sleep\b", "time.sleep"),
)
"""Regular expressions that turn asyncio code with its docstrings into sync code, and their replacements."""

METHODS: Final = '''"""The methods of stores that are one call each."""

import abc
from typing import Generic


class AsyncMethods(abc.ABC, Generic[K, V]):
    """The methods of stores that are one call each."""

    _calls: StoreCalls[K, V]
    _survives_forks = False  # whether a forked process can use the same store

    def _end_takes(self) -> None:
        """End the TAKE commands that wait, if the store is at a server. They lease nothing."""

    @abc.abstractmethod
    async def _do(self, call: Call[T]) -> T:
        """Execute a call and return its result."""

'''

PIPELINE_METHODS: Final = '''"""The methods of pipelines: the methods of stores that are one call each."""

from cairnkv.client.pending import Pending, PendingCalls


class PipelineMethods(PendingCalls[K, V]):
    """The methods of pipelines. Each adds a call, and returns a `Pending` for its result."""

'''


def sync(source: str) -> str:
    """Return asyncio code as sync code."""
    for pattern, replacement in TO_SYNC:
        source = re.sub(pattern, replacement, source)
    return source


def async_methods(source: str) -> str:
    """Return the methods of asyncio stores, from the module of `Calls`."""
    text = methods(source, METHODS, "{}", "await self._do({})")
    return re.sub(r"^    def (?!_end_takes)", "    async def ", text, flags=re.MULTILINE)


def pipeline_methods(source: str) -> str:
    """Return the methods of pipelines, from the module of `Calls`."""
    return methods(source, PIPELINE_METHODS, "Pending[{}]", "self._add({})")


def methods(source: str, header: str, returns: str, does: str) -> str:
    """Return a module: a header, and a method for each method of `Calls` that returns a call.

    returns: the annotation of a method, from the result of the call. does: the expression of its value, from the call.
    """
    body = ast.parse(source).body
    calls = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == "Calls")
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    imports.append(f"from cairnkv.client.calls import {', '.join(public_names(body))}")
    made = [method(node, returns, does) for node in calls.body if isinstance(node, ast.FunctionDef)]
    docstring, rest = header.split("\n\n", 1)
    return "\n".join([docstring, *imports, rest, *(f"{indented(ast.unparse(node))}\n" for node in made)])


def method(call: ast.FunctionDef, returns: str, does: str) -> ast.FunctionDef:
    """Return the method of a store or pipeline for a method of `Calls`."""
    if not isinstance(call.returns, ast.Subscript):
        raise ValueError(f"Calls.{call.name} is annotated with {call.returns}, not with Call[...]")
    call.returns = expression(returns.format(ast.unparse(call.returns.slice)))
    docstring = ast.get_docstring(call, clean=False)
    if docstring is not None:
        positional = [argument.arg for argument in call.args.args[1:]]
        named = [f"{argument.arg}={argument.arg}" for argument in call.args.kwonlyargs]
        value = does.format(f"self._calls.{call.name}({', '.join([*positional, *named])})")
        call.body = [call.body[0], ast.Return(expression(value))]
    return call


def expression(code: str) -> ast.expr:
    """Return an expression from its code."""
    return ast.parse(code, mode="eval").body


def indented(code: str) -> str:
    """Return code with the indentation of a class."""
    return "\n".join(f"    {line}" if line else "" for line in code.splitlines())


def public_names(body: list[ast.stmt]) -> list[str]:
    """Return the public names that a module defines."""
    names: list[str] = []
    for node in body:
        match node:
            case ast.ClassDef(name) | ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                names.append(name)
    return [name for name in names if not name.startswith("_")]


def function(source: str, name: str, docstring: str) -> str:
    """Return a module with one function of the asyncio interface, as sync code."""
    body = ast.parse(sync(source)).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom | ast.Import)]
    definitions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    return "\n".join([f'"""{docstring}"""', *map(ast.unparse, [*imports, *definitions])])


CLIENT: Final = "src/cairnkv/client"

GENERATED: Final[dict[str, tuple[str, Callable[[str], str]]]] = {
    f"{CLIENT}/aio/methods.py": (f"{CLIENT}/calls.py", async_methods),
    f"{CLIENT}/methods.py": (f"{CLIENT}/calls.py", lambda source: sync(async_methods(source))),
    f"{CLIENT}/pipeline_methods.py": (f"{CLIENT}/calls.py", pipeline_methods),
    f"{CLIENT}/keyvalue.py": (f"{CLIENT}/aio/keyvalue.py", sync),
    f"{CLIENT}/queue/jobs.py": (f"{CLIENT}/aio/queue/jobs.py", sync),
    f"{CLIENT}/queue/leases.py": (f"{CLIENT}/aio/queue/leases.py", sync),
    f"{CLIENT}/queue/queues.py": (f"{CLIENT}/aio/queue/queues.py", sync),
    f"{CLIENT}/pipeline.py": (f"{CLIENT}/aio/pipeline.py", sync),
    f"{CLIENT}/together.py": (f"{CLIENT}/aio/together.py", sync),
    f"{CLIENT}/entry.py": (
        "src/cairnkv/aio.py",
        partial(function, name="connect", docstring="`cairnkv.connect`: makes a client of the store at an address."),
    ),
    f"{CLIENT}/opening.py": (
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
    parser = argparse.ArgumentParser(description="Generate the methods of stores and pipelines, and sync code.")
    parser.add_argument("--check", action="store_true", help="fail if a file differs from a new generation")
    options = parser.parse_args()
    stale = {
        file: text
        for file in GENERATED
        if (text := generated(file)) != ((ROOT / file).read_text() if (ROOT / file).exists() else None)
    }
    if options.check:
        for file in stale:
            print(f"{file} is stale; run: python tools/generate_clients.py", file=sys.stderr)
        return 1 if stale else 0
    for file, text in stale.items():
        (ROOT / file).write_text(text)
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
