"""The command line: one file for each group of commands.

Commands import what they run when they run it, so that ``--help`` and ``solve`` do not wait for torch.
"""
