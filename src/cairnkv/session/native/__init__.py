"""The native protocol's conversation, and its native path."""
