"""Sweeps (`-m`): from the command line to a plan, to its jobs under any launcher, and to the last word."""
