"""What vcloud shows without changing anything: `status`, `list`, `doctor`, `host show`, `render`, and the
starter files of `init`.
"""
