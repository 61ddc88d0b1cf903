"""What a user may write, and everything that can be said about it without looking at a host.

A file passes four stations, and each has one module: `document` turns text into a plain tree that knows its lines and refuses what YAML
readers disagree about; `parameters` fills in `${...}`; `model` and `types` turn the tree into values that cannot be wrong in themselves;
`check` compares parts of the file with each other and with the files it names. `load` walks a file through them and reports everything
that is wrong at once: what a station refuses is taken out of the tree, so that the next one can still judge the rest. `report` puts what
pydantic finds into the words of the file.

Patterns of detectors are judged by `pattern`: whether Suricata's PCRE reads and takes them (`pcre`), and whether they end in time
(`backtracking`).

All text is hostile until a type of `types` has accepted it: names, paths, services and patterns are so narrow that no later text (XML, nft,
YAML, a Suricata rule, a shell's argv) can be broken out of; free text is printable and bounded.

What is valid but cannot be enforced by this release is named by `refuse` and stops `plan` and `up`: nothing is accepted and ignored.
"""
