"""Plans: the changes that bring a host from its state to the wanted one, and what each change costs
the users of the vApp. Pure.

The path of a plan:

- `wanted` turns a compiled vApp into the manifest that the host will keep, with the digest of
  everything that is rendered.
- `diff` compares this manifest with what stands (`state`) and yields steps. `reasons` says in words
  what differs.
- `images` chooses the build of its image for each VM. `host_images` knows which copies of images a
  host has, and which of them nobody needs.
- `disks` finds where the data of each disk is, `losses` finds the data that a step would destroy.
  Users agree to each loss by name.
- `stopping` says in which order VMs stop, and which may.
- `order` adds what each step needs, so that a vApp stays closed while it changes. `vcloud.apply`
  runs exactly these steps.

Plans compare digests of rendered text. A VM has three digests, one for each cost: `root` (the VM is
made anew), `hardware` (restarted) and `identity` (configured live). Networks, the filter and both
rulesets have one each. So a changed template reaches existing VMs like a changed file, and no code
has to list fields one by one. Digests also cover secrets, which a manifest must not hold.

If the last run ended, the manifest says what every VM was made from. After a run that was killed,
only the mark of each domain says it. A domain gets its digests only when it is completely made. A
domain without digests is made anew, so an incomplete VM is never used. A VM whose services do not
become ready is complete, too: its mark says that it is not ready, and the next run configures it
again.

libvirt shows a manifest to more people than may read secrets. So a manifest holds only digests of
file contents and run commands.

`formats` writes manifests down, reads those of earlier releases, and knows a newer release's
manifest when it sees one. To add a field to the manifest, give it a default, or raise the format
there.

Only root sees the bridges, ports, packet filters and processes of a host. `host_report` reads them
from a report, and `host_side` compares them with the design. `host_difference` lists the kinds of
differences, and `host_mending` says which step repairs each. `host_isolation` compares what the
VMs' processes share of processors and memory, if the vApp demands something. No step touches what belongs to
somebody else: the plan names it (`Plan.unmended`), and `vcloud up` ends with an error.

While a vApp moves to another host (`moving`), both hosts have a copy of it. `copies` says which one
counts, from a record in both manifests.

What a host has that vcloud has prepared is no part of a vApp: `preparation` lists it as steps, judged
from what `seen_host` has read. `vcloud host add` runs them, `host check` and `doctor` tell which are
left. To prepare one more thing, add a function there that makes its `Step`.

A new kind of step of a vApp touches `steps` (verb, cost, undo), `diff` (when it is needed), `order` (what it
needs) and `vcloud.apply.actions`.
"""
