"""Builds the compiled hot path, if this machine can: everything else stands in pyproject.toml.

Without a compiler or Python's headers, or when compiling fails, the package is
installed all the same and runs in plain Python. `cairnkv.features()` says which it is, and so do `make` and
`cairn serve`, since pip shows nothing of a build that succeeds.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError


class BuildWhatCanBeBuilt(build_ext):
    """Translates the extensions to C and compiles them; leaves out what cannot be compiled, with a line that says why.

    The `optional` of an extension would do for a wheel; an editable installation does not heed it. Only this command
    needs Cython and the sources of the extensions: a source distribution is made without either.
    """

    def build_extensions(self) -> None:
        """Build the extensions one by one, and go on with those that could be."""
        from Cython.Build import cythonize

        translated = cythonize(self.extensions, include_path=["src"], build_dir="build/cython")
        built = []
        for extension, in_c in zip(self.extensions, translated, strict=True):
            extension.sources, extension.depends = in_c.sources, in_c.depends
            try:
                self.build_extension(extension)
                built.append(extension)
            except (BaseError, CCompilerError, OSError) as error:
                self.warn(f"{extension.name} is not compiled, and plain Python takes its place: {error}")
        self.extensions[:] = built


def extensions() -> list[Extension]:
    """The compiled modules; none where they are of no use."""
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        return []
    modules = {
        "cairnkv.keyspace.hot_table": "src/cairnkv/keyspace/hot_table.pyx",
        "cairnkv.log.disk.hot_recorder": "src/cairnkv/log/disk/hot_recorder.pyx",
        "cairnkv.store.hot_held": "src/cairnkv/store/hot_held.pyx",
        "cairnkv.store.hot_digest": "src/cairnkv/store/hot_digest.pyx",
        "cairnkv.store.hot_clock": "src/cairnkv/store/hot_clock.pyx",
        "cairnkv.session.accelerator": "src/cairnkv/session/accelerator.pyx",
        "cairnkv.session.article_frames": "src/cairnkv/session/article_frames.pyx",
        "cairnkv.session.proposing": "src/cairnkv/session/proposing.pyx",
        "cairnkv.session.redis_frames": "src/cairnkv/session/redis_frames.pyx",
        "cairnkv.server.poller": "src/cairnkv/server/poller.pyx",
        "cairnkv.client.direct": "src/cairnkv/client/direct.pyx",
        "cairnkv.client.exchange": "src/cairnkv/client/exchange.pyx",
        "cairnkv.client.aio.waking": "src/cairnkv/client/aio/waking.pyx",
    }
    shared = [str(path) for kind in ("*.pxd", "*.h") for path in sorted(Path("src").rglob(kind))]
    return [
        Extension(
            name,
            [source],
            include_dirs=["src/cairnkv/keyspace"],
            depends=shared,  # all: objects of one module are laid out by the declarations of another
            extra_compile_args=["-O3"],
        )
        for name, source in modules.items()
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWhatCanBeBuilt})
