"""The server: sockets and time around sessions and a store."""
