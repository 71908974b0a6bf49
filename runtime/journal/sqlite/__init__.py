"""The journal on SQLite: one file, one thread that writes, many calls in one commit."""
