"""Load files that others pickled, without running what they brought along.

torch loads tensors and plain data safely; a pickle of anything else may run code of whoever wrote
it. One class of the published learner is harmless and common: its running statistics.
"""

import pickle
import types
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_STATISTICS = "RunningMeanStd"


class RunningMeanStd:
    """Stand in for the published learner's running statistics: fields, no code."""


def load_pickled(path: Path, trust: bool) -> Any:
    """Return what torch saved in a file, on the CPU.

    Raises ValueError naming a file that is damaged, that torch did not write, or that needs more
    than tensors and is not to be trusted.
    """
    names = _needed_names(path)
    statistics = [name for name in names if name.endswith(f".{_STATISTICS}")]
    more = sorted(set(names) - set(statistics))
    if more and not trust:
        raise ValueError(
            f"{path} is refused: it needs more than tensors ({', '.join(more)}), and loading that "
            "may run code of whoever wrote the file; pass --trust where you trust them"
        )
    if more:
        return _load_trusted(path)
    try:
        with safe_globals([(RunningMeanStd, name) for name in statistics]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles fail in every way there is
        raise _unreadable(path, error) from error


def _needed_names(path: Path) -> list[str]:
    """List the classes and functions that a file needs beyond tensors; nothing is run."""
    try:
        return get_unsafe_globals_in_checkpoint(str(path))
    except OSError:  # absent, or not ours to read: it says so itself
        raise
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise ValueError(f"{path} is not a readable checkpoint: torch did not write it") from error
    except pickle.UnpicklingError:
        return ["an instruction that torch does not know"]
    except Exception as error:  # damaged pickles fail in every way there is
        raise _unreadable(path, error) from error


def _load_trusted(path: Path) -> Any:
    trusting: Any = types.ModuleType("trusting_pickle")  # torch takes a module
    trusting.Unpickler, trusting.load = _TrustingUnpickler, pickle.load
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=trusting)
    except ImportError as error:
        raise ValueError(f"{path} needs a package that is not here: {error}") from error
    except Exception as error:  # whatever the file's own code raises
        raise _unreadable(path, error) from error


class _TrustingUnpickler(pickle.Unpickler):
    """Import what the file names, but the statistics, whose package need not be here."""

    def find_class(self, module: str, name: str) -> Any:
        return RunningMeanStd if name == _STATISTICS else super().find_class(module, name)


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return ValueError(f"{path} is not a readable checkpoint, or is cut short: {reason[:200]}")
