"""The Redis protocol: conversations and commands.

`command_spec` has the declarations, `commands` the commands, `command_docs` the replies of COMMAND, `conversation` the
state of one client, `glob` the patterns.
"""
