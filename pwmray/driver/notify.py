"""Tell a webhook when a sweep ends and when its failures pile up, never at the sweep's expense.

The address is read from PWMRAY_WEBHOOK and there is no option for it: a webhook's path is a secret,
and a sweep's command line is kept in its folder. Nothing here prints more of it than the host.
"""

import contextlib
import ipaddress
import json
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pwmray.wording import number_of, one_line

VARIABLE = "PWMRAY_WEBHOOK"
_FIRST_FAILURES = 3  # that are worth a word; then each time they have doubled
_ANSWER_SECONDS = 10.0
_CLOSE_SECONDS = 15.0  # that the sweep's end may wait for an answer

log = logging.getLogger(__name__)


class Notices:
    """What is told of one sweep; without an address nothing is."""

    def __init__(self, sweep: str, url: str | None):
        self._sweep = sweep
        self._url = url
        self._num_failures, self._next = 0, _FIRST_FAILURES
        self._sent: list[threading.Thread] = []

    def failures(self, number: int, reason: str, line: str) -> None:
        """So many trials stand as failed, the newest for `reason`; `line` tells of the sweep."""
        if number < self._next:
            return
        while self._next <= number:
            self._next *= 2
        text = f"{self._sweep}: {number_of(number, 'trial')} failed, the last: {reason}. {line}"
        self._send({"event": "failures", "text": text, "failed": number})

    def failure(self, reason: str, line: str) -> None:
        """One more trial failed; for who does not count them."""
        self._num_failures += 1
        self.failures(self._num_failures, reason, line)

    def end(self, done: int, failed: int, left: int) -> None:
        """The sweep's driver ended by itself; wait a moment for the words to get out."""
        text = f"{self._sweep} ended: {done} done, {failed} failed, {left} not run"
        self._send({"event": "end", "text": text, "done": done, "failed": failed, "left": left})
        self._wait()

    @contextlib.contextmanager
    def telling_of_an_error(self) -> Iterator[None]:
        """Tell of the error that the sweep's driver dies of, if it does: that is its end, too."""
        try:
            yield
        except Exception as error:
            said = one_line(error)
            text = f"{self._sweep} ended with an error: {said}"
            self._send({"event": "end", "text": text, "error": said})
            self._wait()
            raise

    def _wait(self) -> None:
        """Give the words a moment to get out."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in self._sent:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _send(self, fields: Mapping[str, Any]) -> None:
        if self._url is None:
            return
        where = {"host": socket.gethostname(), "slurm_job_id": os.environ.get("SLURM_JOB_ID")}
        message = {"sweep": self._sweep, **fields, **where}
        # In a thread of its own, which ends with the process: an answer may take its time.
        thread = threading.Thread(target=_post, args=(self._url, message), daemon=True)
        thread.start()
        self._sent.append(thread)


def from_environment(sweep: str) -> Notices:
    """Return the notices of a sweep by PWMRAY_WEBHOOK.

    Raises ValueError, without the address, for one that is neither https nor on this machine.
    """
    url = os.environ.get(VARIABLE)
    if url:
        _check(url)
    return Notices(sweep, url or None)


def _check(url: str) -> None:
    valid = f"{VARIABLE} must be https://HOST/..., or http:// to this machine itself (loopback)"
    try:
        parts = urlsplit(url)
        is_valid = _is_safe(parts) and not any(c.isspace() or not c.isprintable() for c in url)
    except ValueError as error:
        raise ValueError(f"{valid}; its value cannot be read as an address") from error
    if not is_valid:
        raise ValueError(f"{valid}; its scheme is {parts.scheme!r}, its host {parts.hostname!r}")


def _is_safe(parts: SplitResult) -> bool:
    if not parts.hostname or parts.username is not None or (parts.port or 1) < 1:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow nobody to an address that was not checked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(url: str, message: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if urlsplit(url).scheme == "http":  # of this machine, which no proxy reaches
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        opener = urllib.request.build_opener(*handlers)
        opener.open(request, timeout=_ANSWER_SECONDS).close()
    except Exception as error:  # whatever it is, the sweep goes on
        log.warning("webhook=%s not told: %s", urlsplit(url).hostname, _describe(error))


def _describe(error: Exception) -> str:
    """Return what went wrong without the address, which an error's own words may have."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return type(cause).__name__
