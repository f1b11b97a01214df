"""Access control: users, their rights, and the decisions about commands, keys and channels. Sans-IO."""
