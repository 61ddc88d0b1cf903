"""Whether an operator whom the host trusts has signed the terms of a VM. The text of this module is
part of the hook (`vcloud.enforce.install`).

The host's list of operators is a file of allowed signers (ssh-keygen(1)) that only root can write.
Without the file no signature is asked for. With it, an empty one too, each VM of a vApp needs one.
OpenSSH checks the signature: Python's standard library cannot.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from xml.etree.ElementTree import Element

from vcloud.enforce.hook_files import SETTINGS, BrokenError, broken_if
from vcloud.signature import (
    PRINCIPAL,
    SIGNATURE,
    SSH_NAMESPACE,
    armored,
    generation_of,
    names_layers,
    statement,
)

OPERATORS = SETTINGS / "operators"
SSH_KEYGEN = "/usr/bin/ssh-keygen"
LONGEST_SIGNATURE = 1000
"""Characters. One by an Ed25519 key has 296."""
KEYGEN_SECONDS = 20
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def why_not_signed(domain: Element, terms: Element, *, runs: bool = False) -> str:
    """What is wrong with the signature at the terms; empty where it counts, or where the host asks for
    none. `runs`: of a VM that runs, libvirt itself tells what its disks are based on. Raises
    BrokenError.
    """
    if not asks_for_signatures():
        return ""
    if not runs and names_layers(domain):
        return "somebody has written into its XML what its disks are based on"
    signature = terms.get(SIGNATURE, "")
    if not signature:
        return "they are not signed, and this host asks for it"
    if len(signature) > LONGEST_SIGNATURE or not _BASE64.fullmatch(signature):
        return "what stands in the place of their signature is none"
    try:
        signed = statement(domain, terms.text or "", generation_of(terms))
    except ValueError as error:
        return str(error)
    trusted = ["verify", "-f", str(OPERATORS), "-I", PRINCIPAL]
    if keygen(trusted, signature, signed).returncode == 0:
        return ""
    known = keygen(["check-novalidate"], signature, signed)
    if known.returncode != 0:
        return "their signature is not for this VM as it is now"
    key = _FINGERPRINT.search(known.stdout.decode(errors="replace"))
    return f"they are signed with a key that this host does not trust ({key.group() if key else 'unknown'})"


def asks_for_signatures() -> bool:
    """Whether the host has a list of operators. Raises BrokenError where others may write to it."""
    with broken_if(f"'{OPERATORS}' cannot be read"):
        try:
            state = OPERATORS.stat()
        except FileNotFoundError:
            if os.path.lexists(OPERATORS):
                raise
            return False
    if state.st_uid != 0 or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BrokenError(f"others than root may write to '{OPERATORS}'")
    return True


def keygen(options: list[str], signature: str, signed: bytes) -> subprocess.CompletedProcess[bytes]:
    """What OpenSSH says of a signature. Raises BrokenError where it cannot be asked."""
    reading, writing = os.pipe()
    try:
        # It is shorter than any pipe.
        os.write(writing, armored(signature).encode())
        os.close(writing)
        with broken_if(f"'{SSH_KEYGEN}' cannot be run", subprocess.SubprocessError):
            return subprocess.run(
                [SSH_KEYGEN, "-Y", *options, "-n", SSH_NAMESPACE, "-s", f"/dev/fd/{reading}"],
                input=signed,
                capture_output=True,
                pass_fds=(reading,),
                timeout=KEYGEN_SECONDS,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )
    finally:
        os.close(reading)
