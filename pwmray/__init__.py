"""Compare world models and policies for model-based reinforcement learning fairly."""

import sys
import time
from types import TracebackType

__version__ = "0.1.0"

STARTED_AT = time.monotonic()  # when this process started: it imports this package first

_print_error = sys.excepthook


def _say_interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say in a word that Ctrl-C came while a program was still importing; all else as before.

    Every command imports this package before any that takes long; later `run_command` sees to it.
    """
    is_importing = False  # without the module traceback: to import it here changes the exit code
    here = trace
    while here is not None:
        code, module = here.tb_frame.f_code, here.tb_frame.f_globals.get("__name__")
        is_importing |= code.co_filename.startswith("<frozen importlib")
        # Python leaves these out where the code of a module was interrupted.
        is_importing |= code.co_name == "<module>" and module != "__main__"
        here = here.tb_next
    if kind is KeyboardInterrupt and is_importing:
        print("interrupted", file=sys.stderr)
    else:
        _print_error(kind, error, trace)


sys.excepthook = _say_interrupted
