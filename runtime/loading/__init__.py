"""Loading: files become modules, modules a generation; a watcher tells when to load again."""
