"""The open connection to a libvirt host, and the translation of libvirt's errors into messages with
a hint.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import libvirt

from vcloud.errors import HostError, HostRefusedError
from vcloud.hosts.clock import Clock
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.local_socket import closed_socket, way_out
from vcloud.hosts.patience import patience
from vcloud.hosts.refusals import explain_refusal

if TYPE_CHECKING:
    from vcloud.hosts.operator_key import Operator
    from vcloud.hosts.shell import Shell

MAX_CALLS = 5
"""libvirtd works on this many calls of one connection at a time (max_client_requests in
libvirtd.conf). It queues further calls.
"""
INTERRUPT_TIMEOUT = 5
"""Seconds that running calls get to end after Ctrl-C."""
CONNECT_SECONDS, ALIVE_SECONDS, ALIVE_INTERVAL = 10, 15, 5
"""ssh notices after so many seconds that a host does not answer at first, or does not answer any more;
it asks once in each interval. By default it would wait for ever.
"""

T = TypeVar("T")
U = TypeVar("U")


class Host:
    """A libvirt host with an open connection. Several threads may use it at the same time."""

    def __init__(self, ref: HostRef, connection: libvirt.virConnect) -> None:
        self.ref = ref
        self.opened = connection
        """The connection without the question of `require_lock`, for what handles locks."""
        self._require: Callable[[], None] = lambda: None

    @property
    def connection(self) -> libvirt.virConnect:
        """The connection, for every other call. Raises what `require_lock` raises."""
        self.require_lock()
        return self.opened

    def require_lock(self) -> None:
        """Raises LostLockError if this process works under the lock of a vApp and has lost it.

        `connection` asks this itself. A function that makes a change after a call that may have
        taken long asks once more.
        """
        self._require()

    @contextlib.contextmanager
    def under(self, require: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `require` answers for `require_lock`."""
        before, self._require = self._require, require
        try:
            yield
        finally:
            self._require = before

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
    def versions(self) -> str:
        """The versions of libvirt, QEMU and the kernel of the host, as one text. Raises HostError.

        A memory image and the stored result of a KVM test boot are only valid for the versions that
        they were made with.
        """
        # libvirt does not tell which kernel the host runs.
        release = self.shell.run(["uname", "-r"])
        if release.code != 0:
            raise HostError(
                f"the kernel's version on {self.name} cannot be read: {release.stderr.decode(errors='replace').strip()}"
            )
        with translated(f"the versions of {self.name} could not be read"):
            return f"libvirt {self.connection.getLibVersion()} qemu {self.connection.getVersion()} linux {release.stdout.decode().strip()}"

    @functools.cached_property
    def operator(self) -> Operator | None:
        """Who signs terms of tenancy on this host; None: nobody does. Raises UsageError."""
        from vcloud.hosts.operator_key import key_file, load_operator

        path = key_file(self.ref)
        return None if path is None else load_operator(path)

    @functools.cached_property
    def is_signed_on(self) -> bool:
        """Whether a key of the operator's is given, which may be of no use."""
        from vcloud.hosts.operator_key import key_file

        return key_file(self.ref) is not None

    @functools.cached_property
    def clock(self) -> Clock:
        return Clock(self)

    @functools.cached_property
    def shell(self) -> Shell:
        """Runs commands on the host itself. Raises HostError if vcloud cannot log in to the host."""
        from vcloud.hosts.shell import open_shell

        return open_shell(self.ref)

    def close(self) -> None:
        # A cached_property is in __dict__ once it was used. Without this look, closing a host would
        # first log in to it.
        if "shell" in self.__dict__:
            self.shell.close()
        with contextlib.suppress(libvirt.libvirtError):
            self.opened.close()

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
    if urlsplit(ref.uri).path == "/session":
        raise HostError(
            f"{ref.uri} is the libvirt of one user, which cannot make the networks of a vApp",
            f"Use {ref.uri.replace('/session', '/system')}, which users of the group libvirt may open. If you did not write this URI, LIBVIRT_DEFAULT_URI holds it.",
        )
    # By default libvirt prints every error on stderr, also those that vcloud handles.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        return Host(ref, interruptible(lambda: _open(ref)))
    except libvirt.libvirtError as error:
        if closed := closed_socket(ref.uri):
            what = f"libvirt on {ref.name} does not allow you to connect"
            raise HostError(what, way_out(closed)) from None
        raise explain_refusal(ref, str(error)) from None


def _open(ref: HostRef) -> libvirt.virConnect:
    """Opens the libvirt connection. For ssh, libvirt starts a wrapper script, which adds the
    options that a URI cannot carry.
    """
    parts = urlsplit(ref.uri)
    if not parts.scheme.endswith("+ssh"):
        return libvirt.open(ref.uri)
    query = dict(parse_qsl(parts.query))
    # libvirt starts the wrapper once, while it connects. So the folder may disappear afterwards.
    with tempfile.TemporaryDirectory(prefix="vcloud-") as folder:
        wrapper = Path(folder, "ssh")
        wrapper.write_text(
            # A `command` in the URI, such as that of a lab, is a program that has its own
            # configuration.
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
        # ssh takes the first value that it meets: whatever the user's configuration says, nobody is
        # trusted on first use, and nobody is asked.
        "-oStrictHostKeyChecking=yes",
        f"-oConnectTimeout={patience(CONNECT_SECONDS)}",
        f"-oServerAliveInterval={ALIVE_INTERVAL}",
        f"-oServerAliveCountMax={patience(ALIVE_SECONDS) // ALIVE_INTERVAL}",
    ]
    return f"#!/bin/sh\ntrap '' INT\nexec {shlex.join(argv)} \"$@\"\n"


def run_parallel(tasks: Sequence[Callable[[], T]], limit: int = MAX_CALLS) -> list[T]:
    """Runs tasks in threads, `limit` at a time, and returns their results in the order of the
    tasks.

    After the first error no further task starts. The error is raised when the running tasks have
    ended. Ctrl-C is handled at once: the running tasks get `INTERRUPT_TIMEOUT` seconds to end.
    """
    failing = threading.Event()

    def run(task: Callable[[], T]) -> T:
        # A thread of the pool takes its next task before this function can cancel it.
        if failing.is_set():
            raise CancelledError
        try:
            return task()
        except BaseException:
            failing.set()
            raise

    pool = ThreadPoolExecutor(limit)
    futures = [pool.submit(run, task) for task in tasks]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=INTERRUPT_TIMEOUT)
        raise
    failed = [
        # `exception` of a task that was cancelled would itself raise an error.
        error
        for future in futures
        if not future.cancelled() and (error := future.exception())
    ]
    if failed:
        raise failed[0]  # tasks begin in their order, so this is no CancelledError
    return [future.result() for future in futures]


def run_both(one: Callable[[], T], other: Callable[[], U]) -> tuple[T, U]:
    """Runs two tasks of different kinds as `run_parallel` does."""
    first: list[T] = []
    second: list[U] = []
    run_parallel([lambda: first.append(one()), lambda: second.append(other())])
    return first[0], second[0]


def interruptible(call: Callable[[], T]) -> T:
    """Makes one libvirt call in a thread of its own. Ctrl-C is then handled although the call
    blocks in C code.
    """
    return run_parallel([call])[0]


HOOK_SAYS = "vcloud: "
"""How the words of the host's hook begin (`vcloud.enforce.qemu_hook`)."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns libvirt's errors into `HostError("WHAT: libvirt's message")`. Where the host's own hook has
    refused a VM, it is a HostRefusedError with the hook's words.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        if refused := said_by_hook(error):
            raise HostRefusedError(f"{what}: {refused}") from error
        raise HostError(f"{what}: {message_of(error)}", _hint_for(error)) from error


def message_of(error: libvirt.libvirtError) -> str:
    """libvirt's message on one line, without the general prefixes that libvirt puts before it."""
    return (
        " ".join(str(error.get_error_message() or error).split())
        .removeprefix("operation failed: ")
        .removeprefix("internal error: ")
    )


def said_by_hook(error: libvirt.libvirtError) -> str:
    """Why the host's hook has refused to start a VM; empty where it has not. Its words are the end of
    libvirt's message.
    """
    if error.get_error_code() != libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
        return ""
    return message_of(error).partition(HOOK_SAYS)[2]


def is_absent(error: libvirt.libvirtError) -> bool:
    """Whether the error says that the object does not exist."""
    return error.get_error_code() in {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_NWFILTER,
        libvirt.VIR_ERR_NO_NWFILTER_BINDING,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }


def found_or_none(lookup: Callable[..., T], *key: object) -> T | None:
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
    # libvirt reports some broken connections with a general code. Then the part of libvirt tells
    # from which the error comes: an "End of file" of QEMU's monitor means that a VM has ended.
    if (
        error.get_error_code() == libvirt.VIR_ERR_RPC
        or error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        or "socket is closed" in text
    ):
        return "The connection broke. Check that the host and its libvirtd run. Then run the command again: it continues from here."
    if error.get_error_code() == libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
        return "A libvirt hook on the host refused it. The message shows the hook's reason."
    return ""
