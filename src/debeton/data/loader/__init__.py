"""Batches: images decoded, cropped, augmented and normalised ahead of the training step.

The modules, in the sequence in which a batch passes them:

- loader.py: `make_loader`, from a view to batches. An epoch is an iterator with a thread of its own.
- order.py: the order rules. A pure function of (view, seed, epoch) gives the rows of an epoch.
- producer.py: the thread of an epoch. It chooses the pixel path of each batch.
- decoders.py: the part of each image that is kept (random crop, centre crop, whole image), and FFCV's kernels.
- augment.py: augmentations, alone as kernels or fused into one `Moves`.
- decoding.py: `ImageReader`, from rows to pixels, by the mapped file or by reads.
- pixels.py and pixels.c: one pass in C from the stored bytes to the values of a batch. crc32.h: their checksum.
- frames.py: the sides that a JPEG's header names, for FFCV's kernels.
- residency.py: images that stay decoded, in memory or on the GPU.
- delivery.py: tensors of the pixels, normalised, in the layout asked for, on the device.
- gather.py: batches of images that lie on the GPU. gather_cuda.py is its Triton kernel.
- options.py and batch.py: the options of a loader, and the batch that a step receives.

Four paths lead from stored images to a batch:

| path           | taken when                                        | work on the images:                             |
| -------------- | ------------------------------------------------- | ----------------------------------------------- |
| pixels.c       | it is compiled, and no path below is taken        | one pass in C: decode, resize, move, normalise. |
| FFCV's kernels | pixels.c is not compiled, or DEBETON_PIXELS=ffcv  | decoded whole, resized; a pass for each step.   |
| resident       | `choose_residency` returns 'ram'                  | decoded once, then read as pixels from memory.  |
| GPU            | `choose_residency` returns 'device'               | decoded once, then one kernel on the GPU.       |

One pass in C makes float values only on the CPU, without triggers, and with augmentations that fuse into `Moves`.
Else the C code makes uint8 pixels. Then follow augmentations that do not fuse, triggers, and normalisation.

'ram' needs a decoder that keeps the same part of an image in every epoch, and room in memory. The first decoding and
the reading from memory take one of the two paths above it.

'device' needs the same, and a GPU with room for all images of the beton. It also needs normalisation, no triggers, and
augmentations that fuse into `Moves`. All other batches for a GPU are copied there as uint8 pixels and normalised there.

All paths give the same pixels, but for two cases. FFCV's kernels differ by at most one of 255 if an image is resized.
Values made on a GPU may differ in the last bit. A JPEG's pixels are those of libjpeg's accurate DCT at full scale.
"""
