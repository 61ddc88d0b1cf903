"""Commands and files through the guest agent of a VM."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from tests.vm.hosts.running import (
    NAME,
    Running,
    until,
)
from vcloud.errors import GuestError
from vcloud.hosts import machines
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


def test_an_agent_that_does_not_come_is_said_in_time(host: Host) -> None:
    xml = "<domain type='qemu'><name>t-hosts.mute</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type></os><devices>{}</devices></domain>"
    channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    machines.start_domain(host, "t-hosts.mute", xml.format(channel))
    agent = machines.agent_of(host, "t-hosts.mute")
    try:
        begin = time.monotonic()
        with pytest.raises(GuestError, match=r"'t-hosts.mute' does not answer after 1 s") as caught:
            agent.wait(1)
        assert time.monotonic() - begin < 60, "a VM that boots is waited for three minutes"
        assert "vcloud logs t-hosts/mute" in caught.value.hint
    finally:
        machines.remove_domain(host, "t-hosts.mute")
    with pytest.raises(GuestError, match="is not running"):
        agent.wait(20)


def test_a_command_runs_to_its_end(vm: Running) -> None:
    done = vm.agent.execute(
        ["/bin/sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "a 'b' $c"], stdin=b"in"
    )
    assert (done.code, done.stdout, done.stderr, done.truncated) == (3, b"in", b"a 'b' $c\n", False)
    assert vm.agent.execute(["true"]).code == 0
    assert vm.agent.execute(["/bin/sh", "-c", "kill -9 $$"]).code == 137


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 1_000_000])
def test_stdin_of_any_length_arrives(vm: Running, size: int) -> None:
    content = os.urandom(size)
    done = vm.agent.execute(["sha256sum"], stdin=content)
    assert done.stdout.decode().split()[0] == hashlib.sha256(content).hexdigest()
    leftovers = ["/bin/sh", "-c", "ls -d /run/vcloud-* 2>/dev/null"]
    until("nothing of it stays in the guest", lambda: vm.agent.execute(leftovers).stdout == b"")


def test_a_program_that_is_not_there_is_said(vm: Running) -> None:
    with pytest.raises(GuestError, match="no-such-program"):
        vm.agent.execute(["no-such-program"])


def test_a_program_that_takes_too_long_is_killed(vm: Running) -> None:
    with pytest.raises(GuestError, match="did not end within 1 s"):
        vm.agent.execute(["sleep", "4321"], timeout=1)
    until("its end", lambda: vm.agent.execute(["pgrep", "-f", "sleep 4321"]).code == 1)


def test_too_much_output_is_said_and_has_a_way_out(vm: Running) -> None:
    argv = ["/bin/sh", "-c", "head -c 4000000 /dev/zero; echo err >&2; exit 4"]
    with pytest.raises(GuestError, match="more output than"):
        vm.agent.execute(argv)
    done = vm.agent.execute_at_length(argv)
    assert (done.code, len(done.stdout), done.stderr) == (4, 4_000_000, b"err\n")


def test_files_are_written_in_one_step_and_read(vm: Running) -> None:
    content = bytes(range(256)) * 1000
    vm.agent.write_file("/root/a file", content, 0o640)
    vm.agent.write_file("/root/a file", content[:-1], 0o600)
    assert vm.agent.read_file("/root/a file") == content[:-1]
    assert vm.agent.execute(["stat", "-c", "%a", "/root/a file"]).stdout == b"600\n"
    with pytest.raises(GuestError, match="could not be written"):
        vm.agent.write_file("/none/a", b"")
    with pytest.raises(GuestError, match="No such file"):
        vm.agent.read_file("/none/a")


def test_a_file_without_an_end_is_given_up(vm: Running) -> None:
    with pytest.raises(GuestError, match="more than 32 MiB"):
        vm.agent.read_file("/dev/zero")


LIAR = r"""
use Fcntl;
sysopen(my $port, "/dev/virtio-ports/org.qemu.guest_agent.0", O_RDWR) or die "liar: $!";
my ($heard, $read, $enough) = ("");
while (!$enough && defined($read = sysread($port, my $part, 4096))) {
    select(undef, undef, undef, 0.05) unless $read;
    $heard .= $part;
    while ($heard =~ s/^(.*)\n//) {
        my ($said, $answer) = ($1, '[{"pid": "many"}]');
        $answer = $1 if $said =~ /guest-sync/ && $said =~ /"id"\s*:\s*(\d+)/;
        syswrite($port, qq({"return": $answer}\n));
        $enough = $said =~ /be-honest-again/;
    }
}
"""
"""An agent that libvirt believes to be there. It gives every question the same answer, until it is
asked to be honest again.
"""


def says_nonsense(agent: Agent, program: str = "true") -> bool:
    try:
        agent.execute([program])
    except GuestError as error:
        return "cannot be read" in str(error)
    return False


def test_an_agent_that_answers_nonsense_is_an_error_like_any_other(vm: Running) -> None:
    """Somebody who has broken into a VM may put an agent of their own in place. Afterwards the real
    one answers again.
    """
    vm.agent.write_file("/run/liar.pl", LIAR.encode())
    unit = "systemctl stop qemu-guest-agent; timeout 300 perl /run/liar.pl; systemctl start qemu-guest-agent"
    assert vm.agent.execute(["systemd-run", "--no-block", "sh", "-c", unit]).code == 0
    until("an answer of the other agent", lambda: says_nonsense(vm.agent))
    with pytest.raises(GuestError, match="cannot be read"):
        vm.agent.read_file("/etc/hostname")
    assert says_nonsense(vm.agent, "be-honest-again")
    vm.agent.wait(900)
    until("an answer of the real agent", lambda: not says_nonsense(vm.agent))
    assert vm.agent.execute(["true"]).code == 0


DRIP = r"""
use Fcntl;
sysopen(my $port, "/dev/virtio-ports/org.qemu.guest_agent.0", O_RDWR) or die "drip: $!";
my ($heard, $read, $enough) = ("");
while (!$enough && defined($read = sysread($port, my $part, 4096))) {
    select(undef, undef, undef, 0.05) unless $read;
    $heard .= $part;
    while ($heard =~ s/^(.*)\n//) {
        my ($said, $answer) = ($1, "{}");
        $answer = $1 if $said =~ /guest-sync/ && $said =~ /"id"\s*:\s*(\d+)/;
        $answer = 7 if $said =~ /guest-file-open/;
        $answer = '{"count": 1, "buf-b64": "eA==", "eof": false}' if $said =~ /guest-file-read/;
        $answer = '{"pid": 9999999}' if $said =~ /guest-exec"/;
        $answer = '{"exited": false}' if $said =~ /guest-exec-status/;
        select(undef, undef, undef, 0.2) if $answer =~ /count|exited/;
        syswrite($port, qq({"return": $answer}\n));
        $enough = $said =~ /be-honest-again/;
    }
}
"""
"""An agent that answers everything in good time and never comes to an end: no program ends, and
each file arrives one byte at a time.
"""


def is_endless(agent: Agent) -> bool:
    try:
        agent.execute(["true"], timeout=2)
    except GuestError as error:
        return "did not end within" in str(error)
    return False


def test_an_agent_that_never_comes_to_an_end_is_given_up(vm: Running) -> None:
    """Afterwards the real one answers again."""
    vm.agent.write_file("/run/drip.pl", DRIP.encode())
    unit = "systemctl stop qemu-guest-agent; timeout 300 perl /run/drip.pl; systemctl start qemu-guest-agent"
    assert vm.agent.execute(["systemd-run", "--no-block", "sh", "-c", unit]).code == 0
    until("an answer of the other agent", lambda: is_endless(vm.agent))
    with pytest.raises(GuestError, match=r"did not arrive within 3 s"):
        vm.agent.read_file("/etc/hostname", timeout=3)
    with pytest.raises(GuestError, match="in too many parts"):
        vm.agent.read_file("/etc/hostname")
    # The real agent may be asked already whether the program has ended, and knows none.
    with pytest.raises(GuestError):
        vm.agent.execute(["be-honest-again"], timeout=2)
    vm.agent.wait(900)
    until("an answer of the real agent", lambda: vm.agent.execute(["true"]).code == 0)


def test_the_end_of_a_console_is_read_without_what_acts_on_terminals(vm: Running) -> None:
    vm.agent.execute(["/bin/sh", "-c", r"printf 'first\nsecond \033[31mred\n' > /dev/ttyS0"])
    until(
        "the lines on the console",
        lambda: vm.volumes.console_tail(NAME, 2) == ["first", "second red"],
    )
    assert vm.volumes.console_tail("t-hosts.none", 2) == []
