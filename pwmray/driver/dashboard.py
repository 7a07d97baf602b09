"""Ray's dashboard of a sweep's own Ray: who may look, and what a person is told of it.

Whoever has the token may run code as you. Ray would keep one for all clusters in a file that others
on the machine can read, so each process here makes its own.
"""

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from pathlib import Path

# Whoever has set one of these has settled the matter.
_SETTLED = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def close_to_others() -> Path | None:
    """Have the Ray that this process starts ask for a token that only this user can read.

    Returns the token's file, which lasts as long as the process; None where the user's environment
    says how Ray is to be entered.
    """
    if _own_token.cache_info().currsize == 0 and any(name in os.environ for name in _SETTLED):
        return None
    path = _own_token()
    os.environ[_TOKEN_PATH] = str(path)

    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()  # it may hold one of an earlier Ray
    return path


def describe(url: str, token: Path | None, is_terminal: bool) -> str:
    """Return the lines that say where the dashboard is and how to get in.

    A token is shown on a terminal only: what is written to a file may be read by others.
    """
    lines = [f"Ray dashboard: http://{url}"]
    if token is not None:
        said = token.read_text() if is_terminal else f"see {token}, which only you can read"
        lines.append(f"its access token, which the page asks for: {said}")
    return "\n".join(lines)


@functools.cache
def _own_token() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pwmray-token-"))  # for this user only
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path
