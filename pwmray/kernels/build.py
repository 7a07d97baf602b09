"""Compile the C++ of this folder and load it."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = [str(Path(__file__).with_name(name)) for name in ("norms.cpp", "adam.cpp")]

_COMPILERS = ("c++", "g++", "clang++")
_TIMEOUT_SECONDS = 120  # seconds suffice; a machine under load takes longer
# Sums may be in another order, and nothing is tested for being infinite or NaN: either still comes
# out of whatever it went into.
_MATHEMATICS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
_MATHEMATICS += ["-fassociative-math", "-freciprocal-math", "-ffinite-math-only"]
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", *_MATHEMATICS]
_X86_FLAGS = ["-mprefer-vector-width=512"]


@functools.cache
def load() -> ctypes.CDLL:
    """Return the compiled kernels, compiled on the first call.

    Raises OSError that says what went wrong.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), "")
    if not compiler:
        raise OSError(f"no C++ compiler: CXX is not set, and none of {', '.join(_COMPILERS)} found")
    x86 = _X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else []
    with tempfile.TemporaryDirectory(prefix="pwmray-kernels-") as folder:
        library = Path(folder) / "kernels.so"
        command = [*compiler.split(), *_FLAGS, *x86, *SOURCES, "-o", str(library)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{compiler} took longer than {_TIMEOUT_SECONDS} seconds") from error
        if done.returncode:
            raise OSError(f"{compiler} ended with {done.returncode}: {done.stderr}")
        return ctypes.CDLL(str(library))  # which stays, without the file
