"""What a user may write in a vApp file, and all checks of it that need no host.

`load` takes a file through `documents`, with the model of this package (`model`, `vm`), and through
`check`, which compares parts of the file with each other and with the files beside it. All problems
are reported at once: if some values are wrong, the rest is still checked. `notes` says what is
allowed but probably not meant. `schema` prints the JSON schema. This package reads no files.
`surroundings` describes what it needs to know about them, and `vcloud.files` provides it.

All text in a file is hostile until a type of `types` has accepted it. Names, paths, services and
patterns are so narrow that they cannot break out of any later text: XML, nft, YAML, a Suricata
rule, a shell's arguments. Free text is printable and bounded.

A file may say things that this release cannot enforce. Nothing is accepted and then ignored:
`refuse` names each of them and stops `plan` and `up`.

To add a field to a flow (or to any other mapping):

1. Write one line in the class `Flow` of `model`. A text with a fixed shape needs no more than
   `Annotated[str, Shape(pattern, wrong, hint)]`: the check, the message and the JSON schema come
   from it. Other types are in `fields`. A type for several fields gets a name there.
2. If nothing enforces the field yet, add `Unenforced(sentence)` to that line, and stop here.
   Otherwise give `design.model.Flow` the field, and fill it in `design.resolve`.
3. If other parts of the file limit the field, write a check into `check`.
4. Write the field into tests/golden/files/whole/vapp.yaml, which must have all of them.

Error messages, `vcloud schema`, defaults, parameters and the golden test follow from the line in
the model.
"""
