"""The open connection to a libvirt host, and the translation of libvirt's errors into messages with
a hint.
"""

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
"""libvirtd works on this many calls of one connection at a time (max_client_requests in
libvirtd.conf). It queues further calls.
"""
INTERRUPT_TIMEOUT = 5
"""Seconds that running calls get to end after Ctrl-C."""
SSH_OPTIONS = ("ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
"""With these, ssh notices after 15 s that a host does not answer any more. By default it would wait
for ever.
"""

T = TypeVar("T")


class Host:
    """A libvirt host with an open connection. Several threads may use it at the same time."""

    def __init__(self, ref: HostRef, connection: libvirt.virConnect) -> None:
        self.ref = ref
        self.connection = connection

    @property
    def name(self) -> str:
        return self.ref.name

    @functools.cached_property
    def processors(self) -> int:
        """The number of the host's processors. It limits how many VMs should start at the same
        time. Raises HostError.
        """
        with translated(f"the processors of {self.name} could not be counted"):
            return int(self.connection.getInfo()[2])

    @functools.cached_property
    def shell(self) -> Shell:
        """Runs commands on the host itself. Raises HostError if vcloud cannot log in to the host."""
        # paramiko takes 0.4 s to import, and few commands need it.
        from vcloud.hosts.shell import open_shell

        return open_shell(self.ref)

    def close(self) -> None:
        if "shell" in self.__dict__:
            self.shell.close()
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_host(ref: HostRef) -> Host:
    """Connects to a host. Ctrl-C ends an attempt that hangs.

    Raises:
        HostError: the host does not answer, or refuses the connection. The hint says what to do.
    """
    # By default libvirt prints every error on stderr, also those that vcloud handles.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        return Host(ref, interruptible(lambda: _open(ref)))
    except libvirt.libvirtError as error:
        raise explain_refusal(ref, str(error)) from None


def _open(ref: HostRef) -> libvirt.virConnect:
    """Opens the libvirt connection. For ssh, libvirt starts a wrapper script, which adds the
    options that a URI cannot carry.
    """
    parts = urlsplit(ref.uri)
    if not parts.scheme.endswith("+ssh"):
        return libvirt.open(ref.uri)
    query = dict(parse_qsl(parts.query))
    with tempfile.TemporaryDirectory(prefix="vcloud-") as folder:
        wrapper = Path(folder, "ssh")
        wrapper.write_text(
            _ssh_wrapper(
                query.get("command", "ssh"), ref.ssh_config if "command" not in query else None
            )
        )
        wrapper.chmod(0o700)
        return libvirt.open(
            parts._replace(query=urlencode(query | {"command": str(wrapper)}, safe="/")).geturl()
        )


def _ssh_wrapper(program: str, config: Path | None) -> str:
    """The text of the script that libvirt starts instead of ssh.

    The script ignores Ctrl-C. The terminal sends Ctrl-C to all its programs, and vcloud still needs
    the connection to clean up.
    """
    argv = [
        program,
        *(("-F", str(config)) if config else ()),
        *(f"-o{option}" for option in SSH_OPTIONS),
    ]
    return f"#!/bin/sh\ntrap '' INT\nexec {shlex.join(argv)} \"$@\"\n"


def run_parallel(tasks: Sequence[Callable[[], T]], limit: int = MAX_CALLS) -> list[T]:
    """Runs tasks in threads, `limit` at a time, and returns their results in the order of the
    tasks.

    After the first error no further task starts. The error is raised when the running tasks have
    ended. Ctrl-C is handled at once: the running tasks get `INTERRUPT_TIMEOUT` seconds to end.
    """
    pool = ThreadPoolExecutor(limit)
    futures = [pool.submit(task) for task in tasks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=INTERRUPT_TIMEOUT)
        raise
    failed = [
        error for future in futures if not future.cancelled() and (error := future.exception())
    ]
    if failed:
        raise failed[0]
    return [future.result() for future in futures]


def interruptible(call: Callable[[], T]) -> T:
    """Makes one libvirt call in a thread of its own. Ctrl-C is then handled although the call
    blocks in C code.
    """
    return run_parallel([call])[0]


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns libvirt's errors into `HostError("WHAT: libvirt's message")`."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise HostError(f"{what}: {message_of(error)}", _hint_for(error)) from error


def message_of(error: libvirt.libvirtError) -> str:
    """libvirt's message on one line, without the general prefixes that libvirt puts before it."""
    return (
        " ".join(str(error.get_error_message() or error).split())
        .removeprefix("operation failed: ")
        .removeprefix("internal error: ")
    )


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
    """The result of a libvirt call, or None if the object that the call is about does not exist, or
    no longer exists.
    """
    try:
        return lookup(*key)
    except libvirt.libvirtError as error:
        if is_absent(error):
            return None
        raise


def _hint_for(error: libvirt.libvirtError) -> str:
    text = str(error)
    if "No space left" in text:
        return "Free some space on the host, then run the command again."
    if (
        error.get_error_code() == libvirt.VIR_ERR_RPC
        or "socket is closed" in text
        or "End of file" in text
        or "Broken pipe" in text
    ):
        return "The connection broke. Check that the host and its libvirtd run. Then run the command again: it continues from here."
    if error.get_error_code() == libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
        return "A libvirt hook on the host refused it. The message shows the hook's reason."
    return ""
