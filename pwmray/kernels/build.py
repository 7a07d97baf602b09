"""Compile the C++ of this folder, once on a machine, and load it."""

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
_C_COMPILERS = ("gcc", "clang")  # that Triton looks for
_DIGEST_BYTES = 32  # of a SHA-256
_ROOM_BYTES = 1 << 20  # that the library takes, at most
_TIMEOUT_SECONDS = 600  # seconds suffice; two cores with a load of 17 took 72
# Sums may be in another order, and nothing is tested for being infinite or NaN: either still comes
# out of whatever it went into.
_MATHEMATICS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
_MATHEMATICS += ["-fassociative-math", "-freciprocal-math", "-ffinite-math-only"]
_FLAGS = ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", *_MATHEMATICS]
_X86_FLAGS = ["-mprefer-vector-width=512"]
# What a compiler may lack, by what it says then, and what it has instead: clang without libomp, as
# Apple's, knows OpenMP's vectors and no threads, and not every clang the CPU that it runs on.
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
    """Says what the compiler said: it would say so wherever its output is to go."""


@functools.cache
def load() -> ctypes.CDLL:
    """Return the compiled kernels.

    They are compiled on a machine's first call and kept in the user's cache folder
    (`$XDG_CACHE_HOME/pwmray`, else `~/.cache/pwmray`), for this source, compiler and CPU.
    Raises OSError that says what went wrong.
    """
    compiler = find_compiler()
    x86 = _X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else []
    command = [*compiler.split(), *_FLAGS, *x86]
    kept = _kept_library(compiler, command)
    command += SOURCES  # wherever they lie
    if kept is not None:
        with contextlib.suppress(OSError):  # none yet, or from before the system changed
            if _is_ours_alone(kept) and _is_whole(kept):
                return ctypes.CDLL(str(kept))
        try:
            _take_over(kept.parent)
            with replacing(kept) as draft:
                _check_place(draft)
                return _compile(command, draft)
        except _CompilerFailedError:
            raise
        except OSError:  # no room or rights, or nothing there may be executed
            pass
    with tempfile.TemporaryDirectory(prefix="pwmray-kernels-") as folder:
        return _compile(command, Path(folder) / "kernels.so")


def find_compiler() -> str:
    """Return the command of a C++ compiler; raises OSError where there is none."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), "")
    if not compiler:
        raise OSError(f"no C++ compiler: CXX is not set, and none of {', '.join(_COMPILERS)} found")
    return compiler


def find_c_compiler() -> str:
    """Return the command of a C compiler as Triton looks for it; raises OSError without one."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, _C_COMPILERS), "")
    if not compiler:
        raise OSError(f"no C compiler: CC is not set, and none of {', '.join(_C_COMPILERS)} found")
    if not shutil.which(compiler):
        raise OSError(f"no C compiler: CC is {compiler!r}, which is not found")
    return compiler


def _kept_library(compiler: str, command: list[str]) -> Path | None:
    """Return where the library that `command` makes is kept, None without a home folder."""
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
    """Return what -march=native goes by, as the first core's lines say it."""
    try:
        first = _CPU.read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()
    lines = [line for line in first.splitlines() if line.split("\t")[0] in _SAME_ON_ALL_CORES]
    return "\n".join(lines)


def _is_ours_alone(library: Path) -> bool:
    """Return whether nobody else could have written the file."""
    states = [library.stat(), library.parent.stat()]
    return all(state.st_uid == os.getuid() and not state.st_mode & 0o022 for state in states)


def _is_whole(library: Path) -> bool:
    """Return whether the file is what was written: a cut one would kill who calls into it."""
    content = library.read_bytes()
    return _digest(content[:-_DIGEST_BYTES]) == content[-_DIGEST_BYTES:]


def _take_over(folder: Path) -> None:
    """Make a folder that nobody else may write; raise OSError for one of another user."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid():
        log.warning("kernels are compiled by every process: %s is another user's", folder)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder))
    if state.st_mode & 0o022:
        folder.chmod(0o700)


def _check_place(library: Path) -> None:
    """Raise OSError where it could not be written, which a compiler tells from no other failure."""
    library.write_bytes(bytes(_ROOM_BYTES))
    library.unlink()


def _compile(command: list[str], library: Path) -> ctypes.CDLL:
    """Compile the kernels and load them; they stay, with the file or without."""
    done = _run([*command, "-o", str(library)])
    if done.returncode:
        less = _without_what_it_lacks(command, done.stderr)
        if less != command:
            return _compile(less, library)
        raise _CompilerFailedError(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    with open(library, "ab") as file:  # behind its end, where nothing looks
        file.write(_digest(library.read_bytes()))
    library.chmod(0o600)
    return ctypes.CDLL(str(library))


def _without_what_it_lacks(command: list[str], said: str) -> list[str]:
    """Return the command without the options that its compiler named as it failed."""
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
