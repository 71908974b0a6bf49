"""Executors: how a step is called. Each has a file, and is a `runtime.contracts.Executor`."""
