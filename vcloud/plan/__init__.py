"""Plans: the changes that bring a host from its state to the wanted one, and their cost to those
who use the vApp now. Pure.

The path of a plan:

- `wanted` turns a compiled vApp into the manifest that the host will keep, with the digest of
  everything that is rendered.
- `diff` compares this manifest with what stands (`state`) and yields steps. `reasons` says in words
  what differs.
- `order` adds what each step needs, so that a vApp stays closed while it changes. `vcloud.apply`
  runs exactly these steps.

What is compared is what is rendered. A VM has three digests, one for each cost: `root` (the VM is
made anew), `hardware` (restarted) and `identity` (configured live). Networks, the filter and both
rulesets have one each. So a change of a template reaches what stands, as a change of the file does,
and nothing has to be listed field by field. Digests also cover secrets, which a manifest must not
hold.

While the last run has ended, the manifest says what every VM was made from. After a run that was
killed, each domain's own mark says it. A domain gets its digests only when it is wholly made. A
domain without digests is made anew, so no half-made VM is taken for a whole one.

libvirt shows a manifest to more people than may read secrets. So file contents and run commands
stand there as digests.

`formats` writes manifests down, reads those of earlier releases, and knows a newer release's
manifest when it sees one. To add a field to the manifest, give it a default, or raise the format
there.

A new kind of step touches `steps` (verb, cost, undo), `diff` (when it is needed), `order` (what it
needs) and `vcloud.apply.actions`.
"""
