"""The page on adding a command is correct: its diffs apply, and the command works on every interface."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cairnkv.installation import native_path_in_use

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
NATIVE_SECTION = "## The native path"
SECONDS = 300.0


def diffs(text: str) -> dict[str, str]:
    """Return the diffs of a text by the names of their files."""
    found = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)[0]: diff for diff in found}


def apply(copy: Path, patches: dict[str, str]) -> None:
    for file, patch in patches.items():
        text = (copy / file).read_text()
        for hunk in re.split(r"^@@.*\n", patch, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            before, after = ("".join(line[1:] or "\n" for line in lines if line[0] != sign) for sign in "+-")
            assert text.count(before) == 1, f"{file} has changed: update its diff in docs/contributing.md\n{before}"
            text = text.replace(before, after)
        (copy / file).write_text(text)


def run(copy: Path, *command: str, **environment: str) -> None:
    """Run a command in the copy, with the package of the copy."""
    done = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}", "CI": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def run_tests(copy: Path, *arguments: str, **environment: str) -> None:
    run(
        copy,
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *arguments,
        HYPOTHESIS_PROFILE="brief",
        **environment,
    )


def copied(copy: Path, ignored: list[str]) -> Path:
    """Copy the parts of the repository that the tests of a command need."""
    for name in ("benchmarks", "docs", "src", "tests", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", *ignored))
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "setup.py"):
        shutil.copy(path, copy)
    apply(copy, diffs(PAGE.partition(NATIVE_SECTION)[0]))
    for program in ("tools/generate_clients.py", "docs/tables.py"):
        run(copy, sys.executable, "-P", program)
    return copy


def test_a_command_needs_four_source_files_and_one_table_of_cases() -> None:
    pure, native = (diffs(part) for part in PAGE.split(NATIVE_SECTION))
    assert sum(file.startswith("src/") for file in pure) == 4
    assert [file for file in pure if not file.startswith("src/")] == ["tests/commands/cases.py"]
    assert len(native) == 2
    assert all(file.endswith(".pyx") for file in native)


def test_the_command_of_the_page_works_in_pure_python(tmp_path: Path) -> None:
    copy = copied(tmp_path, ["*.so"])
    run(copy, sys.executable, "-P", "tools/generate_clients.py", "--check")
    run_tests(
        copy, "tests/commands", "-k", "pull or not (test_cases or test_vocabulary or test_grammar)", CAIRNKV__PURE="1"
    )
    code = "import cairnkv; kv = cairnkv.open(); kv['a'] = '1'; print(cairnkv.__file__, kv.pull('a'), kv.pull('a'))"
    run(copy, sys.executable, "-P", "-c", f"{code}; assert cairnkv.__file__.startswith({str(copy)!r})")


@pytest.mark.skipif(not native_path_in_use(), reason="the native path is not built or not in use")
def test_the_command_of_the_page_works_on_the_native_path(tmp_path: Path) -> None:
    copy = copied(tmp_path, [])
    native = diffs(PAGE.partition(NATIVE_SECTION)[2])
    apply(copy, native)
    setup = copy / "setup.py"
    lines = setup.read_text().splitlines(keepends=True)
    setup.write_text("".join(line for line in lines if ".pyx" not in line or any(file in line for file in native)))
    run(copy, sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    served = (
        "from cairnkv.session.native import frames_native as a; from cairnkv.session.resp import frames_native as b"
    )
    run(copy, sys.executable, "-P", "-c", f"{served}; assert a.SERVED['PULL'] == 46; assert 'PULL' in b.SERVED")
    run_tests(copy, "tests/commands/test_cases.py", "-k", "pull")
    run_tests(
        copy,
        "tests/native/test_native_frames.py",
        "tests/native/test_resp_frames.py",
        "-k",
        "served or serves or any_pieces",
    )
