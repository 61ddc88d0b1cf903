"""Permission to start, bound to the host's boot: a VM that the host knows from an earlier boot does not
start until somebody who reaches the other hosts has said that it may. The text of this module is part
of the hook (`vcloud.enforce.install`).

While a host was dead, its vApps may have got a place elsewhere. The host itself asks nobody. So the
operator's `up`, or `host admit`, compares the copies on all hosts first, and then admits the VMs by a
signed notice that names the boot. A host without a list of operators could not tell who has said it.
It starts VMs after a boot as ever.
"""

from __future__ import annotations

from vcloud.enforce.hook_files import RefusedError
from vcloud.enforce.hook_known import known
from vcloud.enforce.hook_operators import asks_for_signatures
from vcloud.enforce.hook_processes import boot


def refuse_unadmitted(name: str, uuid: str, vapp: str) -> None:
    """Raises RefusedError where a VM of the vApp is known from an earlier boot only, BrokenError."""
    found = known().get(uuid)
    if found is None or found["boot"] == boot() or not asks_for_signatures():
        return
    raise RefusedError(
        f"'{name}' was not admitted since this host has booted, and '{vapp}' may have a newer copy on another host by now; `vcloud up` or `vcloud host admit` looks there, and admits it"
    )
