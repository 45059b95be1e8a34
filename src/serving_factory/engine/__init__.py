"""The only rooms that talk to the outside: buildx, the Docker engine, the registry."""
