"""All that vcloud says to a guest, and all that it reads from one.

Everything goes through the guest agent, a virtio-serial channel or the serial console. No network path is opened, so the isolation of a VM
is not weakened to administer it.

Whatever a guest says is hostile: the VM may have been broken into. An answer is data of any shape until it is parsed, and an answer that
cannot be read fails the work on that one VM only.
"""
