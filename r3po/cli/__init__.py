"""The terminal: commands, what they print, exit codes, and the live display.

Owns every word on stdout and stderr, and the only imports of Typer and Rich. It calls one library function a command;
it must not decide anything about a job, and nothing but the entry point may import it.
"""
