"""Tests of one running shop. pytest takes it down after the last test of this folder."""
