"""The commands that run in an image while it is built, as one shell script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from vcloud.images.way_out import Policy

BEGIN = """\
umask 022
rc=/usr/sbin/policy-rc.d
ours=
if [ ! -e $rc ]; then
  printf '#!/bin/sh\\nexit 101\\n' >$rc
  chmod 755 $rc
  ours=1
fi
"""
"""Packages start their daemons after installation. policy-rc.d forbids this (Debian Policy 9.11.3).
"""
FILES_AND_COMMANDS = """\
tar -C / --numeric-owner -xpf -
for line; do
  /bin/sh -exc "$line" </dev/null
done
"""
END = """\
if command -v apt-get >/dev/null; then
  apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null update </dev/null
  apt-get clean
fi
rm -rf /var/lib/apt/lists/auxfiles /tmp/* /tmp/.[!.]*
rm -f /var/log/dpkg.log /var/log/apt/history.log /var/log/apt/term.log /var/log/apt/eipp.log.xz
rm -f /var/log/alternatives.log /var/cache/ldconfig/aux-cache /var/lib/dbus/machine-id
rm -f /etc/hostname /etc/resolv.conf /etc/machine-id
echo vcloud >/etc/hostname
: >/etc/resolv.conf
: >/etc/machine-id
[ -z "$ours" ] || rm -f $rc
"""
"""Removes the lists of packages, and everything that depends on the building machine or on the time
of the build.
"""


def install_command(
    packages: Sequence[str], lines: Sequence[str], policy: Policy
) -> tuple[str, ...]:
    """The command that installs packages, unpacks the archive of files on its standard input, runs
    the lines of a recipe, and cleans up.

    Each line is a separate argument, because the kernel limits the length of one argument.
    """
    apt = "".join(
        f"{name}={shlex.quote(value)} " for name, value in policy.variables_for_apt.items()
    )
    install = ""
    if packages:
        install = (
            f"{apt}apt-get -q update </dev/null\n"
            f"{apt}apt-get -q install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io {shlex.join(packages)} </dev/null\n"
        )
    script = BEGIN + install + FILES_AND_COMMANDS + END
    return ("/bin/sh", "-ec", script, "/bin/sh", *lines)
