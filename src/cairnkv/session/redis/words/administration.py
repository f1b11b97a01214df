"""The words on the server: what it serves, how it is set, what it says of itself."""
