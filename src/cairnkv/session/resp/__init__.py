"""Conversations on Redis' wire: what its words mean here.

`command_spec` says how a word is declared, `commands` declares them, `conversation` is one client's, `context` is what
the conversations of a server share, `command_docs` is what COMMAND tells of the declarations. `glob` has the patterns.
"""
