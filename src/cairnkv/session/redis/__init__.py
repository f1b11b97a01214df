"""Conversations on Redis' wire: what its words mean here.

`grammar` says how a word is declared, `words` declares them, `conversation` is one client's, `surroundings` is what the
conversations of a server share, `manual` is what COMMAND tells of the declarations. `glob` has the patterns.
"""
