"""The nft ruleset of a vApp's firewall: `rules` decides it as values, `ruleset` renders it and adds
its digest.
"""
