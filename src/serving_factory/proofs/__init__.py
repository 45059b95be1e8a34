"""What travels with an image: signatures, and what `verify` reads back from a registry. Needs the extra `signing`."""
