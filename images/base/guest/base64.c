/* Base64 with the standard alphabet and padding (RFC 4648, section 4). */
#include "guest.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value_of(char c)
{
    const char *found = c ? strchr(alphabet, c) : NULL;

    return found ? (int)(found - alphabet) : -1;
}

int base64_decode(char *text, uint8_t **bytes, size_t *size)
{
    size_t length = strlen(text), padding = 0;
    uint8_t *out = (uint8_t *)text;

    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    if (length % 4)
        return fail("base64 of an incomplete length");
    *bytes = out;
    *size = length / 4 * 3 - padding;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t group = 0;

        for (size_t j = i; j < i + 4; j++) {
            int value = j >= length - padding ? 0 : value_of(text[j]);

            if (value < 0)
                return fail("not base64");
            group = group << 6 | (uint32_t)value;
        }
        /* Decoding in place is safe, because three bytes come from four characters. */
        *out++ = (uint8_t)(group >> 16);
        *out++ = (uint8_t)(group >> 8);
        *out++ = (uint8_t)group;
    }
    return 0;
}

void base64_print(FILE *out, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16;

        if (i + 1 < size)
            group |= (uint32_t)bytes[i + 1] << 8;
        if (i + 2 < size)
            group |= bytes[i + 2];
        putc(alphabet[group >> 18], out);
        putc(alphabet[group >> 12 & 63], out);
        putc(i + 1 < size ? alphabet[group >> 6 & 63] : '=', out);
        putc(i + 2 < size ? alphabet[group & 63] : '=', out);
    }
}
