"""The QEMU guest agent of a VM: runs commands, reads files and writes files, without a network.

While the guest has not opened the agent's port, libvirt answers at once that the agent is not
connected. So it is cheap to ask again and again until the agent answers. libvirt handles one agent
command of a domain at a time. Commands for different domains run in parallel.

An attacker may control the guest, and so its agent. An answer that no real agent would give raises
GuestError, like any other failure of a guest. The protocol reference of QEMU's guest agent
(qemu-ga) defines the answers.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import libvirt
import libvirt_qemu

from vcloud.design.names import path_of
from vcloud.errors import GuestError
from vcloud.hosts.connection import message_of
from vcloud.hosts.executed import Executed
from vcloud.hosts.patience import BOOT_VARIABLE, LONGEST_BOOT, boot_timeout
from vcloud.untrusted import UnreadableError, as_number, encoded, flag, member, number, parse_json

POLL = 0.1
"""Seconds between two attempts to reach an agent."""
PING_TIMEOUT = 5
"""Seconds that an agent which may not be there gets for an answer."""
COMMAND_TIMEOUT = 30
"""Seconds that the agent gets for one answer. The agent itself only starts programs and reports on
them, but a busy guest without KVM is slow.
"""
FIRST_PAUSE, USUAL_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.015, 0.15, 2.0, 1.5
"""Seconds before each question whether a program has ended: the first pause, the longest one for a
program of seconds, the longest one for any, and the factor by which the pause grows.

An answer takes 4 ms of the processor of an emulated guest. The program itself then lacks this time.
"""
LATE_BY = 0.05
"""Part of the time that a program has taken by which its end may be noticed late. Many agents log
each question, so that a program of minutes would fill the guest's journal.
"""
WRITE_SIZE = 64 << 10
"""Bytes of content in one message to the agent. With libvirt 9.0, a message of more than 200 KiB
never arrives.
"""
READ_SIZE = 1 << 20
"""Bytes of content in one message from the agent. libvirt accepts messages of 4 MiB. After a
message of 10 MiB it stops using the agent.
"""
FILE_LIMIT = 32 << 20
"""Bytes that are read of one file at most. Without a limit, a hostile guest could send a file that
never ends.
"""
MOST_PARTS = 2 * FILE_LIMIT // READ_SIZE
"""Messages in which a file arrives at most. A real agent sends less than `READ_SIZE` only at the
end of a file.
"""
FILE_TIMEOUT = 300
"""Seconds in which a file of `FILE_LIMIT` bytes, or all of a program's input, must have passed. A
hostile agent could answer each message just in time, and so for days.
"""
ROOT_SHELL = "umask 022; export HOME=/root"
"""What a shell of root begins with. The agent of vcloud's images has the umask 0077, as QEMU gives
it to each daemon, and no HOME.
"""
RUN_WITH_FILE_AS_STDIN = 'exec 0<"$1" && shift && exec "$@"'
RUN_WITH_FILES_AS_OUTPUT = f'{ROOT_SHELL}; exec 1>"$1/out" 2>"$1/err" && shift && exec "$@"'
# umask 077: until `chmod`, only root may read the new file. `mv` replaces the old file in one step.
# Another run may write the same file at the same time, so the new file has a name of its own.
REPLACE_FILE = (
    'umask 077 && new="$1.new.$$" && cat >"$new" && chmod "$2" "$new" && mv "$new" "$1" && exit\n'
    'code=$?; rm -f "$new"; exit "$code"'
)
KILL = 'kill -9 "$1"'
"""Shell commands that run in the guest. They get their values as arguments, never as a part of the
command text: a path with a space or a quote cannot become a command.
"""
NOT_RUNNING = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}
"""libvirt's errors for a domain that does not run."""
NO_ANSWER = {
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    getattr(libvirt, "VIR_ERR_AGENT_COMMAND_TIMEOUT", None),
}
"""libvirt's errors for an agent that does not answer. Old versions of libvirt-python lack the
second name.
"""
NOT_SENT_MESSAGES = ("is not connected", "not available", "respond to synchronization")
"""Parts of libvirt's messages for a command that libvirt could not send."""

T = TypeVar("T")


class AgentSilentError(GuestError):
    """The agent does not answer at the moment. It may answer later."""


class NotSentError(AgentSilentError):
    """The agent did not receive the command, so it is safe to send it again."""


class Agent:
    """The guest agent of one domain. `require_lock` is called before each message to it
    (`Host.require_lock`).
    """

    def __init__(
        self, domain: libvirt.virDomain, require_lock: Callable[[], None] = lambda: None
    ) -> None:
        self._domain = domain
        self._require_lock = require_lock
        self.name = str(domain.name())

    def wait(self, timeout: float) -> None:
        """Waits at most `timeout` seconds until the agent answers.

        Raises:
            GuestError: the agent does not answer in time, or the VM has stopped.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                # libvirt counts whole seconds, and 0 would mean not to wait for the answer. At most
                # 5, so that the deadline is looked at again.
                self._command("guest-ping", None, _nothing, timeout=max(1, min(5, int(timeout))))
            except AgentSilentError:
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"the guest agent of '{self.name}' does not answer after {timeout:g} s",
                        f"See how far the VM has booted: vcloud logs {path_of(self.name)}. A slow host needs longer: {BOOT_VARIABLE}={min(2 * boot_timeout(), LONGEST_BOOT)}.",
                    ) from None
                time.sleep(POLL)
            else:
                return

    def ask_once(self) -> None:
        """Raises GuestError if the agent does not answer now."""
        self._command("guest-ping", None, _nothing, timeout=PING_TIMEOUT)

    def execute(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        """Runs a program in the guest as root, without a shell, and waits until it has ended.

        Args:
            argv: the program and its arguments. A program without `/` is searched on the agent's
                PATH.
            stdin: all of its standard input.
            timeout: seconds. A program that takes longer is killed. Input of more than 64 KiB gets
                time of its own before.

        Raises:
            GuestError: the program does not exist, takes too long, or writes more than 2 MiB of
                output (then use `execute_at_length`). An exit code other than 0 is no error.
        """
        if len(stdin) <= WRITE_SIZE:
            return self._run(argv, stdin, timeout)
        with self._private_folder() as folder:
            self._put(f"{folder}/in", stdin)
            return self._run(
                ["/bin/sh", "-c", RUN_WITH_FILE_AS_STDIN, "sh", f"{folder}/in", *argv], b"", timeout
            )

    def execute_at_length(
        self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60
    ) -> Executed:
        """Like `execute`, but the output may have any length. This is slower, because the output
        goes through files in the guest's memory.
        """
        with self._private_folder() as folder:
            done = self.execute(
                ["/bin/sh", "-c", RUN_WITH_FILES_AS_OUTPUT, "sh", folder, *argv], stdin, timeout
            )
            return replace(
                done, stdout=self.read_file(f"{folder}/out"), stderr=self.read_file(f"{folder}/err")
            )

    def start(self, argv: Sequence[str]) -> int:
        """Starts a program in the guest and returns its process number without waiting for its end.

        Raises:
            GuestError: the program does not exist, or the agent does not answer.
        """
        return self._exec(argv, None, time.monotonic() + COMMAND_TIMEOUT)

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Replaces a file in one step: at any moment, a reader sees either the old content or the
        new content.

        Raises:
            GuestError: the guest cannot write the file.
        """
        done = self.execute(["/bin/sh", "-c", REPLACE_FILE, "sh", path, f"{mode:o}"], content)
        if done.code != 0:
            raise GuestError(
                f"'{path}' could not be written in '{self.name}': {done.stderr.decode(errors='replace').strip()}"
            )

    def read_file(self, path: str, timeout: float = FILE_TIMEOUT) -> bytes:
        """The content of a file in the guest.

        Raises:
            GuestError: the guest cannot read the file, the file has more than 32 MiB, or it has not
                arrived after `timeout` seconds.
        """
        content, deadline = bytearray(), time.monotonic() + timeout
        with self._opened(path, "r", deadline) as handle:
            for _ in range(MOST_PARTS):
                part, ended = self._command_when_connected(
                    "guest-file-read",
                    {"handle": handle, "count": READ_SIZE},
                    _part_of_file,
                    deadline,
                )
                content += part
                if len(content) > FILE_LIMIT:
                    raise GuestError(
                        f"'{path}' in '{self.name}' has more than {FILE_LIMIT >> 20} MiB"
                    )
                if ended:
                    return bytes(content)
                self._require_in_time(deadline, f"'{path}' did not arrive", timeout)
        raise GuestError(
            f"the guest agent of '{self.name}' sends '{path}' in too many parts",
            f"See its console: vcloud logs {path_of(self.name)}.",
        )

    def _put(self, path: str, content: bytes) -> None:
        """Writes a file through the agent.

        The agent creates files that everybody in the guest may read and write, so the folder must
        be private.
        """
        timeout = FILE_TIMEOUT * max(1, len(content) / FILE_LIMIT)
        deadline = time.monotonic() + timeout
        with self._opened(path, "w", deadline) as handle:
            for start in range(0, len(content), WRITE_SIZE):
                self._require_in_time(deadline, "the input was not taken", timeout)
                chunk = base64.b64encode(content[start : start + WRITE_SIZE]).decode()
                self._command_when_connected(
                    "guest-file-write", {"handle": handle, "buf-b64": chunk}, _nothing, deadline
                )

    def _require_in_time(self, deadline: float, what: str, timeout: float) -> None:
        if time.monotonic() > deadline:
            raise GuestError(
                f"{what} within {timeout:g} s by the guest agent of '{self.name}'",
                f"See its console: vcloud logs {path_of(self.name)}.",
            )

    @contextmanager
    def _private_folder(self) -> Iterator[str]:
        folder = f"/run/vcloud-{secrets.token_hex(8)}"
        made = self._run(["mkdir", "-m", "0700", folder], b"", COMMAND_TIMEOUT)
        if made.code != 0:
            raise GuestError(
                f"'{folder}' could not be made in '{self.name}': {made.stderr.decode(errors='replace').strip()}"
            )
        try:
            yield folder
        finally:
            with suppress(GuestError):
                # Nobody waits for its end: each question whether it has ended costs the guest some
                # time.
                self._try_to_start(["rm", "-rf", folder])

    @contextmanager
    def _opened(self, path: str, mode: str, deadline: float) -> Iterator[int]:
        handle = self._command_when_connected(
            "guest-file-open", {"path": path, "mode": mode}, as_number, deadline
        )
        try:
            yield handle
        except BaseException:
            with suppress(GuestError):
                self._command("guest-file-close", {"handle": handle}, _nothing)
            raise
        # Here an error counts: the agent buffers what it writes, and may see a full disk only now.
        self._command_when_connected("guest-file-close", {"handle": handle}, _nothing, deadline)

    def _run(self, argv: Sequence[str], stdin: bytes, timeout: float) -> Executed:
        deadline = time.monotonic() + timeout
        pid = self._exec(argv, stdin, deadline)
        try:
            return self._await_end(pid, argv[0], deadline, timeout)
        except BaseException:
            # Also after Ctrl-C: a program that nobody waits for must not run on in the guest.
            self._kill(pid)
            raise

    def _exec(self, argv: Sequence[str], stdin: bytes | None, deadline: float) -> int:
        arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:])}
        if stdin is not None:
            arguments |= {"input-data": base64.b64encode(stdin).decode(), "capture-output": True}
        return self._command_when_connected(
            "guest-exec", arguments, lambda answer: number(answer, "pid"), deadline
        )

    def _try_to_start(self, argv: Sequence[str]) -> None:
        """Like `start`, but in one attempt: nobody has to wait for what only cleans up."""
        self._exec(argv, None, time.monotonic())

    def _await_end(self, pid: int, program: str, deadline: float, timeout: float) -> Executed:
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            time.sleep(pause)
            pause = next_pause(pause, time.monotonic() - begun)
            # A busy agent does not answer. It keeps the result until vcloud asks again.
            with suppress(AgentSilentError):
                if done := self._command("guest-exec-status", {"pid": pid}, _executed):
                    return done
            if time.monotonic() > deadline:
                raise GuestError(
                    f"'{program}' in '{self.name}' did not end within {timeout:g} s",
                    f"Log in and look for the cause: vcloud ssh {path_of(self.name)}.",
                )

    def _kill(self, pid: int) -> None:
        with suppress(GuestError):
            self._try_to_start(["/bin/sh", "-c", KILL, "sh", str(pid)])

    def _command_when_connected(
        self,
        name: str,
        arguments: Mapping[str, object],
        read: Callable[[object], T],
        deadline: float,
    ) -> T:
        """Like `_command`, but tries again until the deadline if libvirt could not send it."""
        while True:
            try:
                return self._command(name, arguments, read)
            # No other error leads to a second attempt: no program runs twice, and no part of a file
            # is read or written twice.
            except NotSentError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)

    def _command(
        self,
        name: str,
        arguments: Mapping[str, object] | None,
        read: Callable[[object], T],
        *,
        timeout: int = COMMAND_TIMEOUT,
    ) -> T:
        """Sends a command and passes the answer to `read`, which raises UnreadableError if the
        answer has an unexpected form.
        """
        command: dict[str, object] = {"execute": name}
        if arguments:
            command["arguments"] = arguments
        self._require_lock()
        try:
            text = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(command), timeout, 0)
        except libvirt.libvirtError as error:
            raise self._guest_error(name, error) from None
        try:
            return read(member(parse_json(text), "return"))
        except UnreadableError as error:
            raise GuestError(
                f"the answer of the guest agent of '{self.name}' to {name} cannot be read: {error.what}",
                f"See its console: vcloud logs {path_of(self.name)}.",
            ) from None

    def _guest_error(self, name: str, error: libvirt.libvirtError) -> GuestError:
        text, code = message_of(error), error.get_error_code()
        if code in NOT_RUNNING:
            return GuestError(
                f"'{self.name}' is not running",
                f"See the end of its console: vcloud logs {path_of(self.name)}.",
            )
        # VIR_ERR_OPERATION_TIMEOUT ("cannot acquire state change lock"): another call held the
        # domain for too long. libvirt gave up before it spoke to the agent.
        if code == libvirt.VIR_ERR_OPERATION_TIMEOUT or any(
            mark in text for mark in NOT_SENT_MESSAGES
        ):
            return NotSentError(
                f"the guest agent of '{self.name}' has not started yet, or is busy: {text}"
            )
        if code in NO_ANSWER:
            return AgentSilentError(
                f"the guest agent of '{self.name}' does not answer: {text}",
                f"See its console: vcloud logs {path_of(self.name)}.",
            )
        # The answer has arrived on the host, but does not fit into one message from libvirtd to
        # vcloud.
        if "encode message payload" in text:
            return GuestError(
                f"a program in '{self.name}' has more output than the guest agent can send",
                "Redirect the output of the program to a file.",
            )
        reason = text.removeprefix(f"unable to execute QEMU agent command '{name}': ")
        return GuestError(f"'{self.name}': {reason}")


def next_pause(pause: float, taken: float) -> float:
    """The pause after `pause` before the next question whether a program has ended, which has taken
    so many seconds already.
    """
    return min(pause * PAUSE_GROWTH, max(USUAL_PAUSE, LATE_BY * taken), LONGEST_PAUSE)


def _nothing(_answer: object) -> None:
    """Reads an answer whose content does not matter."""


def _part_of_file(answer: object) -> tuple[bytes, bool]:
    """The content, and whether the file ends after it."""
    content = encoded(answer, "buf-b64")
    # An empty part ends the file, too: a hostile agent could send empty parts for ever.
    return content, flag(answer, "eof") or not content


def _executed(status: object) -> Executed | None:
    """The result of a program. None while the program runs."""
    if not flag(status, "exited"):
        return None
    return Executed(
        # A program that was ended by a signal has no exit code. Shells report it in this way, too.
        code=number(status, "exitcode", 128 + number(status, "signal", 0)),
        stdout=encoded(status, "out-data", ""),
        stderr=encoded(status, "err-data", ""),
        truncated=flag(status, "out-truncated", False) or flag(status, "err-truncated", False),
    )
