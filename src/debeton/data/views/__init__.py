"""Views: the rows of a beton that a run uses, how often, in which order and groups. Never pixels.

- view.py: a view, and views derived from it (subsets, other columns, other groups).
- subsets.py: bias rates, balance, folds, SCALE's target set, a sample of each group.
- synthetic_modes.py: modes that combine real and synthetic rows (usb, asb, ffr and their controls).
- dealing.py: whole numbers of rows for a share of every group.
- held_out_test.py: rows of train that are written as a test split.
- row_lists.py: rows and groups from files of the user.
- splits.py: the views of a run. Its betons are opened, and all the steps above are applied in turn.
"""
