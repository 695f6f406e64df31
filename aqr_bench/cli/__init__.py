"""The aqr-bench command: one module a command; arguments, printing and exit codes."""
