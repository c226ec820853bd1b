"""One file a command: `add_parser` declares its arguments, `run` does it.

What is heavy is imported when a command runs.
"""
