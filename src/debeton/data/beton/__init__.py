"""The beton file: an FFCV file with group labels, and two sidecar files beside it.

- ffcv_format.py: FFCV's file format as NumPy types.
- images.py: one image, from any file or array to RGB pixels or JPEG bytes.
- jpeg_repair.py, jpeg_segments.py, jpeg_scans.py: sound JPEGs that libjpeg complains of.
- turbojpeg.py: libjpeg-turbo and FFCV's resizer, called directly.
- file.py: a beton while it is written, its sidecar, and the check of the bytes on the disk.
- columns.py: further values per row, in X.beton.columns.npz.
- writer.py: rows to a beton. Every image is checked first.
- merge.py: several betons to one. No image is decoded.
- reading.py: opening a beton.
"""
