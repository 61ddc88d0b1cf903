"""Profiles: what a regulation demands of a vApp, one immutable file for each of its versions.

A profile names controls. A control of status `enforced` has demands (`model`), and one of status
`supports` may have some that are a part of what it asks for. A demand checks the vApp file, or adds
protection to its design, and does nothing else. Demands are code; a profile only selects them and
gives them parameters, so a new version of a regulation is a file with data.

`written` reads a profile's file, `choose` finds the version that counts on a day, `merge` joins the
demands of several controls to the strictest, and `harden` applies them to a vApp: its result says
which problems the file has and what `vcloud.design.resolve` adds. `difference` compares two versions.

Everything here is pure: the day is a value, and `vcloud.profile_files` reads the files.

A profile enforces and supports controls of a regulation. Whether the regulation is met, it does not
say: most controls are about people and papers, and each file lists these by their ids.

To add a demand:

1. Write its class in `model`, with the order of each parameter in `merge`.
2. Write the mapping that a user writes in `written`.
3. Write what it checks into `checks`, or what it adds into `harden`.
"""
