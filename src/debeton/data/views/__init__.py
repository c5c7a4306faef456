"""Views: which rows of a beton, how often, in which order, in which groups."""
