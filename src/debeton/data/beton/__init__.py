"""The beton file: an FFCV file with group labels, and two sidecar files beside it.

- ffcv_format.py: FFCV's file format as NumPy types.
- image_decoding.py: any image file or array to upright RGB pixels.
- jpeg_repair.py, jpeg_segments.py, jpeg_scans.py: sound JPEGs that libjpeg complains of.
- coarse_jpeg.py: JPEGs decoded at a coarser scale, then averaged.
- images.py: one image on its way into a beton: kept, as raw pixels, or as a new JPEG.
- treatment.py: the record of what was done to each image.
- turbojpeg.py: libjpeg-turbo and FFCV's resizer, called directly.
- file.py: a beton while it is written, its sidecar, and the check of the bytes on the disk.
- columns.py: further values per row, in X.beton.columns.npz.
- row_checks.py: the checks of rows that need no image.
- writer.py: rows to a beton. Every image is checked first.
- merge.py: several betons to one. No image is decoded.
- reading.py: opening a beton.
- places.py: the places, sizes and sides of images, held against the file.
- image_sums.py: the checksums of images, with which each is compared when it is first read.
- verify.py: everything of a beton compared with what was written.
- table_rows.py: the rows of a beton, from its tables.
- opened.py: a file that is read through one descriptor, and the changes of that file since.
- adopted.py: the fields of betons that another program wrote.
- content.py: the hashes that name the content of a beton.
- stretches.py: the stored images of a beton, many at a time.
- sidecar.py: the description of a beton, X.beton.json, and its place.
"""
