/* One pass from the stored bytes of an image (a JPEG or raw pixels in a beton) to the values that a network takes.
 *
 * FFCV decodes a whole JPEG, resizes it into a batch, and then flips and normalises that batch in separate passes.
 * Here only the rows and blocks that a crop needs are decoded (jpeg_crop_scanline, jpeg_skip_scanlines). Each row of
 * the result is filtered, mirrored, normalised and stored while it is in the cache.
 *
 * The pixels are those of the whole image, decoded in full, whatever the crop and the size of the result. So neither
 * JDCT_IFAST nor a coarser scale of the DCT is used. At quality 100 the first is wrong by tens of grey levels, and it
 * saves at most 4 % of the time. The second leaves out frequencies that an average of pixels keeps: photos then differ
 * by 2 grey levels on average, and drawings by 4.
 */

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "crc32.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("arch=haswell", "default")))
#else
#define FAST
#endif

/* A JPEG may have 20 scans, and up to 100 where they are no more work than 20 of 89,478,485 pixels (jpeg_bounds.py). */
enum { SCANS_OF_ANY = 20, MAX_SCANS = 100 };
static const double SCANNED_PIXELS = 20 * 89478485.0;

/* Status of an image: it is damaged or there is no memory; its bytes could not be read; they are not those that were
 * written; or the tables name bytes or pixels that are not there. */
enum { DAMAGED = -1, GONE = -2, ALTERED = -3, OUTSIDE = -4 };
enum { BYTES, CHANNELS_LAST, CHANNELS_FIRST }; /* uint8 [H, W, 3]; float32 [H, W, 3]; float32 [3, H, W] */

typedef struct { /* every member has eight bytes, because pixels.py fills it as an array of uint64 */
    const uint8_t *base;               /* address that offsets count from */
    const uint64_t *offsets, *sizes;   /* [B] position and length of each stored image, in bytes */
    const uint8_t *modes;              /* [B] JPEG or raw */
    const int64_t *heights, *widths;   /* [B] of the stored images, in pixels */
    const int64_t *boxes;              /* [B, 4] top, left, height, width of the part that is kept */
    int64_t to_height, to_width;       /* of the result, in pixels */
    int64_t layout;                    /* BYTES, CHANNELS_LAST or CHANNELS_FIRST */
    void *out;                         /* [B, ...] */
    const int32_t *row_of, *column_of; /* [B, to_height], [B, to_width] source of each row and column; or NULL */
    const int64_t *patches;            /* [B, 4] top, left, bottom, right of the patch that is filled last; or NULL */
    const float *scale_and_shift;      /* [2, 3] value = pixel * scale + shift */
    int64_t fill;                      /* value of the patches, 0 to 255 */
    int64_t jpeg;                      /* value in `modes` that means JPEG */
    const int32_t *black_rows, *black_columns; /* as row_of and column_of; black where negative; or NULL */
    uint64_t room;                     /* bytes that lie behind `base` */
    const int64_t *crcs;               /* [B] CRC-32 of the bytes of each image, or -1 to read them unseen; or NULL */
} Batch;

/* The filter of one axis: value x of the result is the sum over t of weight[x, t] * source[start[x] + t].
 * taps: weights of each value. room: weights that the memory holds. */
typedef struct {
    int taps, room;
    int32_t *start;
    float *weight;
} Filter;

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf back;
} Errors;

typedef struct { /* decoder and memory of one thread, used again from image to image */
    struct jpeg_decompress_struct jpeg;
    Errors errors;
    struct jpeg_progress_mgr progress;
    int ready;
    sigjmp_buf gone;
    volatile sig_atomic_t reading;
    uint8_t *pixels;
    float *row, *scales;
    size_t pixels_room, row_room, scales_room;
    Filter vertical, horizontal;
} Worker;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction bus_error_before;

/* Free a worker; called when its thread ends. */
static void free_worker(void *worker) {
    Worker *w = worker;
    if (w->ready) jpeg_destroy_decompress(&w->jpeg);
    free(w->pixels);
    free(w->row);
    free(w->scales);
    free(w->vertical.start);
    free(w->vertical.weight);
    free(w->horizontal.start);
    free(w->horizontal.weight);
    free(w);
}

static void make_key(void) { pthread_key_create(&key, free_worker); }

/* Return this thread's worker, made at the first call; NULL if there is no memory. */
static Worker *my_worker(void) {
    pthread_once(&once, make_key);
    Worker *w = pthread_getspecific(key);
    if (!w && (w = calloc(1, sizeof(Worker)))) pthread_setspecific(key, w);
    return w;
}

/* On an error of libjpeg, go back to the caller instead of ending the process. */
static void on_error(j_common_ptr jpeg) { longjmp(((Errors *)jpeg->err)->back, 1); }

/* Count a warning of libjpeg instead of printing it; level < 0 means damaged data. */
static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

/* Give up on a JPEG with more scans than its size allows. libjpeg calls this for each row of blocks of each scan. */
static void on_progress(j_common_ptr common) {
    j_decompress_ptr jpeg = (j_decompress_ptr)common;
    int scans = jpeg->input_scan_number;
    if (scans <= SCANS_OF_ANY) return;
    if (scans > MAX_SCANS || scans * ((double)jpeg->image_width * jpeg->image_height) > SCANNED_PIXELS)
        on_error(common);
}

/* Make sure that `*memory` holds `bytes` bytes; return 0 if there is no memory. */
static int grow(void **memory, size_t *room, size_t bytes) {
    if (bytes <= *room) return 1;
    void *larger = realloc(*memory, bytes);
    if (!larger) return 0;
    *memory = larger;
    *room = bytes;
    return 1;
}

/* Make sure that a filter holds `count` times `taps` weights; return 0 if there is no memory. */
static int grow_filter(Filter *f, int count, int taps) {
    f->taps = taps;
    if (count * taps <= f->room) return 1;
    free(f->start);
    free(f->weight);
    f->start = malloc(sizeof(int32_t) * count * taps);
    f->weight = malloc(sizeof(float) * count * taps);
    f->room = f->start && f->weight ? count * taps : 0;
    return f->room != 0;
}

/* Compute the filter of one axis from `size` pixels to `count` pixels; return 0 if there is no memory.
 *
 * moved: int32 [count], source of each pixel of the result (row_of, column_of), or NULL.
 * stride: values from one source pixel to the next.
 * An axis that shrinks averages: a pixel is the mean of the length that it covers. An axis that grows interpolates
 * between the two nearest centres of pixels, as OpenCV's INTER_LINEAR does; beyond the outer centres it is constant. */
static int make_filter(Filter *f, int size, int count, const int32_t *moved, int stride) {
    double step = (double)size / count;
    int shrinks = size >= count, taps = shrinks ? (int)ceil(step) + 1 : 2;
    if (taps > size) taps = size;
    if (!grow_filter(f, count, taps)) return 0;
    for (int k = 0; k < count; k++) {
        int x = moved ? moved[k] : k;
        double from = x * step, to = fmin(from + step, size), centre = fmin(fmax(from + step / 2 - 0.5, 0), size - 1);
        int first = shrinks ? (int)floor(from + 1e-6) : (int)centre;
        int start = first + taps > size ? size - taps : first, last = (int)ceil(to - 1e-6) - 1;
        float *weight = f->weight + (size_t)k * taps, part = (float)(centre - first);
        memset(weight, 0, sizeof(float) * taps);
        f->start[k] = stride * start;
        for (int s = first; shrinks && s <= last; s++)
            weight[s - start] = (float)((fmin(to, s + 1.0) - fmax(from, s)) / (to - from));
        if (!shrinks) weight[first - start] = 1 - part;
        if (!shrinks && part > 0) weight[first + 1 - start] = part;
    }
    return 1;
}

typedef float Four __attribute__((vector_size(16)));

static inline Four load(const float *at) {
    Four values;
    memcpy(&values, at, 16);
    return values;
}

/* Convert a row of pixels to floats. */
FAST static void widen(const uint8_t *pixels, int values, float *row) {
    for (int k = 0; k < values; k++) row[k] = pixels[k];
}

/* Filter the columns of one source row into `width` pixels side by side or, with `planes`, into three planes. */
static inline __attribute__((always_inline)) void filter_columns_by(
    const float *restrict row, const Filter *f, int width, int planes, float *restrict out, const int taps
) {
    const int32_t *restrict start = f->start;
    const float *restrict weight = f->weight;
    for (int x = 0; x < width; x++) {
        const float *at = row + start[x], *w = weight + (size_t)x * taps;
        Four sum = load(at) * w[0];
        for (int t = 1; t < taps; t++) sum += load(at + 3 * t) * w[t];
        if (planes)
            out[x] = sum[0], out[width + x] = sum[1], out[2 * width + x] = sum[2];
        else
            memcpy(out + 3 * (size_t)x, &sum, 16); /* writes one value too many; the next pixel overwrites it */
    }
}

/* Call `filter_columns_by` with the number of taps as a constant where it is a common one. */
FAST static void filter_columns(const float *row, const Filter *f, int width, int planes, float *out) {
    if (f->taps == 2 && !planes) filter_columns_by(row, f, width, 0, out, 2);
    else if (f->taps == 3 && !planes) filter_columns_by(row, f, width, 0, out, 3);
    else filter_columns_by(row, f, width, planes, out, f->taps);
}

static const float NEAREST = 12582912.f; /* 1.5 * 2^23; adding and subtracting it rounds to integers, halves to even */

/* Compute the weighted sum of `taps` rows of pixels. */
FAST static void average_rows(
    const uint8_t *pixels, size_t stride, const float *weight, int taps, int values, float *restrict sum
) {
    for (int k = 0; k < values; k++) sum[k] = weight[0] * pixels[k];
    for (int t = 1; t < taps; t++) {
        const uint8_t *row = pixels + t * stride;
        const float w = weight[t];
        if (w == 0) continue;
        for (int k = 0; k < values; k++) sum[k] += w * row[k];
    }
}

/* Store u * a + v * b, rounded to a pixel value and then normalised. */
FAST static void store_floats(
    const float *a, const float *b, float u, float v, int values, const float *scale, const float *shift, float *out
) {
    for (int k = 0; k < values; k++) out[k] = ((u * a[k] + v * b[k] + NEAREST) - NEAREST) * scale[k] + shift[k];
}

/* Store u * a + v * b, rounded to a pixel value. */
FAST static void store_bytes(const float *a, const float *b, float u, float v, int values, uint8_t *out) {
    for (int k = 0; k < values; k++) out[k] = (uint8_t)(int32_t)((u * a[k] + v * b[k] + NEAREST) - NEAREST);
}

/* Store a row of pixels that need no filter: moved by `column_of` if it is given, and normalised unless BYTES.
 * scales: as `scales_of` gives them. plane: values of one channel, for CHANNELS_FIRST. */
FAST static void copy_row(
    const uint8_t *row, const int32_t *column_of, int width, int64_t layout, const float *scale_and_shift,
    const float *scales, void *out, size_t plane
) {
    if (layout == BYTES) {
        uint8_t *to = out;
        if (!column_of) {
            memcpy(to, row, 3 * (size_t)width);
            return;
        }
        for (int x = 0; x < width; x++) memcpy(to + 3 * (size_t)x, row + 3 * (size_t)column_of[x], 3);
        return;
    }
    float *to = out;
    if (layout == CHANNELS_LAST && !column_of) {
        const float *shifts = scales + 3 * (size_t)width;
        for (int k = 0; k < 3 * width; k++) to[k] = row[k] * scales[k] + shifts[k];
        return;
    }
    const float *s = scale_and_shift;
    for (int x = 0; x < width; x++) {
        const uint8_t *at = row + 3 * (size_t)(column_of ? column_of[x] : x);
        float r = at[0] * s[0] + s[3], g = at[1] * s[1] + s[4], b = at[2] * s[2] + s[5];
        if (layout == CHANNELS_LAST) {
            to[3 * (size_t)x] = r, to[3 * (size_t)x + 1] = g, to[3 * (size_t)x + 2] = b;
        } else {
            to[x] = r, to[plane + x] = g, to[2 * plane + x] = b;
        }
    }
}

/* The pixels of a box: its first pixel, and the bytes from one row to the next. */
typedef struct {
    const uint8_t *pixels;
    size_t stride;
} Window;

/* Start to decode a JPEG; return 0 if it has another size than `height` x `width`. Errors jump to w->errors.back. */
static int start_decoding(Worker *w, const uint8_t *source, uint64_t size, int64_t height, int64_t width) {
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    w->errors.manager.num_warnings = 0;
    jpeg_mem_src(jpeg, source, size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_height != height || jpeg->image_width != width) return 0;
    jpeg->out_color_space = JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(jpeg);
    return 1;
}

/* Decode the part of a JPEG that the box needs; return 0 if it is damaged or has another size. */
static int decode(
    Worker *w, const uint8_t *source, uint64_t size, int64_t height, int64_t width, const int64_t *box, Window *window
) {
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    if (!w->ready) {
        jpeg->err = jpeg_std_error(&w->errors.manager);
        w->errors.manager.error_exit = on_error;
        w->errors.manager.emit_message = on_message;
        if (setjmp(w->errors.back)) return 0;
        jpeg_create_decompress(jpeg);
        w->progress.progress_monitor = on_progress;
        jpeg->progress = &w->progress;
        w->ready = 1;
    }
    if (setjmp(w->errors.back) || !start_decoding(w, source, size, height, width)) {
        jpeg_abort_decompress(jpeg);
        return 0;
    }
    int64_t top = box[0], rows = box[2], left = box[1];
    /* The chroma of a column is interpolated from its neighbours, so two more columns are decoded on each side. */
    JDIMENSION from = (JDIMENSION)(left > 2 ? left - 2 : 0), count;
    count = (JDIMENSION)(left + box[3] + 2 < width ? left + box[3] + 2 : width) - from;
    if (count < jpeg->output_width) jpeg_crop_scanline(jpeg, &from, &count);
    size_t stride = 3 * (size_t)count;
    if ((top > 0 && jpeg_skip_scanlines(jpeg, top) != (JDIMENSION)top)
        || !grow((void **)&w->pixels, &w->pixels_room, stride * rows)) {
        jpeg_abort_decompress(jpeg);
        return 0;
    }
    for (int64_t y = 0; y < rows;) {
        JSAMPROW lines[4];
        int count_now = rows - y < 4 ? (int)(rows - y) : 4;
        for (int k = 0; k < count_now; k++) lines[k] = w->pixels + stride * (y + k);
        y += jpeg_read_scanlines(jpeg, lines, count_now);
    }
    long warnings = w->errors.manager.num_warnings;
    jpeg_abort_decompress(jpeg);
    *window = (Window){w->pixels + 3 * (left - from), stride};
    return warnings == 0;
}

/* Return the scales of the 3 * width values of a row of the result, then their shifts; NULL if there is no memory. */
static const float *scales_of(Worker *w, const Batch *b) {
    int width = (int)b->to_width, values = 3 * width;
    if (!grow((void **)&w->scales, &w->scales_room, 2 * sizeof(float) * values)) return NULL;
    for (int k = 0; k < values; k++) {
        int c = b->layout == CHANNELS_FIRST ? k / width : k % 3;
        w->scales[k] = b->scale_and_shift[c];
        w->scales[values + k] = b->scale_and_shift[3 + c];
    }
    return w->scales;
}

/* Store row y of the result, u * a + v * b, in the layout of the batch. */
static void store_row(
    const Batch *b, const float *a, const float *last, float u, float v, const float *scales, char *out, int64_t y
) {
    int width = (int)b->to_width, values = 3 * width;
    size_t plane = (size_t)b->to_height * width;
    if (b->layout == BYTES) {
        store_bytes(a, last, u, v, values, (uint8_t *)out + y * values);
    } else if (b->layout == CHANNELS_LAST) {
        store_floats(a, last, u, v, values, scales, scales + values, (float *)out + y * values);
    } else {
        for (int c = 0; c < 3; c++) {
            const float *scale = scales + c * width, *shift = scale + values;
            float *to = (float *)out + c * plane + y * width;
            store_floats(a + c * width, last + c * width, u, v, width, scale, shift, to);
        }
    }
}

/* Filter the box of a window to the size of the result and store it; return 0 if there is no memory.
 *
 * If the rows become fewer, they are averaged before their columns are filtered. Else the columns are filtered first,
 * and the filtered rows are held, because several rows of the result need them. */
static int resample(
    Worker *w, const Batch *b, const Window *win, const int64_t *box, const int32_t *row_of, const int32_t *column_of,
    const float *scales, char *out
) {
    int height = (int)b->to_height, width = (int)b->to_width, planes = b->layout == CHANNELS_FIRST;
    int columns = (int)box[3], averages = box[2] >= height, held[2] = {-1, -1};
    Filter *down = &w->vertical, *across = &w->horizontal;
    if (!make_filter(down, (int)box[2], height, row_of, 1)) return 0;
    if (!make_filter(across, columns, width, column_of, 3)) return 0;
    size_t wide_room = 3 * (size_t)columns + 4, room = 3 * (size_t)width + 4, taps = down->taps;
    if (!grow((void **)&w->row, &w->row_room, sizeof(float) * (wide_room + 2 * room))) return 0;
    float *wide = w->row, *filtered = wide + wide_room, *rows[2];
    for (int y = 0; y < height; y++) {
        int start = down->start[y];
        const float *weight = down->weight + y * taps;
        if (averages) {
            average_rows(win->pixels + start * win->stride, win->stride, weight, down->taps, 3 * columns, wide);
            filter_columns(wide, across, width, planes, filtered);
            store_row(b, filtered, filtered, 1, 0, scales, out, y);
            continue;
        }
        for (int t = 0; t < (int)taps; t++) {
            int source = start + t, slot = source % 2;
            rows[t] = filtered + slot * room;
            if (held[slot] == source) continue;
            widen(win->pixels + source * win->stride, 3 * columns, wide);
            filter_columns(wide, across, width, planes, rows[t]);
            held[slot] = source;
        }
        store_row(b, rows[0], rows[taps - 1], weight[0], taps > 1 ? weight[1] : 0, scales, out, y);
    }
    return 1;
}

/* Fill a patch [top, left, bottom, right] of an image of the result. plane: values of one channel. */
static void fill_patch(const Batch *b, const int64_t *patch, int64_t fill, char *out, size_t plane) {
    const float *s = b->scale_and_shift;
    for (int64_t y = patch[0]; y < patch[2]; y++)
        for (int64_t x = patch[1]; x < patch[3]; x++)
            for (int c = 0; c < 3; c++) {
                size_t at = y * b->to_width + x;
                at = b->layout == CHANNELS_FIRST ? c * plane + at : 3 * at + c;
                if (b->layout == BYTES) ((uint8_t *)out)[at] = (uint8_t)fill;
                else ((float *)out)[at] = fill * s[c] + s[3 + c];
            }
}

/* Blacken the rows and columns of image i of the result whose source is negative. */
static void blacken(const Batch *b, int64_t i, char *out, size_t plane) {
    const int32_t *rows = b->black_rows ? b->black_rows + i * b->to_height : NULL;
    const int32_t *columns = b->black_columns ? b->black_columns + i * b->to_width : NULL;
    for (int64_t y = 0; rows && y < b->to_height; y++)
        if (rows[y] < 0) fill_patch(b, (int64_t[]){y, 0, y + 1, b->to_width}, 0, out, plane);
    for (int64_t x = 0; columns && x < b->to_width; x++)
        if (columns[x] < 0) fill_patch(b, (int64_t[]){0, x, b->to_height, x + 1}, 0, out, plane);
}

/* Return whether the bytes of image i lie in the room, its box in its sides, and a raw image fills its bytes. */
static int is_inside(const Batch *b, int64_t i) {
    const int64_t *box = b->boxes + 4 * i, height = b->heights[i], width = b->widths[i];
    uint64_t size = b->sizes[i];
    if (b->offsets[i] > b->room || size > b->room - b->offsets[i]) return 0;
    if (height < 1 || width < 1 || height > 65535 || width > 65535) return 0; /* FFCV stores 16 bits */
    if (box[0] < 0 || box[2] < 1 || box[2] > height || box[0] > height - box[2]) return 0;
    if (box[1] < 0 || box[3] < 1 || box[3] > width || box[1] > width - box[3]) return 0;
    return b->modes[i] == b->jpeg || size == 3 * (uint64_t)height * (uint64_t)width;
}

/* Write image i of the batch into `out`; return 0, DAMAGED, ALTERED or OUTSIDE. */
static int write_image(const Batch *b, int64_t i) {
    Worker *w = my_worker();
    if (!w) return DAMAGED;
    if (!is_inside(b, i)) return OUTSIDE;
    const uint8_t *source = b->base + b->offsets[i];
    const int64_t *box = b->boxes + 4 * i, height = b->heights[i], width = b->widths[i];
    if (b->crcs && b->crcs[i] >= 0 && crc32_of(source, b->sizes[i]) != (uint32_t)b->crcs[i]) return ALTERED;
    Window win;
    if (b->modes[i] == b->jpeg) {
        if (!decode(w, source, b->sizes[i], height, width, box, &win)) return DAMAGED;
    } else {
        size_t stride = 3 * (size_t)width;
        win = (Window){source + box[0] * stride + 3 * box[1], stride};
    }
    size_t plane = (size_t)b->to_height * b->to_width, bytes = b->layout == BYTES ? 1 : sizeof(float);
    char *out = (char *)b->out + i * 3 * plane * bytes;
    size_t out_stride = (b->layout == CHANNELS_FIRST ? 1 : 3) * (size_t)b->to_width * bytes;
    const int32_t *row_of = b->row_of ? b->row_of + i * b->to_height : NULL;
    const int32_t *column_of = b->column_of ? b->column_of + i * b->to_width : NULL;
    if (column_of) {
        int64_t x = 0;
        while (x < b->to_width && column_of[x] == x) x++;
        if (x == b->to_width) column_of = NULL;
    }
    const float *scales = scales_of(w, b);
    if (!scales) return DAMAGED;
    int same = box[2] == b->to_height && box[3] == b->to_width;
    if (!same && !resample(w, b, &win, box, row_of, column_of, scales, out)) return DAMAGED;
    for (int64_t y = 0; same && y < b->to_height; y++) {
        const uint8_t *row = win.pixels + (row_of ? row_of[y] : y) * win.stride;
        copy_row(row, column_of, b->to_width, b->layout, b->scale_and_shift, scales, out + y * out_stride, plane);
    }
    blacken(b, i, out, plane);
    if (b->patches) fill_patch(b, b->patches + 4 * i, b->fill, out, plane);
    return 0;
}

/* A mapped file that is cut, or a disk with a fault, raises SIGBUS where its bytes are read; that ends the process
 * without a word. While a thread reads images, the handler goes back to `debeton_images` instead. */
static void on_bus_error(int number, siginfo_t *info, void *context) {
    Worker *w = pthread_getspecific(key);
    (void)info, (void)context;
    if (w && w->reading) {
        w->reading = 0;
        siglongjmp(w->gone, 1);
    }
    sigaction(number, &bus_error_before, NULL); /* not ours: the access is repeated under the handler before */
}

/* Let SIGBUS come to our handler first. Another handler may have been set since the last call. */
void debeton_guard(void) {
    struct sigaction ours, now;
    pthread_once(&once, make_key);
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_NODEFER; /* siglongjmp leaves the handler without unblocking the signal */
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) || now.sa_sigaction == on_bus_error) return;
    bus_error_before = now;
    sigaction(SIGBUS, &ours, NULL);
}

/* Write images `begin` to `end` - 1 of the batch, and the status of each into `status` [B]. */
void debeton_images(const Batch *b, int64_t begin, int64_t end, int32_t *status) {
    Worker *w = my_worker();
    volatile int64_t i = begin;
    if (w && sigsetjmp(w->gone, 0)) { /* saving the signal mask would cost a call of the system */
        if (w->ready) jpeg_destroy_decompress(&w->jpeg);
        w->ready = 0;
        for (; i < end; i++) status[i] = GONE;
        return;
    }
    if (w) w->reading = 1;
    for (; i < end; i++) status[i] = write_image(b, i);
    if (w) w->reading = 0;
}
