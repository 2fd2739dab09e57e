"""A plan and what is known of it, as one page and as files.

Knows nothing about the command line.
"""
