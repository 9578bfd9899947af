"""Sweeps (`-m`): plan them, run their jobs under any launcher, and report on the console."""
