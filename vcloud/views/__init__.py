"""What vcloud shows without changing anything: `status`, `list`, `doctor`, `render`, and the
starter files of `init`.
"""
