"""A program that sends probes and answers them on a machine that does not have vcloud.

Shipped images have a C program for this (images/base/guest: probe.c, listen.c). This program does
the same and speaks the same lines. `vcloud.guests.probes` sends it to machines without the C
program: a host, a lab's outside world, and VMs of a user's own image.
tests/netns/guest/test_probe.py runs both programs on the same cases. Only this one can be told by
which network card a probe leaves.

    probe            sends the probes on stdin, one per line; prints one JSON object for each
    listen SECONDS   serves the addresses on stdin in the background; prints one JSON object
    listen-stop PID  ends such a background process

`frames.pl` and `frames.py` are programs of their own. They send whole Ethernet frames, which the C
program cannot: Perl from VMs of shipped images, Python from the others.

The modules of this package run on Python 3.9 and import only the standard library and each other.
They travel over stdin (`loader`), so that nothing of them is written to a disk of that machine.
"""
