"""Which host each VM of a vApp runs on. Pure: a function of the design and of what the hosts can
do.

`capabilities` holds what is known of a host, as values that the plan, `doctor` and later the
profiles share. `place` decides. It runs between the design and the compiler, because a compiled
text may depend on the host.

A vApp that stands stays where it stands. A new one goes to the one host of the command, if that
host can enforce all that the vApp needs; what a host cannot enforce is refused by name.
"""
