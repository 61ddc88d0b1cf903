"""vcloud: an application of many VMs, together with its protection, from one file."""

__version__ = "0.1.0"
