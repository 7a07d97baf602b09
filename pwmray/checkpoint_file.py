"""The container of our checkpoints: one line, then torch's own format.

The line is the format, a name with a version, and the SHA-256 of what follows. What follows is
tensors and plain data, so that a file is loaded without trusting it.
"""

import contextlib
import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pwmray.files import outlasting_stale, replacing
from pwmray.formats import OtherCodeError, explain_format, is_same_kind

_OLDER = "an older pwmray wrote it, whose files this one does not read"
_MAX_REASON = 500  # characters; of large models torch lists hundreds of keys
_MAX_HEADER = 200  # bytes; a file of another kind may have no line end for gigabytes


class Header(NamedTuple):
    """The first line: the format and the SHA-256 of the content, in hex."""

    format: str
    digest: str


def write(path: Path, format: str, content: dict[str, Any]) -> None:
    """Write tensors and plain data whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    with replacing(path) as draft, open(draft, "wb") as file:
        file.write(f"{format} {digest}\n".encode())
        file.write(buffer.getbuffer())


def read(
    path: Path, format: str, device: torch.device, expected: str | None = None
) -> dict[str, Any]:
    """Return the content, its digest checked.

    Raises ValueError for a file of another format, of a newer version, or damaged, and for one
    whose digest is not the `expected` one.
    """
    return read_with_digest(path, format, device, expected)[0]


@outlasting_stale
def read_with_digest(
    path: Path, format: str, device: torch.device, expected: str | None = None
) -> tuple[dict[str, Any], str]:
    """Return what `read` returns and its digest, of one look at a file that may be replaced."""
    with open(path, "rb") as file:
        header = _parse(file.readline(_MAX_HEADER))
        content = file.read()
    check_format(path, header.format, format)
    if expected not in (None, header.digest):
        raise ValueError(f"{path} changed since it was first looked at")
    if hashlib.sha256(content).hexdigest() != header.digest:
        raise ValueError(f"{path} is not a readable checkpoint: its content is damaged")
    try:
        loaded = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a readable checkpoint: it holds more than data") from error
    return loaded, header.digest


@outlasting_stale
def read_header(path: Path) -> Header:
    """Return the first line of any file; its format means nothing where the file is not ours."""
    with open(path, "rb") as file:
        return _parse(file.readline(_MAX_HEADER))


def check_format(path: Path, found: str, expected: str) -> None:
    """Raise ValueError unless the format found is the one expected."""
    if found == expected:
        return
    is_ours = is_same_kind(found, expected)
    problem = explain_format(found, expected, _OLDER if is_ours else "")
    kind = OtherCodeError if is_ours else ValueError
    raise kind(f"{path} is not a readable checkpoint: {problem}")


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raise OtherCodeError, naming the file, where modules or optimizers refuse a state from it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch lists every key and shape that differs
        reason = " ".join(str(error).split())
        raise OtherCodeError(
            f"{path} does not fit the model that the code builds now: {reason[:_MAX_REASON]}"
        ) from error


def is_of(header: Header, format: str) -> bool:
    """Tell whether a file is of this format in whatever version."""
    return is_same_kind(header.format, format)


def _parse(line: bytes) -> Header:
    found, _, digest = line.decode(errors="replace").strip().partition(" ")
    return Header(found, digest)
