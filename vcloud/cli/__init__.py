"""The command line. It reads options, calls functions of the other packages, and prints their
results. It makes no decisions.

Data goes to stdout and messages to stderr, so that every command can be used in a pipe. Long work
reports what each VM is doing.

`app` is the one place where a VcloudError becomes text and the process ends. Any other exception is
a bug of vcloud, and its traceback goes to a file.

Commands import what they need when they run. `--help` and `validate` must not import libvirt and
paramiko, which takes longer than loading a file. For the same reason these modules do not use `from
__future__ import annotations`: typer would compile each annotation at every start.

To add a command: write a function with a docstring (its help) in the module of its group, register
it there, and return data that `cli.output` can print as a table, as JSON and as YAML.
"""
