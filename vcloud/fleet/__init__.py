"""The hosts that a command has opened, with the locks it holds on them and the state it has seen
there, in one place.

Every command begins with `open_fleet`. It chooses hosts by the command line, the environment and
the inventory, connects to them, and closes the connections in the end. A command that changes
something holds the vApp's lock on each host meanwhile. Locks are taken in alphabetical order of the
hosts' names, so that two operators cannot wait for each other.

Today a fleet has one host, and `Fleet.home` is that host. What a command says of "the host" goes
through `Fleet`, so that only this room changes when a vApp has several.
"""
