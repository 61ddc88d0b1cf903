"""How to log in to a host by ssh, as OpenSSH itself reads its configuration.

`ssh -G` prints what would be in force for a host, so Include, Match, Host patterns and the
system's own file mean here what they mean to libvirt, which starts the same ssh.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from vcloud.errors import HostError
from vcloud.hosts.inventory import HostRef
from vcloud.programs import search_path

SSH_PORT: Final = 22
SECONDS: Final = 60
"""`Match exec` may run programs of the user's."""
_NONE: Final = "none"
_TOKEN: Final = re.compile(r"%(.)")


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in. The URI of the host takes precedence over the configuration."""

    host: str
    """As the URI names it."""
    address: str
    port: int
    user: str
    keys: tuple[Path, ...]
    """Private keys, or their public halves; not all need exist."""
    only_keys: bool
    """Of ssh-agent, only these keys are offered."""
    agent: str
    """The socket of ssh-agent; empty: there is none."""
    known_hosts: tuple[Path, ...]
    key_name: str
    """The name under which known_hosts has the host's key."""
    revoked: Path | None
    """A list of revoked host keys, which ssh-keygen can read."""
    proxy_argv: tuple[str, ...]
    """The command that carries the connection; empty: there is none."""


def login_of(ref: HostRef) -> Login:
    """Raises HostError where the configuration cannot be understood."""
    parts = urlsplit(ref.uri)
    host = parts.hostname or ""
    said = _asked(ref, host)
    try:
        return _login(ref, host, said)
    except ValueError as error:
        raise _unusable(ref, str(error)) from None


def keyfiles_of(ref: HostRef) -> list[str]:
    """The files of private keys that the host's URI names, as libvirt takes them
    (https://libvirt.org/uri.html).
    """
    return parse_qs(urlsplit(ref.uri).query).get("keyfile", [])


def _login(ref: HostRef, host: str, said: Mapping[str, Sequence[str]]) -> Login:
    """Raises ValueError: a port that is no number, or a quote that is not closed."""
    keyfile = keyfiles_of(ref)
    address, port = _one(said, "hostname") or host, int(_one(said, "port") or SSH_PORT)
    user = _one(said, "user") or pwd.getpwuid(os.getuid()).pw_name
    tokens = _tokens(host, address, port, user)
    alias, revoked = _one(said, "hostkeyalias"), _one(said, "revokedhostkeys")
    files = " ".join((*said.get("userknownhostsfile", ()), *said.get("globalknownhostsfile", ())))
    return Login(
        host=host,
        address=address,
        port=port,
        user=user,
        keys=tuple(
            _path(_expanded(key, tokens)) for key in keyfile or said.get("identityfile", ())
        ),
        only_keys=bool(keyfile) or _one(said, "identitiesonly") == "yes",
        agent=_agent(next(iter(said.get("identityagent", ())), ""), tokens),
        known_hosts=tuple(
            _path(_expanded(name, tokens)) for name in shlex.split(files) if name != _NONE
        ),
        key_name=alias or (address if port == SSH_PORT else f"[{address}]:{port}"),
        revoked=_path(revoked) if revoked else None,
        proxy_argv=_proxy(ref, said, tokens),
    )


def options_for(ref: HostRef) -> tuple[str, ...]:
    """ssh's options for what the inventory and the URI say of a host."""
    parts = urlsplit(ref.uri)
    return (
        *(("-F", str(ref.ssh_config)) if ref.ssh_config else ()),
        *(("-l", parts.username) if parts.username else ()),
        *(("-p", str(parts.port)) if parts.port else ()),
    )


def _asked(ref: HostRef, host: str) -> Mapping[str, Sequence[str]]:
    """What ssh says is in force: key -> values."""
    argv = ["ssh", "-G", "-T", *options_for(ref), "--", host]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"PATH": search_path()},
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise HostError(f"ssh cannot be run: {error}", "apt-get install openssh-client.") from None
    if done.returncode != 0:
        raise _unusable(ref, " ".join(done.stderr.decode(errors="replace").split()))
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def _unusable(ref: HostRef, why: str) -> HostError:
    path = ref.ssh_config or Path("~/.ssh/config").expanduser()
    return HostError(
        f"the ssh_config {path} cannot be used for {ref.name}: {why}",
        "Correct it, or give this host one of its own in the inventory (ssh_config).",
    )


def _one(said: Mapping[str, Sequence[str]], key: str) -> str:
    """The value of a key that has one; empty where it has none."""
    value = next(iter(said.get(key, ())), _NONE)
    return "" if value == _NONE else value


def _tokens(host: str, address: str, port: int, user: str) -> Mapping[str, str]:
    """Those that ssh_config(5) describes (TOKENS), as far as one needs no connection for them."""
    me = pwd.getpwuid(os.getuid())
    here = socket.gethostname()
    return {
        "%": "%",
        "d": me.pw_dir,
        "h": address,
        "i": str(os.getuid()),
        "L": here.partition(".")[0],
        "l": here,
        "n": host,
        "p": str(port),
        "r": user,
        "u": me.pw_name,
    }


def _expanded(text: str, tokens: Mapping[str, str]) -> str:
    """Raises ValueError for a token that vcloud does not know."""

    def put(found: re.Match[str]) -> str:
        if found[1] not in tokens:
            raise ValueError(f"vcloud does not know the token %{found[1]}")
        return tokens[found[1]]

    return _TOKEN.sub(put, text)


def _path(text: str) -> Path:
    """ssh takes the home of the user from the system, whatever HOME says."""
    if text == "~" or text.startswith("~/"):
        return Path(pwd.getpwuid(os.getuid()).pw_dir, text[2:])
    return Path(text).expanduser()


def _agent(said: str, tokens: Mapping[str, str]) -> str:
    if said == _NONE:
        return ""
    if not said or said == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    if said.startswith("$"):
        return os.environ.get(said.strip("${}"), "")
    return str(_path(_expanded(said, tokens)))


def _proxy(
    ref: HostRef, said: Mapping[str, Sequence[str]], tokens: Mapping[str, str]
) -> tuple[str, ...]:
    """paramiko supports ProxyCommand but not ProxyJump, so a jump becomes the command `ssh -W`."""
    if command := _one(said, "proxycommand"):
        # A word that ssh would replace may stand within quotes.
        return tuple(_expanded(word, tokens) for word in shlex.split(command))
    jump = _one(said, "proxyjump")
    if not jump:
        return ()
    *before, last = jump.split(",")
    via = ("-J", ",".join(before)) if before else ()
    config = ("-F", str(ref.ssh_config)) if ref.ssh_config else ()
    there = f"[{tokens['h']}]" if ":" in tokens["h"] else tokens["h"]
    return ("ssh", *config, *via, "-W", f"{there}:{tokens['p']}", *_jump(last))


def _jump(text: str) -> tuple[str, ...]:
    """The words that lead ssh to `[user@]host[:port]`, or to an ssh:// URI."""
    if text.startswith("ssh://"):
        return ("--", text)
    user, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or (":" in host and not host.startswith("[")):
        host, port = place, ""
    named = f"{user}{at}{host.strip('[]')}"
    return (*(("-p", port) if port else ()), "--", named)
