"""Plans: the changes that bring a host from its state to the wanted one, and their cost to those
who use the vApp now. Pure.

The path of a plan:

- `wanted` turns a compiled vApp into the manifest that the host will keep, with the digest of
  everything that is rendered.
- `diff` compares this manifest with what stands (`state`) and yields steps. `reasons` says in words
  what differs.
- `images` says which build of its image each VM is to have, `host_images` which copies of images a host
  has and which of them nobody needs.
- `disks` says where the data of each disk is, `losses` what a step would take away. People agree to
  each loss by name.
- `order` adds what each step needs, so that a vApp stays closed while it changes. `vcloud.apply`
  runs exactly these steps.

What is compared is what is rendered. A VM has three digests, one for each cost: `root` (the VM is
made anew), `hardware` (restarted) and `identity` (configured live). Networks, the filter and both
rulesets have one each. So a change of a template reaches what stands, as a change of the file does,
and nothing has to be listed field by field. Digests also cover secrets, which a manifest must not
hold.

While the last run has ended, the manifest says what every VM was made from. After a run that was
killed, each domain's own mark says it. A domain gets its digests only when it is wholly made. A
domain without digests is made anew, so no half-made VM is taken for a whole one. A VM whose
services do not become ready is wholly made all the same: its mark says that it is not ready, and
the next run looks after it.

libvirt shows a manifest to more people than may read secrets. So file contents and run commands
stand there as digests.

`formats` writes manifests down, reads those of earlier releases, and knows a newer release's
manifest when it sees one. To add a field to the manifest, give it a default, or raise the format
there.

What only root sees of a host is read by `host_report` and compared with the design by `host_side`:
bridges, ports, packet filters and processes. `host_isolation` compares what these processes share of
processors and memory, as far as the vApp demands something. `host_difference` lists the kinds of differences, and
`host_mending` says which step ends each. What belongs to somebody else is ended by no step: the plan
tells it (`Plan.unmended`), and `vcloud up` ends with an error.

What a host has that vcloud has prepared is no part of a vApp: `preparation` lists it as steps, judged
from what `seen_host` has read. `vcloud host add` runs them, `host check` and `doctor` tell which are
left. To prepare one more thing, add a function there that makes its `Step`.

A new kind of step of a vApp touches `steps` (verb, cost, undo), `diff` (when it is needed), `order` (what it
needs) and `vcloud.apply.actions`.
"""
