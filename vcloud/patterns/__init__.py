"""Regular expressions of leak detectors.

Suricata runs them in PCRE, on text that an attacker may choose. So a pattern is accepted only where PCRE and Python read it alike (`pcre`),
where the search ends in bounded time (`backtracking`), and where it finds something (`pattern`). `example` makes the texts that prove it.
"""
