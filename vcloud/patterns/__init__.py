"""Regular expressions of leak detectors.

Suricata runs them in PCRE, on text that an attacker may choose. So vcloud accepts a pattern only if
PCRE and Python read it alike (`pcre`), if every search ends in bounded time (`backtracking`), and
if it matches some text (`pattern`). `example` makes the texts with which `verify` proves a
detector.

All of them work on one tree (`tree`), which `parser` reads. The parser is our own, because Python's
is private and merges alternatives: `re` reads `([ab]|a)*` as a set, but PCRE tries both branches,
and takes exponential time. A test compares our parser with `re`.

To accept one more construct of PCRE: add a node to `tree` and read it in `parser`. mypy then names
`tree.width` and `pcre`, which must know each node. Decide in `pattern`, `backtracking` and
`example` whether they need to know it, too.
"""
