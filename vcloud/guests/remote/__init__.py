"""A program that sends and answers probes on a machine without vcloud.

Shipped images have a C program for this (images/base/guest: probe.c, listen.c). This program does
the same, and reads and prints the same lines. `vcloud.guests.probes` sends it to machines without
the C program: a host, a lab's outside world, and VMs of a user's own image.
tests/netns/guest/test_probe.py runs both programs on the same cases. Only this one supports a
choice of the network card that a probe leaves by.

    probe            sends the probes on stdin, one per line; prints one JSON object for each
    listen SECONDS   serves the addresses on stdin in the background; prints one JSON object
    listen-stop PID  ends such a background process

`frames.pl` and `frames.py` are programs of their own. They send whole Ethernet frames, which the C
program cannot do: Perl in VMs of shipped images, Python elsewhere. `hold.pl` and `hold.py` keep TCP
connections open in the same way.

The modules of this package run on Python 3.9 and import only the standard library and each other.
They are sent through stdin (`loader`), so that no file is written on that machine.
"""
