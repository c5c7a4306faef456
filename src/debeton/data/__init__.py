"""The way from a raw folder to batches.

- spec.py: names and conventions of a data set (classes, attributes, groups), and the rows of one split.
- draws.py: random numbers that depend on seed, epoch and position alone.
- image_names.py: the file names that count as images.
- split_names.py: the names of splits, and other words for them.
- left_out.py: what is not in a data set although its folder holds it.
- beton/: the beton file. It is written, opened, read back and merged here.
- triggers/: shortcuts that are planted in images (square, pattern, hat, overlay).
- raw/: readers for the folders, archives and tables that owners publish, and the download of these.
- sources/: one module for each data set, from its raw folder to rows.
- views/: the rows that an experiment uses, how often and in which order. Views hold no pixels.
- loader/: batches of a view, decoded, cropped and normalised.
"""
