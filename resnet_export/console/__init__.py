"""The terminal: progress, messages, option types, interrupts."""
