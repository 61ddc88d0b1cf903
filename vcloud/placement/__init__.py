"""Which host each VM of a vApp runs on. Pure: a function of the design, of what a run starts, and of
what the hosts can do.

`cores` decides which cores of its host a vApp gets for itself.

`capabilities` holds what is known of a host, as values that the plan, `doctor` and later the
profiles share. `capacity` says what a host has no room for. `labels` says which rules of placement a
host breaks. `place` decides. `explain` finds the fewest reasons where no host can run a vApp.

`needs`, `planner`, `solver` and `advice` are about all vApps of a lab at once: where a new vApp fits
nowhere, they say whether it would if others stood elsewhere, or which rules forbid it.

A vApp runs on one host, because its zones are bridges of that host, and stays there (`on_one`). Each
host of a lab makes its own plan for a new vApp, so that a host is chosen for what it would really
do. What a host cannot enforce or carry is refused by name, before anything is changed. Which vApps may share a host is decided by
`vcloud.tenancy`, in the hook of the host (`vcloud.enforce.qemu_hook`), which the plan asks.
"""
