"""What a guest is given: its identity lines (`identity`), cloud-init's files (`cloudinit`), and the gate of a user's own image (`gate`)."""
