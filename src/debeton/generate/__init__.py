"""Tools that generate sets of synthetic images, check them and describe them.

prompts: texts for every (class, attribute) cell.
generators: sources of images, for example Stable Diffusion; one module each.
filters: rules that reject bad images.
image_set: the folder that holds the images and their manifest.
generation: the loop that fills an image set.
contact_sheets: overview pictures of a set.
arrays: one .npy file per class.
captions: captions of the images, and the words that separate the classes.
"""
