"""Leak detectors as rules of Suricata, and the payment card numbers that they look for."""
