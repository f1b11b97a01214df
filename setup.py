"""Build the native path, if this computer has a compiler. pyproject.toml has everything else.

Without a compiler or Python's headers, or if the compilation fails, the installation succeeds with the pure Python
path. Without OpenSSL's headers only TLS stays on it. `cairnkv.features()`, `make` and `cairn serve` show which path is
in use, because pip prints nothing about a successful build.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError


class BuildWhatCanBeBuilt(build_ext):
    """Translate the extensions to C and compile them. Omit those that fail, and print the reason.

    An extension's `optional` works for a wheel, but not for an editable installation. Only this command needs Cython
    and the sources of the extensions: a source distribution needs neither.
    """

    def build_extensions(self) -> None:
        """Build the extensions, one on each processor at a time, and keep the successful ones."""
        if not self.compiles():  # the translation to C takes longer than all the rest
            self.extensions.clear()
            return
        from Cython.Build import cythonize

        translated = cythonize(self.extensions, include_path=["src"], build_dir="build/cython")
        for extension, in_c in zip(self.extensions, translated, strict=True):
            extension.sources, extension.depends = in_c.sources, in_c.depends
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.extensions[:] = [
                extension
                for extension, built in zip(self.extensions, pool.map(self.builds, self.extensions), strict=True)
                if built
            ]

    def compiles(self) -> bool:
        """Return whether a file that needs Python's headers can be compiled."""
        with TemporaryDirectory() as directory:
            probe = Path(directory) / "probe.c"
            probe.write_text("#include <Python.h>\n")
            try:
                self.compiler.compile([str(probe)], output_dir=directory)
            except (BaseError, CCompilerError, OSError) as error:
                self.warn(f"cairnkv is not compiled, and plain Python takes its place: {error}")
                return False
        return True

    def builds(self, extension: Extension) -> bool:
        """Build an extension. Return whether that succeeded."""
        try:
            self.build_extension(extension)
        except (BaseError, CCompilerError, OSError) as error:
            self.warn(f"{extension.name} is not compiled, and plain Python takes its place: {error}")
            return False
        return True


def extensions() -> list[Extension]:
    """Return the native modules; none on systems without epoll or CPython."""
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        return []
    modules = {
        "cairnkv.engine.table_native": "src/cairnkv/engine/table_native.pyx",
        "cairnkv.engine.sorted_list_native": "src/cairnkv/engine/sorted_list_native.pyx",
        "cairnkv.engine.queue_native": "src/cairnkv/engine/queue_native.pyx",
        "cairnkv.protocol.resp.requests_native": "src/cairnkv/protocol/resp/requests_native.pyx",
        "cairnkv.storage.recorder_native": "src/cairnkv/storage/recorder_native.pyx",
        "cairnkv.store.pending_native": "src/cairnkv/store/pending_native.pyx",
        "cairnkv.replication.proposals_native": "src/cairnkv/replication/proposals_native.pyx",
        "cairnkv.store.clock_native": "src/cairnkv/store/clock_native.pyx",
        "cairnkv.session.access.rights_native": "src/cairnkv/session/access/rights_native.pyx",
        "cairnkv.session.executor_native": "src/cairnkv/session/executor_native.pyx",
        "cairnkv.session.queue_frames_native": "src/cairnkv/session/queue_frames_native.pyx",
        "cairnkv.session.native.frames_native": "src/cairnkv/session/native/frames_native.pyx",
        "cairnkv.session.proposals_native": "src/cairnkv/session/proposals_native.pyx",
        "cairnkv.session.resp.frames_native": "src/cairnkv/session/resp/frames_native.pyx",
        "cairnkv.server.poller_native": "src/cairnkv/server/poller_native.pyx",
        "cairnkv.client.embedded_native": "src/cairnkv/client/embedded_native.pyx",
        "cairnkv.client.exchange_native": "src/cairnkv/client/exchange_native.pyx",
        "cairnkv.client.aio.reply_future_native": "src/cairnkv/client/aio/reply_future_native.pyx",
    }
    tls = "cairnkv.server.tls_native"
    modules[tls] = "src/cairnkv/server/tls_native.pyx"  # without OpenSSL's headers, Python's ssl takes its place
    shared = [str(path) for kind in ("*.pxd", "*.h") for path in sorted(Path("src").rglob(kind))]
    return [
        Extension(
            name,
            [source],
            include_dirs=["src/cairnkv/engine"],
            libraries=["ssl", "crypto"] if name == tls else [],
            depends=shared,  # all of them, because modules use the declarations of others
            extra_compile_args=["-O3"],
        )
        for name, source in modules.items()
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWhatCanBeBuilt})
