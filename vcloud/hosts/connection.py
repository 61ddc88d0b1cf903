"""An open connection to a libvirt host, and libvirt's errors as sentences with a way out."""

from __future__ import annotations

import contextlib
import functools
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import libvirt

from vcloud.errors import HostError
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.refusals import explain_refusal

if TYPE_CHECKING:
    from vcloud.hosts.shell import Shell

MAX_CALLS = 5
"""Calls that libvirtd works on at a time for one connection (its max_client_requests); more only queue."""
GRACE = 5
"""Seconds that running calls get to end after Ctrl-C."""
SSH_OPTIONS = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""A host that vanishes is noticed after 15 s, instead of never."""

T = TypeVar("T")


class Host:
    """A libvirt host with an open connection. Several threads may use it at once."""

    def __init__(self, ref: HostRef, connection: libvirt.virConnect) -> None:
        self.ref = ref
        self.connection = connection

    @property
    def name(self) -> str:
        return self.ref.name

    @functools.cached_property
    def processors(self) -> int:
        """How many it has, which bounds what is worth doing side by side. Raises HostError."""
        with translated(f"the processors of {self.name} could not be counted"):
            return int(self.connection.getInfo()[2])

    @functools.cached_property
    def shell(self) -> Shell:
        """Runs commands on the host itself. Raises HostError when the host cannot be logged in to."""
        from vcloud.hosts.shell import open_shell  # paramiko takes 0.4 s to import, and few commands need it

        return open_shell(self.ref)

    def close(self) -> None:
        if "shell" in self.__dict__:
            self.shell.close()
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_host(ref: HostRef) -> Host:
    """Connects to a host. Ctrl-C ends a connection attempt that hangs.

    Raises:
        HostError: nobody answers, or not to us; the hint says what to do about it.
    """
    libvirt.registerErrorHandler(lambda *_: None, None)  # or libvirt prints every error on stderr, also those that are handled
    try:
        return Host(ref, interruptible(lambda: _open(ref)))
    except libvirt.libvirtError as error:
        raise explain_refusal(ref, str(error)) from None


def _open(ref: HostRef) -> libvirt.virConnect:
    parts = urlsplit(ref.uri)
    if not parts.scheme.endswith("+ssh"):
        return libvirt.open(ref.uri)
    query = dict(parse_qsl(parts.query))
    with tempfile.TemporaryDirectory(prefix="vcloud-") as folder:
        wrapper = Path(folder, "ssh")
        wrapper.write_text(_ssh_wrapper(query.get("command", "ssh"), ref.ssh_config if "command" not in query else None))
        wrapper.chmod(0o700)
        return libvirt.open(parts._replace(query=urlencode(query | {"command": str(wrapper)}, safe="/")).geturl())


def _ssh_wrapper(program: str, config: Path | None) -> str:
    """The program that libvirt starts as ssh.

    It ignores Ctrl-C, which reaches all programs of the terminal: the connection is still needed to clean up.
    """
    argv = [program, *(("-F", str(config)) if config else ()), *(f"-o{option}" for option in SSH_OPTIONS)]
    return f"#!/bin/sh\ntrap '' INT\nexec {shlex.join(argv)} \"$@\"\n"


def run_parallel(tasks: Sequence[Callable[[], T]], limit: int = MAX_CALLS) -> list[T]:
    """Runs tasks in threads, `limit` at a time, and returns their results in the order of the tasks. Ctrl-C is heard meanwhile.

    After the first error nothing more is begun, what runs is awaited, and the error is raised. After Ctrl-C what runs is awaited
    for `GRACE` seconds.
    """
    pool = ThreadPoolExecutor(limit)
    futures = [pool.submit(task) for task in tasks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=GRACE)
        raise
    failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
    if failed:
        raise failed[0]
    return [future.result() for future in futures]


def interruptible(call: Callable[[], T]) -> T:
    """One call of libvirt in a thread of its own, so that Ctrl-C is heard while C code blocks."""
    return run_parallel([call])[0]


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns libvirt's errors into `HostError("what: libvirt's words")`."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise HostError(f"{what}: {message_of(error)}", _way_out(error)) from error


def message_of(error: libvirt.libvirtError) -> str:
    """libvirt's own words on one line, without the general part that it puts before them."""
    return " ".join(str(error.get_error_message() or error).split()).removeprefix("operation failed: ").removeprefix("internal error: ")


def is_absent(error: libvirt.libvirtError) -> bool:
    """Whether the error says that the object does not exist."""
    return error.get_error_code() in {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_NWFILTER,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }


def found_or_none(lookup: Callable[..., Any], *key: object) -> Any:
    """What a call of libvirt gives, or None where what it asks for is not there, or is gone."""
    try:
        return lookup(*key)
    except libvirt.libvirtError as error:
        if is_absent(error):
            return None
        raise


def _way_out(error: libvirt.libvirtError) -> str:
    text = str(error)
    if "No space left" in text:
        return "Free some space on the host, then run the command again."
    if error.get_error_code() == libvirt.VIR_ERR_RPC or "socket is closed" in text or "End of file" in text or "Broken pipe" in text:
        return "The connection broke. See whether the host and its libvirtd are up, then run the command again: it goes on from here."
    if error.get_error_code() == libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
        return "A hook on the host refused it; its reason is in the message."
    return ""
