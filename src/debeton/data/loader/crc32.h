/* The CRC-32 of zlib and PNG, for pixels.c. It is as fast as the memory where the processor multiplies polynomials.
 *
 * The rest of the division of a message by a polynomial does not change when blocks of the message are replaced by
 * others with the same rest. So four blocks of 16 bytes are folded forward at a time (Gopal et al., "Fast CRC
 * Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009; the constants are those of the paper).
 */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t crc_tables[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

/* Fill the tables for eight bytes at a time: table k holds the effect of a byte that k more bytes follow. */
static void make_crc_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_tables[0][byte] = crc;
    }
    for (int byte = 0; byte < 256; byte++)
        for (int k = 1; k < 8; k++) {
            uint32_t before = crc_tables[k - 1][byte];
            crc_tables[k][byte] = (before >> 8) ^ crc_tables[0][before & 255];
        }
}

/* Return the register after `size` more bytes, on any processor. */
static uint32_t crc_by_tables(uint32_t crc, const uint8_t *data, uint64_t size) {
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low = crc ^ (data[0] | data[1] << 8 | data[2] << 16 | (uint32_t)data[3] << 24);
        crc = crc_tables[7][low & 255] ^ crc_tables[6][low >> 8 & 255] ^ crc_tables[5][low >> 16 & 255]
            ^ crc_tables[4][low >> 24] ^ crc_tables[3][data[4]] ^ crc_tables[2][data[5]] ^ crc_tables[1][data[6]]
            ^ crc_tables[0][data[7]];
    }
    while (size--) crc = (crc >> 8) ^ crc_tables[0][(crc ^ *data++) & 255];
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FOLDS __attribute__((target("pclmul,sse4.1")))

static inline FOLDS __m128i load_16(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }

/* Return `block`, moved forward by the distance that the constants stand for, plus `next`. */
static inline FOLDS __m128i fold(__m128i block, __m128i constants, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(block, constants, 0x00), high = _mm_clmulepi64_si128(block, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Return the register after `size` more bytes, a multiple of 16 and at least 64. */
static FOLDS uint32_t crc_by_folding(uint32_t crc, const uint8_t *data, uint64_t size) {
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x0163cd6124), barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low_words = _mm_setr_epi32(~0, 0, ~0, 0);
    __m128i blocks[4], rest, part;
    for (int k = 0; k < 4; k++) blocks[k] = load_16(data + 16 * k);
    blocks[0] = _mm_xor_si128(blocks[0], _mm_cvtsi32_si128((int)crc));
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
        for (int k = 0; k < 4; k++) blocks[k] = fold(blocks[k], by_64, load_16(data + 16 * k));
    rest = blocks[0];
    for (int k = 1; k < 4; k++) rest = fold(rest, by_16, blocks[k]);
    for (; size >= 16; data += 16, size -= 16) rest = fold(rest, by_16, load_16(data));
    rest = _mm_xor_si128(_mm_srli_si128(rest, 8), _mm_clmulepi64_si128(rest, by_16, 0x10)); /* 128 to 64 bits */
    part = _mm_clmulepi64_si128(_mm_and_si128(rest, low_words), by_8, 0x00);
    rest = _mm_xor_si128(_mm_srli_si128(rest, 4), part);
    part = _mm_clmulepi64_si128(_mm_and_si128(rest, low_words), barrett, 0x10); /* 64 to 32 bits */
    part = _mm_clmulepi64_si128(_mm_and_si128(part, low_words), barrett, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(rest, part), 1);
}

static int can_fold(void) { return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"); }
#else
static uint32_t crc_by_folding(uint32_t crc, const uint8_t *data, uint64_t size) {
    return crc_by_tables(crc, data, size);
}
static int can_fold(void) { return 0; }
#endif

/* Return the CRC-32 of `size` bytes. */
static uint32_t crc32_of(const uint8_t *data, uint64_t size) {
    uint32_t crc = ~0u;
    uint64_t folded = size >= 64 && can_fold() ? size & ~(uint64_t)15 : 0;
    pthread_once(&crc_once, make_crc_tables);
    if (folded) crc = crc_by_folding(crc, data, folded);
    return ~crc_by_tables(crc, data + folded, size - folded);
}
