"""Starts the program on a machine without vcloud: `python3 -c` gets this text, and stdin carries
the modules.

The first line of stdin names each module and its size in bytes. The modules follow, and then the
input of the program. The last module holds `main`.
"""

import sys
import types

if sys.version_info < (3, 9):  # noqa: UP036 - it runs on any machine
    raise RuntimeError("python3 is older than 3.9")
header = sys.stdin.buffer.readline().decode().split()
for name, size in zip(header[::2], header[1::2]):  # noqa: B905 - `strict` needs Python 3.10
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(sys.stdin.buffer.read(int(size)), name, "exec"), module.__dict__)  # noqa: S102 - the text is vcloud's own
sys.exit(module.main(sys.argv[1:], sys.stdin.buffer.read()))
