"""The Redis wire beside the real thing: differences, conversations, and Redis' own test suite."""
