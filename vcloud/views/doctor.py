"""`vcloud doctor`: can this host run vApps, and what can be done if it cannot?

To look at one more thing: write a function of a host that yields findings, and add it to `LOOKS`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from vcloud.enforce.install import hook_digest, installed_digest, wanted_on
from vcloud.errors import HostError, VcloudError
from vcloud.fleet.fleet import open_fleet, open_lab
from vcloud.guests.probes import Prober
from vcloud.hosts import machines
from vcloud.hosts.accelerator import host_accelerator
from vcloud.hosts.capabilities import capabilities_of
from vcloud.hosts.connection import Host, run_parallel
from vcloud.hosts.executed import Executed
from vcloud.hosts.host_side import INSTALL, read_report
from vcloud.hosts.inventory import choose_hosts
from vcloud.hosts.kernel import KSM_RUN, ksm_of
from vcloud.hosts.links import link_of
from vcloud.hosts.manifests import read_manifest, vapp_names
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.preparing import look_at
from vcloud.hosts.tenancy import NOBODY, ask_hook
from vcloud.placement.capabilities import Version
from vcloud.placement.place import INSTALL_HOOK, TRUST
from vcloud.plan.host_side import unseen_kinds
from vcloud.plan.images import OLD_DAYS, age_in_days
from vcloud.plan.manifest import Manifest
from vcloud.plan.preparation import left_of, steps_of
from vcloud.proof.report import plain
from vcloud.values import ON

BRIDGE_FILTERS = tuple(
    f"/proc/sys/net/bridge/bridge-nf-call-{table}" for table in ("iptables", "ip6tables")
)
PREPARED = frozenset(
    {
        "packages",
        "pool folder",
        "group",
        "virtlockd",
        "reporter",
        "limits",
        "tenancy",
        "host's side",
    }
)
"""The checks of what `vcloud host add` mends."""
LEAST_LIBVIRT = Version(9, 0, 0)
LEAST_STORAGE, LEAST_MEMORY = 4 << 30, 2 << 30
"""Bytes below which a note is made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `result` is ok, note or fail."""

    check: str
    result: str
    detail: str
    hint: str = ""

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CachedImage:
    """An image of a recipe in this machine's cache."""

    name: str
    packages: str
    """Digest of its packages."""
    current: str
    """When its packages were last known to be those of that day, in UTC (ISO 8601)."""


def examine(
    connect: str | None,
    missing_tools: Mapping[str, str],
    building: tuple[str, str],
    cached: Sequence[CachedImage],
) -> list[Finding]:
    """Looks at this machine and at the host. If the host cannot be opened, that is the last
    finding.

    Args:
        connect: the host, as on the command line.
        missing_tools: programs that building images needs and this machine lacks, with the packages
            that bring them.
        building: as whom this user builds images, and an empty text; or why that is not possible,
            and the way out.
        cached: the images of this machine's cache.
    """
    findings = [_tools(missing_tools), _building(*building), *_cached_images(cached)]
    try:
        with open_fleet(connect) as fleet:
            host = fleet.home
            findings.append(Finding("host", "ok", f"{host.name} ({host.ref.uri})"))
            checked = {image.packages: image.current for image in cached}
            findings += host_findings(host)
            findings += _safely(partial(_used_images, checked=checked), host)
    except VcloudError as error:
        findings.append(Finding("host", "fail", error.what, error.hint))
    return findings


def host_findings(host: Host) -> list[Finding]:
    """What was looked at on one host."""
    return [finding for look in LOOKS for finding in _safely(look, host)]


def check_hosts(names: Sequence[str]) -> dict[str, list[Finding]]:
    """Host -> what was looked at there. No names: all hosts that the user means.

    Raises UsageError, SpecError where the choice is not clear.
    """
    found: dict[str, list[Finding]] = {}
    wanted: Sequence[str | None] = names or [None]
    for name in wanted:
        try:
            with open_lab(name) as lab:
                looked = run_parallel([partial(host_findings, host) for host in lab.hosts])
                for host, findings in zip(lab.hosts, looked, strict=True):
                    found[host.name] = [_mended_from_here(host, one) for one in findings]
                for silent, error in lab.unreachable.items():
                    found[silent] = [Finding("host", "fail", error.what, error.hint)]
        except HostError as error:
            for ref in choose_hosts(name):
                found[ref.name] = [Finding("host", "fail", error.what, error.hint)]
    return dict(sorted(found.items()))


def _mended_from_here(host: Host, finding: Finding) -> Finding:
    """The same with the command that prepares a host of the inventory from where the user is."""
    if finding.check not in PREPARED or finding.result == "ok":
        return finding
    add = f"Whoever is root there: {shlex.join(('vcloud', 'host', 'add', host.name, host.ref.uri))}"
    return replace(finding, hint=f"{add}. {finding.hint}".strip())


def _safely(look: Callable[[Host], Iterator[Finding]], host: Host) -> list[Finding]:
    try:
        return list(look(host))
    except VcloudError as error:
        return [Finding(look.__name__.strip("_"), "fail", error.what, error.hint)]


def _tools(missing: Mapping[str, str]) -> Finding:
    """Programs of this machine. They are needed to build images, not to run vApps."""
    if not missing:
        return Finding("image tools", "ok", "all installed")
    install = "To build images here: apt-get install " + " ".join(sorted(set(missing.values())))
    return Finding("image tools", "note", f"missing: {', '.join(missing)}", install)


def _building(detail: str, way_out: str) -> Finding:
    """Namespaces of this machine, in which images are built without privilege."""
    return Finding("image building", "note" if way_out else "ok", detail, way_out)


def _link(host: Host) -> Iterator[Finding]:
    """Whether somebody on the way can read what crosses the network."""
    link, encrypted = link_of(host.ref)
    if encrypted is False:
        way_out = "Use qemu+ssh://USER@HOST/system in the inventory."
        yield Finding("link", "fail", f"it is reached by {link}", way_out)
    else:
        yield Finding("link", "ok", f"it is reached by {link}" if encrypted else link)


def _preparation(host: Host) -> Iterator[Finding]:
    """What `vcloud host add` would do there. None of it is a failure: what a host cannot do without it,
    the other looks tell. The hook is looked at by a question to libvirt.
    """
    steps = steps_of(look_at(host.shell, wanted_on()), wanted_on())
    left = [step for step in left_of(steps) if step.name not in ("hook", "restart")]
    for step in left:
        commands = "; ".join(map(str, step.commands))
        hint = f"{step.why} As root there: {commands}."
        yield Finding(step.name, "note", step.missing, hint)
    if not left:
        yield Finding("preparation", "ok", "the host has what `vcloud host add` gives a host")


def _versions(host: Host) -> Iterator[Finding]:
    found = capabilities_of(host)
    result = "ok" if found.libvirt >= LEAST_LIBVIRT else "fail"
    yield Finding(
        "versions",
        result,
        f"libvirt {found.libvirt}, QEMU {found.qemu}",
        "" if result == "ok" else f"vcloud needs libvirt {LEAST_LIBVIRT} or newer.",
    )


def _accelerator(host: Host) -> Iterator[Finding]:
    found = host_accelerator(host)
    hint = (
        ""
        if found.name == "kvm"
        else "VMs run without KVM, but several times slower. On real hardware: load kvm_amd or kvm_intel, and enable virtualisation in the firmware."
    )
    yield Finding(
        "accelerator",
        "ok" if found.name == "kvm" else "note",
        f"{found.name}: {found.reason}",
        hint,
    )


def _storage(host: Host) -> Iterator[Finding]:
    free = StoragePool(host).free
    yield Finding(
        "storage",
        "ok" if free >= LEAST_STORAGE else "note",
        f"pool 'vcloud': {free >> 20} MiB free",
    )


def _bridges(host: Host) -> Iterator[Finding]:
    done = host.shell.run(["cat", *BRIDGE_FILTERS])
    if b"1" in done.stdout.split():
        hint = "On the host: sysctl net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0."
        yield Finding(
            "bridges",
            "note",
            "br_netfilter sends bridged packets through the host's iptables, which can drop them",
            hint,
        )
    # The files exist only while br_netfilter is loaded.
    elif done.code == 0 or done.stderr.count(b"No such file") == len(BRIDGE_FILTERS):
        yield Finding("bridges", "ok", "bridged packets do not pass through the host's iptables")
    else:
        yield _unknown("bridges", "whether bridged packets pass through the host's iptables", done)


def _unknown(check: str, what: str, done: Executed) -> Finding:
    """What a command on the host could not find out."""
    why = done.stderr.decode(errors="replace").strip() or f"exit code {done.code}"
    return Finding(check, "note", f"unknown {what}: {why}")


def _filters(host: Host) -> Iterator[Finding]:
    """Without network filters, a VM could send packets with the address of another VM of its zone."""
    missing = machines.why_no_filters(host)
    hint = (
        "On the host: apt-get install libvirt-daemon-driver-nwfilter, and restart libvirtd."
        if missing
        else ""
    )
    yield Finding(
        "network filters",
        "fail" if missing else "ok",
        missing or "libvirt filters the packets that VMs send",
        hint,
    )


def _probes(host: Host) -> Iterator[Finding]:
    """Whether `verify` can send probes from the host: the host gets its probe program through stdin."""
    prober = Prober(lambda argv, stdin: host.shell.run(argv, stdin=stdin), shipped=False)
    try:
        prober.try_out(host.name)
    except HostError as error:
        yield Finding("probes", "note", error.what, error.hint)
    else:
        yield Finding("probes", "ok", "verify can send packets from the host")


def _host_side(host: Host) -> Iterator[Finding]:
    """Whether `status` and `verify` can look where libvirt does not look."""
    try:
        report = read_report(host)
    except HostError as error:
        yield Finding("host's side", "note", error.what, error.hint)
        return
    missing = sorted(set(unseen_kinds(report).values()))
    if report.program not in ("", installed_digest()):
        yield Finding(
            "host's side", "note", "the installed reporter is not that of this release", INSTALL
        )
    elif missing:
        yield Finding("host's side", "note", plain("; ".join(missing)), "Install what is missing.")
    else:
        yield Finding("host's side", "ok", "vcloud can look at bridges, filters and processes")


def _hook(host: Host) -> Iterator[Finding]:
    """Whether the host itself keeps VMs apart that may not share it."""
    answer = ask_hook(host, NOBODY)
    if not answer.exists:
        yield Finding("tenancy", "note", "no hook keeps vApps apart here", INSTALL_HOOK)
    elif not answer.trusts:
        what = "no VM of a vApp starts here with your signature, or without one"
        yield Finding("tenancy", "note", what, TRUST)
    elif not answer.knows:
        yield Finding("tenancy", "fail", f"no VM of a vApp can start here: {answer.refusal}")
    elif answer.digest != hook_digest():
        what = "the hook that keeps vApps apart is not that of this release"
        yield Finding("tenancy", "note", what, INSTALL_HOOK)
    else:
        yield Finding("tenancy", "ok", "a hook of libvirt's keeps vApps apart that may not meet")


def _memory(host: Host) -> Iterator[Finding]:
    free = capabilities_of(host).free_memory
    yield Finding(
        "memory",
        "ok" if free >= LEAST_MEMORY else "note",
        f"{free >> 20} MiB free; the shop needs about 2 GiB",
    )


def _cached_images(cached: Sequence[CachedImage]) -> Iterator[Finding]:
    """The age of the oldest image that the next VMs get."""
    if cached:
        oldest = min(cached, key=lambda image: image.current)
        what = f"the oldest image of the cache is {oldest.name}"
        yield _age_finding(what, oldest.current, "`vcloud image refresh` builds it anew.")


def _used_images(host: Host, checked: Mapping[str, str]) -> Iterator[Finding]:
    """The age of the oldest image that a VM was made from, and of how many VMs nobody knows it.

    `checked` maps digests of packages to the time at which they were last known to be those of that
    day.
    """
    ages, unknown = [], []
    for vapp in vapp_names(host):
        manifest = read_manifest(host, vapp)
        if not isinstance(manifest, Manifest):
            continue
        for vm in manifest.design.vms:
            image = manifest.image_of(vm.name)
            if image is None or not vm.image.recipe:
                continue
            if image.built:
                since = max(image.built, checked.get(image.packages, ""))
                ages.append((since, f"{vm.image.name} of {vapp}/{vm.name}"))
            else:
                unknown.append(f"{vapp}/{vm.name}")
    if ages:
        since, name = min(ages)
        hint = "`vcloud image refresh`, then `vcloud up` with the vApp's file, brings a newer one."
        yield _age_finding(f"the oldest image in use is {name}", since, hint)
    if unknown:
        yield Finding(
            "images",
            "note",
            f"nobody knows how old the images of {len(unknown)} VMs are, {unknown[0]} for example",
            "An earlier release made them. `vcloud up --refresh` makes them anew.",
        )


def _age_finding(what: str, since: str, hint: str) -> Finding:
    days = age_in_days(since, datetime.now(UTC).isoformat())
    old = days is None or days > OLD_DAYS
    told = "of unknown age" if days is None else f"{days} day{'s' * (days != 1)} old"
    return Finding("images", "note" if old else "ok", f"{what}, {told}", hint if old else "")


def _page_sharing(host: Host) -> Iterator[Finding]:
    """Whether the host shares equal memory pages of VMs. It saves memory, but a VM can tell by
    timing which pages other VMs hold.
    """
    found = ksm_of(host)
    if not found:
        yield Finding("page sharing", "note", "unknown whether VMs share equal pages")
        return
    on = found == ON
    hint = (
        ""
        if on
        else f"KSM saves memory but leaks content by timing; enable it only among trusted VMs: echo 1 >{KSM_RUN}."
    )
    yield Finding(
        "page sharing",
        "ok",
        "VMs share equal pages (KSM)" if on else "VMs share no pages (KSM is off)",
        hint,
    )


LOOKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _link,
    _preparation,
    _versions,
    _accelerator,
    _storage,
    _bridges,
    _filters,
    _probes,
    _host_side,
    _hook,
    _memory,
    _page_sharing,
)
