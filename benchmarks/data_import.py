"""Measure how fast `pwmray data import` reads chunks, and the memory it takes.

    python benchmarks/data_import.py [--folder DIR] [--episodes N] [--repeats N]

Writes four synthetic chunks of all 30 tasks in MT30's layout (random values, N episodes a task in
each; 200 make 0.4 GB a chunk) and imports them several times, each time in a process of its own.
The chunks are in the page cache; the store goes to DIR's disk and is synced. To measure that disk,
about as many bytes as the store has are written and synced plainly, before and after.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pwmray.commands import CommandParser, run_command
from pwmray.provenance import code
from pwmray.sweep_options import count

_MB = 1e6


def main() -> int:
    """Print the report; return the exit status."""
    parser = CommandParser(description="Measure the import of TD-MPC2's chunks.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    parser.add_argument("--episodes", type=count, default=200, metavar="N")
    parser.add_argument("--repeats", type=count, default=5, metavar="N")
    parser.add_argument("--import-into", type=Path, nargs=2, help=argparse.SUPPRESS)
    return run_command(lambda: measure(parser.parse_args()))


def measure(options: argparse.Namespace) -> None:
    """Import in child processes and print what they took."""
    if options.import_into:
        print(*_import_once(*options.import_into))
        return
    from benchmarks.synthetic_chunks import write_dataset

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        num_bytes = write_dataset(folder / "chunks", 4, options.episodes)
        largest = max(path.stat().st_size for path in (folder / "chunks").iterdir())
        print(f"commit {code()['git_commit']}, {os.cpu_count()} cores")
        print(f"4 chunks of {largest / _MB:.0f} MB, {num_bytes / _MB:.0f} MB in all")
        for _ in range(options.repeats):
            disk_before = _disk_rate(folder, num_bytes // 2)
            seconds, growth, store_bytes = _import_in_child(folder)
            disk_after = _disk_rate(folder, num_bytes // 2)
            print(
                f"{seconds:6.2f} s  {num_bytes / _MB / seconds:6.0f} MB/s of chunks  "
                f"store {store_bytes / _MB:.0f} MB  peak memory {growth / _MB:.0f} MB more than "
                f"before it, {growth / largest:.2f} of a chunk  (disk {disk_before:.0f} and "
                f"{disk_after:.0f} MB/s, load {os.getloadavg()[0]:.1f})"
            )


def _import_in_child(folder: Path) -> tuple[float, int, int]:
    """Return seconds, bytes of memory it grew by, and bytes of the store, which is deleted."""
    arguments = ["--import-into", folder / "chunks", folder / "data"]
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, growth, store_bytes = output.split()
    shutil.rmtree(folder / "data")
    return float(seconds), int(growth), int(store_bytes)


def _import_once(source: Path, data_dir: Path) -> tuple[float, int, int]:
    from pwmray.data.importing import import_dataset

    before = _peak_bytes()
    started = time.perf_counter()
    manifest = import_dataset(source, data_dir, lambda what, done, total: None)
    seconds = time.perf_counter() - started
    store_bytes = sum(file.num_bytes for file in manifest.tasks.values())
    return seconds, _peak_bytes() - before, store_bytes


def _peak_bytes() -> int:
    """Return the process's largest resident memory so far, mapped files included (Linux)."""
    # Not getrusage: that starts a child at its parent's peak.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _disk_rate(folder: Path, num_bytes: int) -> float:
    """Return MB/s of writing and syncing plain bytes."""
    path, block = folder / "plain", bytes(2**22)
    started = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(num_bytes // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return num_bytes / _MB / seconds


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
