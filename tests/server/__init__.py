"""The server, attacked from outside: through sockets, signals, files and its environment."""
