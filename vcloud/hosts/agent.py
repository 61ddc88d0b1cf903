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

from vcloud.errors import GuestError
from vcloud.hosts.connection import message_of
from vcloud.hosts.executed import Executed
from vcloud.untrusted import UnreadableError, as_number, encoded, flag, member, number, parse_json

POLL = 0.1
"""Seconds between two attempts to reach an agent."""
COMMAND_TIMEOUT = 30
"""Seconds that the agent gets for one answer. The agent itself only starts programs and reports on
them, but a busy guest without KVM is slow.
"""
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.015, 0.15, 1.5
"""Seconds before each question whether a program has ended: the first pause, the longest pause, and
the factor by which the pause grows.

An answer takes 4 ms of the processor of an emulated guest. The program itself then lacks this time.
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
RUN_WITH_FILE_AS_STDIN = 'exec 0<"$1" && shift && exec "$@"'
RUN_WITH_FILES_AS_OUTPUT = 'exec 1>"$1/out" 2>"$1/err" && shift && exec "$@"'
REPLACE_FILE = 'umask 077 && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
"""Shell commands that run in the guest. The first three get their values as arguments, never as a
part of the command text.
"""
KILL = 'kill -9 "$1"'
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
    """The guest agent of one domain."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain
        self.name = str(domain.name())

    def wait(self, timeout: float) -> None:
        """Waits at most `timeout` seconds until the agent answers.

        Raises:
            GuestError: the agent does not answer in time, or the VM has stopped.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._command("guest-ping", None, _nothing, timeout=max(1, min(5, int(timeout))))
            except AgentSilentError:
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"the guest agent of '{self.name}' does not answer after {timeout:g} s",
                        f"See how far the VM has booted: vcloud logs {self._path}.",
                    ) from None
                time.sleep(POLL)
            else:
                return

    def execute(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        """Runs a program in the guest as root, without a shell, and waits until it has ended.

        Args:
            argv: the program and its arguments. A program without `/` is searched on the agent's
                PATH.
            stdin: all of its standard input.
            timeout: seconds. A program that takes longer is killed.

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
        return self._exec(argv, None)

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

    def read_file(self, path: str) -> bytes:
        """The content of a file in the guest.

        Raises:
            GuestError: the guest cannot read the file, or the file has more than 32 MiB.
        """
        content, ended = bytearray(), False
        with self._opened(path, "r") as handle:
            while not ended:
                part, ended = self._command(
                    "guest-file-read", {"handle": handle, "count": READ_SIZE}, _part_of_file
                )
                content += part
                if len(content) > FILE_LIMIT:
                    raise GuestError(
                        f"'{path}' in '{self.name}' has more than {FILE_LIMIT >> 20} MiB"
                    )
        return bytes(content)

    def _put(self, path: str, content: bytes) -> None:
        """Writes a file through the agent.

        The agent creates files that everybody in the guest may read and write, so the folder must
        be private.
        """
        with self._opened(path, "w") as handle:
            for start in range(0, len(content), WRITE_SIZE):
                chunk = base64.b64encode(content[start : start + WRITE_SIZE]).decode()
                self._command("guest-file-write", {"handle": handle, "buf-b64": chunk}, _nothing)

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
                self.start(["rm", "-rf", folder])

    @contextmanager
    def _opened(self, path: str, mode: str) -> Iterator[int]:
        handle = self._command("guest-file-open", {"path": path, "mode": mode}, as_number)
        try:
            yield handle
        except BaseException:
            with suppress(GuestError):
                self._command("guest-file-close", {"handle": handle}, _nothing)
            raise
        self._command("guest-file-close", {"handle": handle}, _nothing)

    def _run(self, argv: Sequence[str], stdin: bytes, timeout: float) -> Executed:
        deadline = time.monotonic() + timeout
        pid = self._exec_when_connected(argv, stdin, deadline)
        try:
            return self._await_end(pid, argv[0], deadline, timeout)
        except BaseException:
            self._kill(pid)
            raise

    def _exec_when_connected(self, argv: Sequence[str], stdin: bytes, deadline: float) -> int:
        while True:
            try:
                return self._exec(argv, stdin)
            except NotSentError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)

    def _exec(self, argv: Sequence[str], stdin: bytes | None) -> int:
        arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:])}
        if stdin is not None:
            arguments |= {"input-data": base64.b64encode(stdin).decode(), "capture-output": True}
        return self._command("guest-exec", arguments, lambda answer: number(answer, "pid"))

    def _await_end(self, pid: int, program: str, deadline: float, timeout: float) -> Executed:
        pause = FIRST_PAUSE
        while True:
            time.sleep(pause)
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)
            # A busy agent does not answer. It keeps the result until vcloud asks again.
            with suppress(AgentSilentError):
                if done := self._command("guest-exec-status", {"pid": pid}, _executed):
                    return done
            if time.monotonic() > deadline:
                raise GuestError(
                    f"'{program}' in '{self.name}' did not end within {timeout:g} s",
                    f"Log in and look for the cause: vcloud ssh {self._path}.",
                )

    def _kill(self, pid: int) -> None:
        with suppress(GuestError):
            self.start(["/bin/sh", "-c", KILL, "sh", str(pid)])

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
        try:
            text = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(command), timeout, 0)
        except libvirt.libvirtError as error:
            raise self._guest_error(name, error) from None
        try:
            return read(member(parse_json(text), "return"))
        except UnreadableError as error:
            raise GuestError(
                f"the answer of the guest agent of '{self.name}' to {name} cannot be read: {error.what}",
                f"See its console: vcloud logs {self._path}.",
            ) from None

    def _guest_error(self, name: str, error: libvirt.libvirtError) -> GuestError:
        text, code = message_of(error), error.get_error_code()
        if code in NOT_RUNNING:
            return GuestError(
                f"'{self.name}' is not running",
                f"See the end of its console: vcloud logs {self._path}.",
            )
        if code == libvirt.VIR_ERR_OPERATION_TIMEOUT or any(
            mark in text for mark in NOT_SENT_MESSAGES
        ):
            return NotSentError(
                f"the guest agent of '{self.name}' has not started yet, or is busy: {text}"
            )
        if code in NO_ANSWER:
            return AgentSilentError(
                f"the guest agent of '{self.name}' does not answer: {text}",
                f"See its console: vcloud logs {self._path}.",
            )
        if "encode message payload" in text:
            return GuestError(
                f"a program in '{self.name}' has more output than the guest agent can send",
                "Redirect the output of the program to a file.",
            )
        reason = text.removeprefix(f"unable to execute QEMU agent command '{name}': ")
        return GuestError(f"'{self.name}': {reason}")

    @property
    def _path(self) -> str:
        """The VM as the command line names it: `shop/web-1`."""
        return self.name.replace(".", "/", 1)


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
        code=number(status, "exitcode", 128 + number(status, "signal", 0)),
        stdout=encoded(status, "out-data", ""),
        stderr=encoded(status, "err-data", ""),
        truncated=flag(status, "out-truncated", False) or flag(status, "err-truncated", False),
    )
