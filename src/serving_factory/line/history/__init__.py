"""What earlier runs did: a small SQLite file in the build folder, its writer, and what can be read from it."""
