"""The command line. Modules import what is heavy only where it is used: a command starts in well under 0.3 s of CPU."""
