r"""Leak detectors as rules of Suricata: data that must not leave a set of zones.

The zones of a detector are one set. All data from an address in the set to an address outside it is
searched, whichever side began the connection: uploads and answers alike. Inside the set the data
may move freely. Data from other zones is not searched.

- A connection of an excepted flow gets a flowbit, and the rules of the detector match only where
  the bit is absent. (`pass` would switch off every other rule for that connection, too.) The name
  of the bit depends on the exception, so that an exception that was removed does not go on for old
  connections after a live reload.
- The raw TCP stream and the payload of UDP and ICMP are always searched. Where an encoding hides
  plain text (chunks, gzip, %XX, base64 in mail, HPACK, labels in DNS names), the decoded form is
  searched as well: `channels`. Data that is encrypted, archived or encoded in another way is not
  seen.
- `at_least` counts on a whole connection, in each channel by itself: a script remembers what it has
  counted. Each datagram of a UDP exchange and each request of a connection adds to it.
- The action of the detector counts, not the mode of the IPS: `block` drops even if the IPS only
  detects intrusions.
- A rule, its metadata and a script name the detector, the channel and the flow by their ids.
  Everything is sorted by these ids, so the order of the vApp file changes no byte.

To add a kind of data (a *detector kind*), change three files:

1. a module here, that has what `kinds.DetectorKind` asks for: its name, what it searches, its
   scripts, its test payloads (and, if it needs one, a Lua template in `templates/suricata`);
2. `kinds.KINDS`, which maps its name to the module;
3. `vcloud.values.BUILT_IN_DETECTORS`, the names that a vApp file may use in `detect`.
"""
