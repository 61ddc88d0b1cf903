"""The command line: options in, the library's functions called, text and an exit code out. No decision is made here.

Data goes to stdout and talk to stderr, so that every command can stand in a pipe. Long work tells what each VM is doing.

`app` is the one place where a VcloudError becomes text and the process ends; what is no VcloudError is a bug, and its traceback goes to a file.

Commands import what they need when they run. `--help` and `validate` must not pay for libvirt and paramiko, whose import alone takes
longer than loading a file. For the same reason the annotations of these modules are no strings (`from __future__ import annotations`):
typer would compile each of them anew, at every start.
"""
