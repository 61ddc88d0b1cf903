"""The QEMU guest agent of a VM: runs commands, reads and writes files, without any network.

As long as the guest has not opened its port, libvirt answers at once that the agent is not connected, so
waiting for an agent is cheap. libvirt handles one command of a domain at a time. Commands to different
domains run side by side.

An attacker may control the guest, and so its agent. An answer that no real agent would give raises
GuestError, like any other failure of a guest. The forms of the answers are those of QEMU's guest agent
protocol reference (qemu-ga).
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
"""Seconds for one answer of the agent. It only starts programs and reports, but a busy guest without KVM is slow."""
FIRST_LOOK, LAST_LOOK, GROWTH = 0.015, 0.15, 1.5
"""Seconds before each question whether a command has ended: the first pause, the longest, and the factor by which it grows. An answer takes
4 ms of an emulated guest's processor, which the command itself then lacks."""
MESSAGE = 64 << 10
"""Bytes of content in one message to the agent. With libvirt 9.0, a message of more than 200 KiB never arrives."""
READ = 1 << 20
"""Bytes of content in one message from the agent. libvirt accepts 4 MiB; after a message of 10 MiB it stops using the agent."""
LONGEST_FILE = 32 << 20
"""Bytes that are read of one file. Without a limit, a hostile guest could send a file that never ends."""
WITH_FILE_AS_STDIN = 'exec 0<"$1" && shift && exec "$@"'
WITH_FILES_AS_OUTPUT = 'exec 1>"$1/out" 2>"$1/err" && shift && exec "$@"'
REPLACE = 'umask 077 && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
KILL = 'kill -9 "$1"'
STOPPED = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}
SILENT = {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, getattr(libvirt, "VIR_ERR_AGENT_COMMAND_TIMEOUT", None)}
NOT_SENT = ("is not connected", "not available", "respond to synchronization")

T = TypeVar("T")


class AgentSilentError(GuestError):
    """The agent does not answer now. It may answer later."""


class NotSentError(AgentSilentError):
    """The agent did not receive the command, so it is safe to send it again."""


class Agent:
    """The guest agent of one domain."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain
        self.name = str(domain.name())

    def wait(self, timeout: float) -> None:
        """Waits until the agent answers, at most `timeout` seconds.

        Raises:
            GuestError: it does not answer in time, or the VM has stopped.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._command("guest-ping", None, _nothing, timeout=max(1, min(5, int(timeout))))
            except AgentSilentError:
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"the guest agent of '{self.name}' does not answer after {timeout:g} s",
                        f"See how far it came: vcloud logs {self._path}.",
                    ) from None
                time.sleep(POLL)
            else:
                return

    def execute(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        """Runs a program in the guest to its end, as root and without a shell.

        Args:
            argv: the program and its arguments; a program without `/` is searched on the agent's PATH.
            stdin: its whole standard input.
            timeout: seconds; a program that takes longer is killed.

        Raises:
            GuestError: the program does not exist, takes too long, or has more than 2 MiB of output (then use
                `execute_at_length`). An exit code other than 0 is no error.
        """
        if len(stdin) <= MESSAGE:
            return self._run(argv, stdin, timeout)
        with self._private_folder() as folder:
            self._put(f"{folder}/in", stdin)
            return self._run(["/bin/sh", "-c", WITH_FILE_AS_STDIN, "sh", f"{folder}/in", *argv], b"", timeout)

    def execute_at_length(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        """As `execute`, but with output of any length. It takes longer, because the output goes through files in the guest's memory."""
        with self._private_folder() as folder:
            done = self.execute(["/bin/sh", "-c", WITH_FILES_AS_OUTPUT, "sh", folder, *argv], stdin, timeout)
            return replace(done, stdout=self.read_file(f"{folder}/out"), stderr=self.read_file(f"{folder}/err"))

    def start(self, argv: Sequence[str]) -> int:
        """Starts a program in the guest and does not wait for it. Returns its process number.

        Raises:
            GuestError: the program does not exist, or the agent does not answer.
        """
        return self._exec(argv, None)

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Replaces a file in one step: a reader sees the old content or the new one.

        Raises:
            GuestError: the guest refuses it.
        """
        done = self.execute(["/bin/sh", "-c", REPLACE, "sh", path, f"{mode:o}"], content)
        if done.code != 0:
            raise GuestError(f"'{path}' could not be written in '{self.name}': {done.stderr.decode(errors='replace').strip()}")

    def read_file(self, path: str) -> bytes:
        """The content of a file in the guest.

        Raises:
            GuestError: the guest refuses it, or it has more than 32 MiB.
        """
        content, ended = bytearray(), False
        with self._opened(path, "r") as handle:
            while not ended:
                part, ended = self._command("guest-file-read", {"handle": handle, "count": READ}, _part_of_file)
                content += part
                if len(content) > LONGEST_FILE:
                    raise GuestError(f"'{path}' in '{self.name}' has more than {LONGEST_FILE >> 20} MiB")
        return bytes(content)

    def _put(self, path: str, content: bytes) -> None:
        """Writes a file through the agent. The agent lets everybody read and write its files, so the folder must be private."""
        with self._opened(path, "w") as handle:
            for start in range(0, len(content), MESSAGE):
                chunk = base64.b64encode(content[start : start + MESSAGE]).decode()
                self._command("guest-file-write", {"handle": handle, "buf-b64": chunk}, _nothing)

    @contextmanager
    def _private_folder(self) -> Iterator[str]:
        folder = f"/run/vcloud-{secrets.token_hex(8)}"
        made = self._run(["mkdir", "-m", "0700", folder], b"", COMMAND_TIMEOUT)
        if made.code != 0:
            raise GuestError(f"'{folder}' could not be made in '{self.name}': {made.stderr.decode(errors='replace').strip()}")
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
        pid = self._exec_when_free(argv, stdin, deadline)
        try:
            return self._outcome(pid, argv[0], deadline, timeout)
        except BaseException:
            self._kill(pid)
            raise

    def _exec_when_free(self, argv: Sequence[str], stdin: bytes, deadline: float) -> int:
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

    def _outcome(self, pid: int, program: str, deadline: float, timeout: float) -> Executed:
        pause = FIRST_LOOK
        while True:
            time.sleep(pause)
            pause = min(pause * GROWTH, LAST_LOOK)
            with suppress(AgentSilentError):  # the agent is busy; it keeps the result until it is asked for
                if done := self._command("guest-exec-status", {"pid": pid}, _executed):
                    return done
            if time.monotonic() > deadline:
                raise GuestError(f"'{program}' in '{self.name}' did not end within {timeout:g} s", f"Look inside: vcloud ssh {self._path}.")

    def _kill(self, pid: int) -> None:
        with suppress(GuestError):
            self.start(["/bin/sh", "-c", KILL, "sh", str(pid)])

    def _command(
        self, name: str, arguments: Mapping[str, object] | None, read: Callable[[object], T], *, timeout: int = COMMAND_TIMEOUT
    ) -> T:
        """Sends a command and gives its answer to `read`, which raises UnreadableError if the answer has another form."""
        command: dict[str, object] = {"execute": name}
        if arguments:
            command["arguments"] = arguments
        try:
            text = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(command), timeout, 0)
        except libvirt.libvirtError as error:
            raise self._explained(name, error) from None
        try:
            return read(member(parse_json(text), "return"))
        except UnreadableError as error:
            raise GuestError(
                f"the answer of the guest agent of '{self.name}' to {name} cannot be read: {error.what}",
                f"See its console: vcloud logs {self._path}.",
            ) from None

    def _explained(self, name: str, error: libvirt.libvirtError) -> GuestError:
        text, code = message_of(error), error.get_error_code()
        if code in STOPPED:
            return GuestError(f"'{self.name}' is not running", f"See what it said last: vcloud logs {self._path}.")
        if code == libvirt.VIR_ERR_OPERATION_TIMEOUT or any(mark in text for mark in NOT_SENT):
            return NotSentError(f"the guest agent of '{self.name}' does not run yet, or is busy: {text}")
        if code in SILENT:
            return AgentSilentError(
                f"the guest agent of '{self.name}' does not answer: {text}", f"See its console: vcloud logs {self._path}."
            )
        if "encode message payload" in text:
            return GuestError(
                f"a program in '{self.name}' has more output than the guest agent can send", "Let the program write to a file."
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
    return content, flag(answer, "eof") or not content  # a hostile agent could send empty parts for ever


def _executed(status: object) -> Executed | None:
    """The result of a program; None while it runs."""
    if not flag(status, "exited"):
        return None
    return Executed(
        code=number(status, "exitcode", 128 + number(status, "signal", 0)),
        stdout=encoded(status, "out-data", ""),
        stderr=encoded(status, "err-data", ""),
        truncated=flag(status, "out-truncated", False) or flag(status, "err-truncated", False),
    )
