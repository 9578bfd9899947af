"""Where lines of text come from: drawn from fonts, or pictures that a table lists."""
