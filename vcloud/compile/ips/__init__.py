"""The files of a vApp's IPS: `rules` has the intrusion rules that vcloud ships with their test
payloads, `files` makes all files.
"""
