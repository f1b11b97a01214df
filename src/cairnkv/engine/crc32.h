/* The CRC-32 of zip, gzip and PNG (reflected polynomial 0xEDB88320; RFC 1952, section 8), eight bytes at a time.
   A test compares it with `cairnkv.engine.table.crc`. */

#ifndef CAIRNKV_CRC32_H
#define CAIRNKV_CRC32_H

#include <stddef.h>
#include <stdint.h>

static uint32_t cairn_crc32_step[8][256];

/* Each module that includes this header computes its own tables when it is loaded. */
__attribute__((constructor)) static void cairn_crc32_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        cairn_crc32_step[0][byte] = crc;
    }
    for (int step = 1; step < 8; step++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = cairn_crc32_step[step - 1][byte];
            cairn_crc32_step[step][byte] = before >> 8 ^ cairn_crc32_step[0][before & 255];
        }
}

static inline uint32_t cairn_crc32(const unsigned char *data, size_t length)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (; length >= 8; data += 8, length -= 8) {
        crc ^= (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        crc = cairn_crc32_step[7][crc & 255] ^ cairn_crc32_step[6][crc >> 8 & 255]
            ^ cairn_crc32_step[5][crc >> 16 & 255] ^ cairn_crc32_step[4][crc >> 24]
            ^ cairn_crc32_step[3][data[4]] ^ cairn_crc32_step[2][data[5]]
            ^ cairn_crc32_step[1][data[6]] ^ cairn_crc32_step[0][data[7]];
    }
    while (length--)
        crc = crc >> 8 ^ cairn_crc32_step[0][(crc ^ *data++) & 255];
    return ~crc;
}

#endif
