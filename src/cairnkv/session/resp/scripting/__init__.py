"""Scripts of clients of the Redis protocol: their execution for a client, and their share of the server's time."""
