"""Compile the C++ of this folder once on a machine, and load it."""

import contextlib
import ctypes
import errno
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from pwmray.files import replacing

SOURCES = [str(Path(__file__).with_name(name)) for name in ("norms.cpp", "adam.cpp")]

_COMPILERS = ("c++", "g++", "clang++")
_C_COMPILERS = ("gcc", "clang")  # as Triton looks for them
_DIGEST_BYTES = 32  # of a SHA-256
_ROOM_BYTES = 1 << 20  # more than the library takes
_TIMEOUT_SECONDS = 600  # seconds suffice; two cores with a load of 17 took 72
# The compiler may reorder sums and assume that no number is infinite or NaN; those still propagate.
_MATHEMATICS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
_MATHEMATICS += ["-fassociative-math", "-freciprocal-math", "-ffinite-math-only"]
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", *_MATHEMATICS]
_X86_FLAGS = ["-mprefer-vector-width=512"]
# An option that a compiler may lack, what it complains about then, and what replaces it. A clang
# without libomp, such as Apple's, has OpenMP's vectors but no threads; some do not know their CPU.
_INSTEAD = [
    ("-fopenmp", re.compile(r"-fopenmp\b|\bomp\.h\b|-lg?omp\b"), ["-fopenmp-simd"]),
    ("-march=native", re.compile(r"-march=native|'native'"), []),
]
_CPU = Path("/proc/cpuinfo")
_SAME_ON_ALL_CORES = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip

log = logging.getLogger(__name__)


class _CompilerFailedError(OSError):
    """The compiler failed for a reason that does not depend on where its output goes."""


@functools.cache
def load() -> ctypes.CDLL:
    """Return the compiled kernels.

    A machine's first call compiles them and keeps the library in the user's cache folder
    (`$XDG_CACHE_HOME/pwmray`, else `~/.cache/pwmray`), for this source, compiler and CPU. Where the
    library cannot be kept, each process compiles its own. Raises OSError saying what went wrong.
    """
    compiler = find_compiler()
    x86 = _X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else []
    command = [*compiler.split(), *_FLAGS, *x86]
    kept = _kept_library(compiler, command)
    command += SOURCES  # not part of the library's name: a moved installation finds it again
    if kept is not None:
        with contextlib.suppress(OSError):  # none yet, or one that this system cannot load
            if _is_ours_alone(kept) and _is_whole(kept):
                return ctypes.CDLL(str(kept))
        try:
            _take_over(kept.parent)
            with replacing(kept, is_ours_alone=True) as draft:
                _check_place(draft)
                return _compile(command, draft)
        except _CompilerFailedError:
            raise
        except OSError:  # no room, no permission, or a file system without execution
            pass
    with tempfile.TemporaryDirectory(prefix="pwmray-kernels-") as folder:
        return _compile(command, Path(folder) / "kernels.so")


def find_compiler() -> str:
    """Return the command of a C++ compiler; raise OSError if there is none."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), "")
    if not compiler:
        raise OSError(f"no C++ compiler: CXX is not set, and none of {', '.join(_COMPILERS)} found")
    return compiler


def find_c_compiler() -> str:
    """Return the command of the C compiler that Triton would find; raise OSError without one."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, _C_COMPILERS), "")
    if not compiler:
        raise OSError(f"no C compiler: CC is not set, and none of {', '.join(_C_COMPILERS)} found")
    if not shutil.which(compiler):
        raise OSError(f"no C compiler: CC is {compiler!r}, which is not found")
    return compiler


def _kept_library(compiler: str, command: list[str]) -> Path | None:
    """Return where to keep the library that `command` makes, None without a home folder."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    made_of = hashlib.sha256(repr(command).encode())
    for source in SOURCES:
        made_of.update(Path(source).read_bytes())
    made_of.update(_run([*compiler.split(), "--version"]).stdout.encode())
    made_of.update(_describe_cpu().encode())
    return cache / "pwmray" / f"kernels-{made_of.hexdigest()[:16]}.so"


def _describe_cpu() -> str:
    """Return what -march=native depends on: the first core's description."""
    try:
        first = _CPU.read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()
    lines = [line for line in first.splitlines() if line.split("\t")[0] in _SAME_ON_ALL_CORES]
    return "\n".join(lines)


def _is_ours_alone(library: Path) -> bool:
    """Tell whether nobody else could have written the file: it is code that we run."""
    states = [library.stat(), library.parent.stat()]
    return all(state.st_uid == os.getuid() and not state.st_mode & 0o022 for state in states)


def _is_whole(library: Path) -> bool:
    """Tell whether the file ends with its own digest: calling into a cut one would crash."""
    content = library.read_bytes()
    return _digest(content[:-_DIGEST_BYTES]) == content[-_DIGEST_BYTES:]


def _take_over(folder: Path) -> None:
    """Make a folder that nobody else may write; raise OSError for another user's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid():
        log.warning("kernels are compiled by every process: %s is another user's", folder)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder))
    if state.st_mode & 0o022:
        folder.chmod(0o700)


def _check_place(library: Path) -> None:
    """Raise OSError if the library cannot be written; the compiler would not say that clearly."""
    library.write_bytes(bytes(_ROOM_BYTES))
    library.unlink()


def _compile(command: list[str], library: Path) -> ctypes.CDLL:
    """Compile the kernels and load them; they stay loaded if the file is deleted."""
    done = _run([*command, "-o", str(library)])
    if done.returncode:
        less = _without_what_it_lacks(command, done.stderr)
        if less != command:
            return _compile(less, library)
        raise _CompilerFailedError(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    with open(library, "ab") as file:  # for _is_whole; the loader ignores what follows the end
        file.write(_digest(library.read_bytes()))
    library.chmod(0o600)
    return ctypes.CDLL(str(library))


def _without_what_it_lacks(command: list[str], said: str) -> list[str]:
    """Return the command without the options that the compiler complained about."""
    for option, complaint, instead in _INSTEAD:
        if option in command and complaint.search(said):
            place = command.index(option)
            command = [*command[:place], *instead, *command[place + 1 :]]
    return command


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",  # what a compiler says may be in any encoding
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = f"{command[0]} took longer than {_TIMEOUT_SECONDS} seconds"
        raise _CompilerFailedError(said) from error
