"""The hosts that a command has opened, with the locks it holds on them and the state it has seen
there, in one place.

Every command begins here. `open_lab` opens all hosts that the command line, the environment and the
inventory name; `open_home` leaves the one that has a vApp; `open_fleet` opens one host, for commands
about a host. They close the connections in the end. A command that changes something holds the
vApp's lock on each host of its fleet meanwhile. Locks are taken in alphabetical order of the hosts'
names, so that two operators cannot wait for each other.

A vApp is on one host, and `Fleet.home` is that host. What a command says of "the host" goes through
`Fleet`, so that only this room changes when a vApp has several.
"""
