"""Readers that turn the folders of owners into rows, shared by several data sets, and the downloads.

- source.py: the interface of a data set. Each module of data/sources registers with it.
- layout.py: the places where the files of a set may lie, and its owner's lists as splits.
- image_files.py: image files of a folder or a zip, and arrays, as rows.
- class_folders.py: SPLIT/CLASS/* folders, as torchvision's ImageFolder reads them.
- other_files.py: the files among the images of a set that are none of its rows.
- shared_images.py: images that are in two splits.
- tables.py: label files (CSV, text), and names turned into codes.
- faces.py: attribute tables and base bias of the face sets.
- age_bands.py: ages as bands.
- parts.py: sets that are made of other sets, and where those lie.
- stacked.py: two sets, one image above the other (dominoes, mnist_cifar).
- align_conflict.py: released sets with align/ and conflict/ folders, and the arrays of LfF.
- skew.py: sets with one attribute per class, released or made.
- imagenet_classes.py: names and subsets of the ImageNet classes.
- shipped_splits.py: the splits that From Fake to Real ships as pickles.
- own_data.py: images in memory, and PyTorch data sets, as rows.
- write_dataset.py, dataset_items.py, item_values.py: a PyTorch data set to a beton, each item read once.
- value_table.py, value_codes.py: numbers and text beside images, as codes with names and as columns.
- adopt.py: a beton that FFCV's own writer made gets a sidecar.
- arrow_tables.py, tar_shards.py: files of the libraries `datasets` and webdataset.
- labelled_splits.py: their rows with labels, divided into splits.
- pickles.py: pickles of plain data, read without running their code.
- synthetic_images.py: folders of synthetic images as rows with source 1.
- corruptions.py: synthetic images made worse on purpose.
- cifar_corruptions.py: the corruptions of images of 32x32 pixels.
- check.py: the report of `--check`.
- fetch.py, download.py, unpack.py: the steps of `--download`.
"""
