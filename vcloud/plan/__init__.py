"""What must change, and what each change costs those who use the vApp now. Pure: two values in, a plan out.

A VM is compared by three digests, one per cost: `root` (made anew), `hardware` (restarted) and `identity` (applied live). Digests, and
not the fields themselves, because what they cover includes secrets, and because one comparison is all that doing nothing may cost.

What stands is told by the manifest while its last run ended, and by each domain itself when that run was killed. A domain gets its
digests only when it is wholly made: one without them is made anew, and no half-made VM is ever taken for a whole one.

The manifest is kept in libvirt, where more people may read than may read secrets. So it holds file contents and run commands as digests
only. `root` and `hardware` are taken from that redacted design, `identity` from the lines that the guest gets, with the files' contents.

The order of `Verb` is the order of work. A name that belongs to somebody else is an error here, before anything is touched.
"""
