"""What a guest gets: identity lines (`identity`), or cloud-init's files (`cloudinit`) and a gate in
its boot (`gate`) in an image of a user's own.
"""
