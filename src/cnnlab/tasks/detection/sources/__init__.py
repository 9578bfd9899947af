"""Data sets with boxes or masks, one file for each format."""
