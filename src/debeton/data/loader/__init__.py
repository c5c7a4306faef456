"""Batches: images decoded, cropped, augmented and normalised ahead of the training step.

The way of a batch, by module:

loader.py       `make_loader`: a view to batches; one epoch is an iterator with a thread of its own
order.py        the order rules: a pure function of (view, seed, epoch) gives the rows of an epoch
producer.py     the thread of an epoch; chooses the pixel path of each batch
decoders.py     the box of each image that is kept (random crop, centre crop, whole image); FFCV's kernels
augment.py      augmentations, alone as kernels or fused into one `Moves`
decoding.py     `ImageReader`: rows to pixels, from the mapped file or by reads
pixels.py, .c   one pass from the stored bytes to the values of a batch, in C
residency.py    images that stay decoded, in memory or on the GPU
delivery.py     pixels to tensors: normalised, in the layout asked for, on the device
gather.py       batches of images that lie on the GPU; gather_cuda.py is its Triton kernel
options.py, batch.py   the options of a loader, and the batch that a step receives

Four paths lead from stored images to a batch. `Producer.batch_tensors` chooses among them:

path            taken when                                           work
pixels.c        pixels.c is compiled (`pixels.AVAILABLE`) and no     Reads, decodes, resizes, moves and normalises
                other path is; all in one pass if the batch is       an image in one pass. Else the C code gives
                float values made on the CPU, without triggers,      uint8 pixels; augmentations that are no
                and the augmentations fuse into `Moves`              `Moves`, triggers and normalisation follow.
FFCV's kernels  pixels.c is not compiled, or the environment has     FFCV's decoder and resizer under numba, then
                DEBETON_PIXELS=ffcv                                  one pass for each augmentation, and one to
                                                                     normalise.
resident        `choose_residency` says 'ram': the decoder keeps     Each image is decoded once, by one of the paths
                the same part in every epoch, and the images fit     above. Later epochs read its pixels from memory
                into memory                                          by the same path, without decoding.
GPU             `choose_residency` says 'device': as 'ram', on a     Each image is decoded and copied to the GPU
                GPU with room for all images of the beton,           once; one kernel on the GPU gathers, moves,
                normalised, without triggers, and with               patches and normalises a batch.
                augmentations that fuse into `Moves`

On a GPU, paths other than the last copy uint8 pixels to the device and normalise them there.
All paths give the same pixels, but for two cases. FFCV's kernels differ by one of 255 at most for resized images, and
by more for JPEGs that pixels.c decodes at a coarser scale. The GPU kernel may differ in the last bit.
"""
