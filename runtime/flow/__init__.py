"""The way of an event: intake → dispatch → run → outcomes, and delivery to sinks. No stage imports another."""
