"""Tests of vcloud.hosts on one real libvirt host. pytest ends the host after the last test of this
folder.
"""
