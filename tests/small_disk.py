"""A real disk that is small, and how to fill it."""

import os
import subprocess
import warnings
from pathlib import Path

import pytest


def mount(folder: Path, num_bytes: int, num_files: int = 0) -> None:
    """Mount a file system of so many bytes; skip the test, and say so, where that is not allowed.

    It takes `num_files` files and folders, its own among them; 0 stands for any number.

    A container's root may do it where it has CAP_SYS_ADMIN.
    """
    folder.mkdir(parents=True)
    limits = f"size={num_bytes},nr_inodes={num_files}"
    command = ["mount", "-t", "tmpfs", "-o", limits, "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = f"NOT TESTED: a full disk, for no file system can be mounted: {done.stderr}"
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)


def unmount(folder: Path) -> None:
    """Unmount it, whoever still uses it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, spare: int = 0) -> Path:
    """Write until but `spare` bytes nothing more fits; return the file that takes the room."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(descriptor, bytes(1 << 16))
    except OSError:
        os.truncate(filler, filler.stat().st_size - spare)
        return filler
    finally:
        os.close(descriptor)
