"""The program's commands. If the input is wrong, it prints `error LINE REASON` and ends with exit
code 1.
"""

from __future__ import annotations

import sys

from vcloud.guests.remote.listen import listen, listen_stop
from vcloud.guests.remote.probe import probe_all
from vcloud.guests.remote.wire import InputError

USAGE = "usage: probe | listen SECONDS | listen-stop PID"


def main(words: list[str], data: bytes) -> int:
    """Runs one command with its words and its standard input. Returns the exit code."""
    try:
        if words == ["probe"]:
            probe_all(data)
        elif len(words) == 2 and words[0] == "listen":
            listen(words[1], data)
        elif len(words) == 2 and words[0] == "listen-stop":
            listen_stop(words[1])
        else:
            print(USAGE, file=sys.stderr)
            return 2
    except (InputError, ValueError, OSError) as error:
        line = error.line if isinstance(error, InputError) else 0
        # The error may quote the input, which may hold any character.
        print(
            f"error {line} " + "".join(char if " " <= char <= "~" else "?" for char in str(error))
        )
        return 1
    return 0
