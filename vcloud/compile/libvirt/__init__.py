"""libvirt's XML of domains, networks and network filters.

Templates in `templates/libvirt` hold the layout. Every value that a template prints is typed and decided here.
"""
