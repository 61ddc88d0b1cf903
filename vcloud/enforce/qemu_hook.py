"""libvirt's qemu hook: a host itself refuses to run VMs beside each other that must not be.

The system's libvirt runs it on the host as root with a domain's name, an operation and a stage, and
with the domain's XML on stdin (https://libvirt.org/hooks.html). Every start there goes through
`prepare`: of virsh, of a restore of saved memory, of a revert to a snapshot, and of an incoming
migration. If the hook fails then, the VM does not start, and its last words reach whoever has asked.
What users start in sessions of their own (`qemu:///session`, `qemu:///embed`) has no hook.

Who runs on the host stands in leases, one file for each domain. They are decided and written under
one lock, so of two VMs that start at the same instant and must not meet, one wins. A lease is no
claim of its own: where its boot of the host, its QEMU process, or the libvirtd that was starting it
has ended, it counts for nothing. So nobody has to clean up after a crash. A VM that libvirt says to
run, and that has no lease, may be anybody's: then no VM of a vApp starts. What the vApp of a running
VM demands may have changed since: so it is read from what libvirt keeps of the domain.

The hook asks nobody, least of all libvirt, which waits for it. In every operation but `prepare` it
never fails, because libvirt would end running VMs.

Terms count if an operator whom the host trusts has signed them (`vcloud.enforce.hook_operators`), and
if the host knows of no newer ones (`vcloud.enforce.hook_terms`). What has the name, the UUID or a
disk of a vApp's VM, and is none, does not start (`vcloud.enforce.hook_known`). After a boot of the host
its VMs are admitted anew (`vcloud.enforce.hook_admitted`).

On a host this is one file, with the texts of the modules of vcloud that it imports before it
(`hook_text`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

from vcloud.enforce.hook_admitted import refuse_unadmitted
from vcloud.enforce.hook_carried import carried, forget, remember
from vcloud.enforce.hook_files import (
    LEASES,
    SETTINGS,
    BrokenError,
    RefusedError,
    UnsignedError,
    broken_if,
    read_json,
    replace,
)
from vcloud.enforce.hook_known import newest_of_vapp, note_known, refuse_look_alike
from vcloud.enforce.hook_processes import (
    MACHINES,
    MOST_XML,
    boot,
    domain_now,
    identity_of,
    is_alive,
    qemu_of,
)
from vcloud.enforce.hook_terms import (
    MARK,
    counted_generation,
    refuse_older,
    take_notice,
    tenant_in,
    uuid_in,
)
from vcloud.printable import on_one_line
from vcloud.signature import QUESTION
from vcloud.tenancy import (
    ALLOW,
    DENY,
    HostTenants,
    Policy,
    Tenant,
    Terms,
    Unmanaged,
    document_of,
    refusals,
    terms_of,
)

POLICY = SETTINGS / "policy.json"
LEASE_FORMAT = 1
SECONDS = 30
"""How long it waits for another start on this host."""
STARTING_SECONDS = 900
"""A VM that libvirt has not started after this time does not start any more."""
NAMED = 3
"""Refusals that are told."""
YES, NO, UNSIGNED, UNKNOWN = "yes", "no", "unsigned", "unknown"
"""How the answer to a question begins: it may start here; a rule forbids it; its terms do not count
here; it would be refused, because something on the host cannot be read.
"""
LONGEST_TOLD = 640
"""Bytes. libvirt cuts its whole message after 1024, and its own words in it have some 250."""


def main(argv: list[str]) -> int:
    """Does what libvirt asks for. Returns the exit code."""
    name, operation, stage = (*argv[1:], "", "", "")[:3]
    if operation == "scrub":
        return scrub(name, stage)
    if operation != "prepare":
        # libvirt would end VMs that run.
        with contextlib.suppress(Exception):
            follow(name, operation, stage)
        return 0
    try:
        if stage == "begin":
            decide(name, read_domain())
    except RefusedError as refused:
        return told(str(refused))
    except Exception as error:
        return told(f"'{name}' was not started, because the hook failed: {error!r}")
    return 0


def scrub(name: str, stage: str) -> int:
    """Not for libvirt: root says that the host is clean of what it carried of a class of conflict;
    an empty name means all classes. Prints what the host remembers of them. The stage `list` changes
    nothing.
    """
    try:
        with locked():
            known = carried()
            wanted = {one: sorted(vapps) for one, vapps in known.items() if name in ("", one)}
            if stage == "begin":
                refuse_running(frozenset(wanted))
                forget(frozenset(wanted))
    except (BrokenError, RefusedError) as error:
        return told(str(error))
    print(json.dumps(wanted))
    return 0


def refuse_running(classes: Set[str]) -> None:
    """Raises RefusedError where a VM of one of the classes runs, BrokenError where that is not known."""
    for name, tenant in standing_leases("", ""):
        if isinstance(tenant, Terms) and not classes.isdisjoint(tenant.conflicts):
            raise RefusedError(
                f"the host is not clean, because '{name}' of '{tenant.vapp}' runs on it"
            )


def answer(kind: str, why: str = "", newest: int = 0) -> str:
    """What a question is refused with: this file's SHA-256, the generation of the newest terms that
    the host knows of the vApp, and what it says.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return f"hook {digest}, generation {newest}: {kind}: {why}"


def told(why: str) -> int:
    """Tells why a VM does not start. Parts of it may be anybody's words."""
    text = on_one_line(why).encode(errors="replace")[:LONGEST_TOLD].decode(errors="ignore")
    sys.stderr.buffer.write(f"vcloud: {text}\n".encode())
    return 1


def decide(name: str, domain: ElementTree.Element) -> None:
    """Writes the lease of a domain that is about to start. Raises RefusedError, also as the answer to
    a question.
    """
    if domain.find(f"metadata/{QUESTION}") is not None:
        raise RefusedError(answered(name, domain))
    try:
        tenant: Tenant | None = None
        tenant = tenant_in(name, domain)
        refuse_look_alike(name, uuid_in(domain), vapp_of(tenant), domain)
        with locked():
            require_room(name, name, tenant, domain, write=True)
    except BrokenError as error:
        # A VM of no vApp may start where the host allows such VMs beside everybody.
        if not isinstance(tenant, Unmanaged) or not all_are_allowed():
            raise RefusedError(unknown(name, error)) from None


def answered(name: str, domain: ElementTree.Element) -> str:
    """The answer to a question. It writes nothing but what a signed notice says."""
    who, unsigned, newest = name, "", 0
    try:
        try:
            tenant = tenant_in(name, domain)
        except UnsignedError as error:
            tenant, unsigned = error.tenant, str(error)
        who = vapp_of(tenant) or name
        refuse_look_alike(name, uuid_in(domain), vapp_of(tenant), domain)
        with locked():
            if not unsigned:
                take_notice(vapp_of(tenant), domain)
            newest = newest_of_vapp(vapp_of(tenant))
            require_room(who, name, tenant, domain, write=False)
    except BrokenError as error:
        return answer(UNKNOWN, unknown(who, error), newest)
    except RefusedError as refused:
        return answer(NO, str(refused), newest)
    return answer(UNSIGNED if unsigned else YES, unsigned, newest)


def unknown(who: str, error: BrokenError) -> str:
    return f"'{who}' was not started, because it is not known who runs on this host: {error}"


def require_room(
    who: str, name: str, tenant: Tenant, domain: ElementTree.Element, *, write: bool
) -> None:
    """Whether the domain may run beside those that do; if so, writes its lease. `who` is what a
    message calls it. Raises RefusedError, BrokenError.
    """
    uuid, vapp = uuid_in(domain), vapp_of(tenant)
    # What has ended counts for nothing. Its own lease may be left of an earlier start.
    others = standing_leases(uuid, vapp)
    # Once more: by now those that run have been looked at, with what they got since they started.
    refuse_look_alike(name, uuid, vapp, domain)
    if vapp:
        refuse_older(name, domain)
        refuse_unadmitted(name, uuid, vapp)
    require_leases({name, *(other for other, _ in others)})
    host = HostTenants(tuple(whose for _, whose in others), policy(), carried())
    if found := refusals(tenant, host):
        reasons = "; ".join(one.reason for one in found[:NAMED])
        more = f"; and {len(found) - NAMED} more reasons" if len(found) > NAMED else ""
        raise RefusedError(f"'{who}' may not run on this host: {reasons}{more}")
    if write:
        generation = counted_generation(domain) if vapp else 0
        write_lease(uuid, name, tenant, generation, qemu=None)
        remember(tenant, host.carried)
        if vapp:
            note_known(name, uuid, vapp, domain, generation)


def vapp_of(tenant: Tenant) -> str:
    """Empty for a VM that vcloud does not manage."""
    return tenant.vapp if isinstance(tenant, Terms) else ""


def all_are_allowed() -> bool:
    """Whether the policy says that VMs of no vApp may be beside everybody."""
    try:
        return policy().unmanaged == ALLOW
    except BrokenError:
        return False


def follow(name: str, operation: str, stage: str) -> None:
    """Notes what has happened to a domain."""
    if (operation, stage) not in (("started", "begin"), ("reconnect", "begin"), ("release", "end")):
        return
    domain = read_domain()
    if domain.find(f"metadata/{QUESTION}") is not None:
        return
    uuid = uuid_in(domain)
    tenant: Tenant | None = None
    generation = 0
    # One whose terms cannot be read runs all the same, and nothing is known of its rules.
    with contextlib.suppress(RefusedError, BrokenError):
        tenant = tenant_in(name, domain, read_json(LEASES / f"{uuid}.json"), runs=True)
        generation = counted_generation(domain) if isinstance(tenant, Terms) else 0
    with locked():
        with contextlib.suppress(BrokenError):
            # libvirt releases also what it has not started, because this hook refused it.
            lease = read_json(LEASES / f"{uuid}.json")
            if operation != "release" or (isinstance(lease, dict) and lease.get("qemu")):
                remember(tenant, carried())
                if isinstance(tenant, Terms):
                    # By now it may have disks that it did not have when it started.
                    note_known(name, uuid, tenant.vapp, domain, generation)
        if operation == "release":
            (LEASES / f"{uuid}.json").unlink(missing_ok=True)
        elif tenant is not None or not (LEASES / f"{uuid}.json").exists():
            # Also of a VM that ran before the hook was installed.
            write_lease(uuid, name, tenant, generation, qemu=qemu_of(name))


# What stands in a domain's XML


def read_domain() -> ElementTree.Element:
    text = sys.stdin.buffer.read(MOST_XML + 1)
    if len(text) > MOST_XML:
        raise RefusedError("the domain's XML is too long")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - libvirt has written it
    except ElementTree.ParseError as error:
        raise RefusedError(f"the domain's XML cannot be read: {error}") from None


# What the host keeps


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Nobody else decides on this host meanwhile. Raises BrokenError."""
    with broken_if("the host's leases cannot be kept"):
        LEASES.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(LEASES / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(SECONDS)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            signal.alarm(0)
        yield
    finally:
        os.close(lock)


def give_up(*_: object) -> NoReturn:
    raise BrokenError(f"the leases are locked by another start for {SECONDS} s")


def standing_leases(beside: str, vapp: str) -> list[tuple[str, Tenant]]:
    """The name of each domain that runs or is starting, beside that of a UUID, which is one of the
    vApp, and whose it is. Raises BrokenError where a lease cannot be read: its VM may run.
    """
    found = []
    for path in sorted(LEASES.glob("*.json")):
        lease = read_json(path)
        with broken_if(f"'{path}' is no lease", ValueError, KeyError, TypeError, IndexError):
            stands = is_standing(lease)
            if stands and lease["uuid"] != beside:
                found.append((str(lease["name"]), tenant_now(lease, vapp)))
        if not stands:
            path.unlink(missing_ok=True)
    return found


def require_leases(known: Set[str]) -> None:
    """Raises BrokenError where libvirt says that another domain than these runs: it has no lease."""
    kept = {path.stem for path in MACHINES.glob("*.xml")}
    if unknown := [name for name in sorted(kept - known) if qemu_of(name)[1]]:
        raise BrokenError(
            f"'{unknown[0]}' runs, and has no lease; a restart of libvirtd gives it one"
        )


def is_standing(lease: Mapping[str, Any]) -> bool:
    # First, because a lease of an earlier boot may be one of another release.
    if not isinstance(lease["boot"], str):
        raise ValueError("it has no boot")
    if lease["boot"] != boot():
        return False
    if lease["format"] != LEASE_FORMAT:
        raise ValueError("another format")
    if lease["qemu"] is not None:
        return is_alive(*lease["qemu"])
    waited = time.clock_gettime(time.CLOCK_BOOTTIME) - lease["since"]
    return waited < STARTING_SECONDS and is_alive(*lease["daemon"])


def tenant_now(lease: Mapping[str, Any], vapp: str) -> Tenant:
    """Whose VM it is that has a lease. Of one that runs, its vApp may have been given other terms
    since it started: libvirt has them. Raises ValueError, BrokenError.

    VMs of one vApp never refuse each other. So those of `vapp`, which is about to start another one,
    may have terms that cannot be read: `vcloud up` gives them new ones.
    """
    name = str(lease["name"])
    domain = domain_now(name) if lease["qemu"] is not None else None
    if domain is None:
        return tenant_of(lease)
    marked = [mark.get("vapp") for mark in domain.findall(f"metadata/{MARK}[@vapp]")]
    started_as = (lease["terms"] or {}).get("vapp")
    if vapp and vapp in (started_as, *marked) and {started_as, *marked} <= {vapp, None}:
        return Terms(vapp)
    try:
        now = tenant_in(name, domain, lease, runs=True)
        if isinstance(now, Terms):
            generation = counted_generation(domain)
            note_known(name, str(lease["uuid"]), now.vapp, domain, generation)
    except RefusedError as error:
        helps = f"; `vcloud up` with the file of '{marked[0]}' gives it new ones" if marked else ""
        raise BrokenError(f"{error}{helps}") from None
    if lease["terms"] and isinstance(now, Unmanaged):
        raise BrokenError(f"'{name}' runs, and somebody has taken its terms of tenancy away")
    return now


def tenant_of(lease: Mapping[str, Any]) -> Tenant:
    """Raises ValueError where it is not known whose VM it is."""
    return Unmanaged(str(lease["name"])) if lease["terms"] is None else terms_of(lease["terms"])


def write_lease(
    uuid: str, name: str, tenant: Tenant | None, generation: int, qemu: tuple[int, int] | None
) -> None:
    """`tenant` is None where nobody can tell whose VM it is; `generation` is that of its terms; `qemu`
    is None until it runs. Raises BrokenError.
    """
    terms = document_of(tenant) if isinstance(tenant, Terms) else None if tenant else {}
    daemon, since = identity_of(os.getppid()), time.clock_gettime(time.CLOCK_BOOTTIME)
    lease = {"format": LEASE_FORMAT, "uuid": uuid, "name": name, "boot": boot(), "since": since}
    replace(
        f"{uuid}.json",
        {**lease, "daemon": daemon, "qemu": qemu, "terms": terms, "generation": generation},
    )


def policy() -> Policy:
    """What the host's administrator says. Raises BrokenError."""
    found = read_json(POLICY)
    if found is None:
        return Policy()
    with broken_if(f"'{POLICY}' is no policy", ValueError, KeyError, TypeError):
        if found["unmanaged"] not in (ALLOW, DENY):
            raise ValueError("'unmanaged' is neither allow nor deny")
        return Policy(found["unmanaged"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
