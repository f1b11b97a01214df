"""Builds of cairnkv that have a fault of its past in them, to prove that the simulation finds it.

Fault A: the poller receives into its shared buffer while the buffer holds bytes of other clients. The macro
CAIRNKV_FAULT_A compiles it in.
Fault B: EXEC compares a pending reply with a value, so it gives up each transaction whose watched key is not committed
yet. It is Python code; the build gets a copy of the module with the two lines in it.

Invariants: a build is made once for each state of the sources and kept in `build/faults`; no setting and no variable
turns a fault on in any other build.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from tests.support.building import ROOT, copy_project, install

MACRO: Final = "CAIRNKV_FAULT_A"
"""Defined: fault A is compiled in, and the module has this text in it."""

POLLER: Final = "cairnkv/server/poller_native"
TRANSACTIONS: Final = "cairnkv/session/resp/commands/transactions.py"
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX")
BUILDS: Final = ROOT / "build" / "faults"

_BEFORE_FAULT_B: Final = "    steps = [step for one in planned for step in one.steps]\n"
_FAULT_B: Final = """\
    if watched and (unchanged := conversation.store.execute_all((), watched)) != Replies(()):
        return Later(unchanged, lambda _: NULL_ARRAY)
"""


def faulty_package(fault: str) -> Path:
    """The directory to import the build with fault "A" or "B" from; it is built unless the sources are as they were."""
    sources = sorted(path for kind in ("py", "pyx", "pxd", "h") for path in (ROOT / "src").rglob(f"*.{kind}"))
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes())
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    package = BUILDS / f"{fault}-{digest.hexdigest()[:16]}"
    BUILDS.mkdir(parents=True, exist_ok=True)
    with (BUILDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not package.exists():
            for old in BUILDS.glob(f"{fault}-*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix="building-", dir=BUILDS) as place:
                built = _with_fault_a(Path(place)) if fault == "A" else _with_fault_b(Path(place))
                built.rename(package)
    return package


def _with_fault_a(place: Path) -> Path:
    """Compile the poller anew, or everything where its C source or the other modules are not at hand."""
    source = ROOT / "build" / "cython" / "src" / f"{POLLER}.c"
    written = (ROOT / "src" / f"{POLLER}.pyx").stat().st_mtime
    if not _is_built() or not source.exists() or source.stat().st_mtime < written or MACRO not in source.read_text():
        copy_project(place)
        return install(place, {**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -D{MACRO}"})
    package = _copy(place)
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{package / 'cairnkv' / 'engine'}"]
    command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-O1", f"-D{MACRO}", *includes, str(source)]
    subprocess.run([*command, "-o", str(package / f"{POLLER}{SUFFIX}")], check=True)
    return package


def _with_fault_b(place: Path) -> Path:
    if _is_built():
        package = _copy(place)
    else:
        copy_project(place)
        package = install(place, os.environ)
    transactions = package / TRANSACTIONS
    text = transactions.read_text()
    if text.count(_BEFORE_FAULT_B) != 1:
        raise AssertionError(f"{TRANSACTIONS} has changed: say in {__file__} where fault B stands")
    transactions.write_text(text.replace(_BEFORE_FAULT_B, _FAULT_B + _BEFORE_FAULT_B))
    return package


def _is_built() -> bool:
    return (ROOT / "src" / f"{POLLER}{SUFFIX}").exists()


def _copy(place: Path) -> Path:
    package = place / "src"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return package
