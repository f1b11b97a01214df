"""The commands of cairnkv: their registry, their replies and their failure codes.

This package exports every public name of `vocabulary`, where commands on keys are declared, and `__all__` of its other
modules. `queue_vocabulary` declares the commands on queues.

Invariants: this package does no I/O, and imports only leaf modules.
"""

# ruff: noqa: F403

from typing import Final

from cairnkv.commands import failures as failures
from cairnkv.commands import grammar
from cairnkv.commands.failures import *
from cairnkv.commands.grammar import *
from cairnkv.commands.queue_vocabulary import *
from cairnkv.commands.replies import *
from cairnkv.commands.vocabulary import *

COMMANDS: Final = tuple(spec.command for spec in grammar.BY_NUMBER.values())
"""The class of each command."""
