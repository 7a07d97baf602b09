"""Load files that others pickled, without running what they brought along.

torch loads tensors and plain data safely; a pickle of anything else may run code of whoever wrote
it. Two classes are harmless and common, and have a stand-in here, of fields and no code: the
published learner's running statistics, and the TensorDict in which TD-MPC2's data comes.
"""

import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pwmray.records import check_records
from pwmray.wording import first_line

_STATISTICS = "RunningMeanStd"
_ZIP_START = b"PK\x03\x04"  # torch writes zip files, whose table of contents is at the end
_OLD_NUMBER = bytes.fromhex("6cfc9c46f9206aa85019")  # with which torch's earlier format begins
_START_BYTES = 32


class RunningMeanStd:
    """Stand in for the published learner's running statistics: fields, no code."""


class TensorDict:
    """Stand in for tensordict's: tensors by name in `_tensordict`, no code."""

    _tensordict: dict[str, Any]


class _PlainDict:
    """Stand in for tensordict's own dictionary: what is made is a plain one."""

    def __new__(cls) -> Any:
        return {}


def _make_tensor_dict(_: type, fields: dict[str, Any]) -> TensorDict:
    """Stand in for the function that tensordict's newer versions write into their pickles."""
    made = TensorDict()
    vars(made).update(fields)
    return made


_TENSOR_DICT_NAMES = {
    "tensordict.tensordict.TensorDict": TensorDict,  # 0.2 and before, which wrote MT30's data
    "tensordict.utils._StringOnlyDict": _PlainDict,
    "tensordict._td.TensorDict": TensorDict,
    "tensordict._reductions._make_td": _make_tensor_dict,
}


def load_pickled(path: Path, trust: bool, is_mapped: bool = False) -> Any:
    """Return what torch saved in a file, on the CPU; tensors read when used if `is_mapped`.

    Raises ValueError naming a file that is damaged, that torch did not write, or that needs more
    than tensors and is not to be trusted. The checksums of what is read later are the caller's.
    """
    names = _needed_names(path)
    stand_ins = {name: _stand_in(name) for name in names if _stand_in(name)}
    more = sorted(set(names) - set(stand_ins))
    if more and not trust:
        raise ValueError(
            f"{path} is refused: it needs more than tensors ({', '.join(more)}), and loading that "
            "may run code of whoever wrote the file; pass --trust where you trust them"
        )
    if not is_mapped:
        check_records(path)
    if more:
        return _load_trusted(path)
    try:
        with safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:  # damaged pickles fail in every way there is
        raise _unreadable(path, error) from error


def save_tensor_dict(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors [E, T, ...] as a TensorDict of batch size [E, T], as tensordict 0.2 pickled it.

    Every version of tensordict since reads that, and so does load_pickled.
    """
    fields = {
        "_tensordict": tensors,
        "_batch_size": next(iter(tensors.values())).shape[:2],
        **dict.fromkeys(("_device", "_td_dim_names")),
        **dict.fromkeys(("_is_shared", "_is_memmap", "_is_locked"), False),
        "_lock_id": set(),
        "_locked_tensordicts": [],
    }
    naming: Any = types.ModuleType("naming_pickle")  # torch takes a module
    naming.Pickler = _NamingPickler
    torch.save(_make_tensor_dict(TensorDict, fields), path, pickle_module=naming)


_PythonPickler: Any = vars(pickle)["_Pickler"]  # the one in C cannot be told a class's name


class _NamingPickler(_PythonPickler):
    """Pickle our stand-in under the name of the class that it stands in for."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is not TensorDict:
            super().save_global(obj, name)
            return
        self.write(pickle.GLOBAL + b"tensordict.tensordict\nTensorDict\n")
        self.memoize(obj)


def _stand_in(name: str) -> Any:
    if name.rpartition(".")[2] == _STATISTICS:
        return RunningMeanStd
    return _TENSOR_DICT_NAMES.get(name)


def _needed_names(path: Path) -> list[str]:
    """List the classes and functions that a file needs beyond tensors; nothing is run."""
    with open(path, "rb") as file:  # absent, or not ours to read: it says so itself
        start = file.read(_START_BYTES)
    if _OLD_NUMBER in start:
        raise ValueError(
            f"{path} is in torch's format from before 1.6; save it again with a newer torch"
        )
    if start.startswith(_ZIP_START) and not zipfile.is_zipfile(path):
        raise _unreadable(path, "its end is missing")
    try:
        return get_unsafe_globals_in_checkpoint(str(path))
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        # A page or a Git LFS pointer in its place says what went wrong.
        begin = f"begins with {start!r}" if start else "is empty"
        raise ValueError(
            f"{path} is not a readable file of torch: torch did not write it, it {begin}"
        ) from error
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
        raise ValueError(f"{path} needs a package that is not installed: {error}") from error
    except Exception as error:  # whatever the file's own code raises
        raise _unreadable(path, error) from error


class _TrustingUnpickler(pickle.Unpickler):
    """Import what the file names, but what has a stand-in, whose package need not be here."""

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(f"{module}.{name}") or super().find_class(module, name)


def _unreadable(path: Path, error: Exception | str) -> ValueError:
    reason = first_line(error)
    return ValueError(f"{path} is not a readable file of torch, or is cut short: {reason[:200]}")
