"""The beton file: write it, open it, read it back and merge it."""
