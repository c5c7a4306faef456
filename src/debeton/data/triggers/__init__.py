"""Triggers: shortcuts that are planted in images.

- trigger.py: the triggers, the rows that carry them, and the kernel that plants them.
- patches.py: the small RGBA pictures that square, hat and overlay put over an image.
"""
