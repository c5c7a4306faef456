"""Views: the rows of a beton that a run uses, how often, in which order and groups. Never pixels.

view.py             a view, and what can be derived from one: subsets, other columns, other groups
subsets.py          subsets of rows: bias rates, balance, folds, SCALE's target set, a sample of each group
synthetic_modes.py  modes that combine real and synthetic rows: usb, asb, ffr and their controls
row_lists.py        rows and groups from files of the user
splits.py           the views of a run: its betons opened and all the steps above applied in sequence
"""
