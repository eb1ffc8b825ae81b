"""One module a command: `add_arguments(parser)` and `run(arguments) -> exit code`.

The module's docstring is the command's help text.
"""
