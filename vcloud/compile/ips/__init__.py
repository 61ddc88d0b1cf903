"""The files of a vApp's IPS: `rules` holds the shipped rules of Suricata with their proofs, `files` puts all files together."""
