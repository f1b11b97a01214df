"""Programs of packages that speak the Redis protocol, each with cairnkv or redis-server: `make test-applications`."""
