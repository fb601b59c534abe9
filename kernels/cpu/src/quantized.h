// Rows as uint8 with one scale each: value = (stored - 128) * scale, scale = largest magnitude / 127.
#pragma once

#include <cfloat>

#include "vectors.h"

namespace infer {

// The largest magnitude of a row, kept as bits: among non-negative floats the order of the bits is that of the values, with
// infinity and NaN on top, so that neither can get lost.
struct Magnitude {
    i32x16 bits = {};

    void add(f32x16 v) {
        bits = vmax(as<i32x16>(vabs(v)), bits);
    }

    float largest() const {
#if defined(__AVX512F__)
        int32_t most = _mm512_reduce_max_epi32((__m512i)bits);
#else
        int32_t most = 0;
        for (int i = 0; i < LANES; i++) most = bits[i] > most ? bits[i] : most;
#endif
        float value;
        memcpy(&value, &most, sizeof value);
        return value;
    }
};

// To nearest, ties to even. Adding 1.5 * 2^23 leaves the rounded value in the low bits; there is no number, NaN included, that this is
// undefined for.
inline u32x16 to_integers(f32x16 v) { return as<u32x16>(v + 12582912.0f) - 0x4b400000u; }

struct Quantizer {
    float scale;    // 0 for a row of zeros (subnormal scales count as 0), infinity or NaN for a row that holds one
    float inverse;  // 0 where there is none: every value is then stored as 128

    // `most` stands for the largest magnitude.
    explicit Quantizer(float largest, float most = 127.0f) : scale(largest / most), inverse(0.0f) {
        if (scale < FLT_MIN) scale = 0.0f;
        else if (scale <= FLT_MAX) inverse = 1.0f / scale;
    }

    // The first n lanes.
    void store(uint8_t *p, f32x16 v, int n) const {
        u8x16 bytes = low_bytes(to_integers(v * inverse) + 128u);
        memcpy(p, &bytes, n);
    }
};

// A power of two, `scale`, of which non-negative numbers up to `largest` are less than 2^bits.
struct PowerOfTwo {
    float scale, inverse;  // as Quantizer's

    PowerOfTwo(float largest, int bits) : scale(0.0f), inverse(0.0f) {
        uint32_t raw;
        memcpy(&raw, &largest, sizeof raw);
        const uint32_t exponent = raw >> 23;
        if (exponent == 255) {
            scale = largest;
        } else if ((int)exponent > bits) {
            const uint32_t unit = (exponent + 1 - bits) << 23, of_unit = (253 - exponent + bits) << 23;
            memcpy(&scale, &unit, sizeof scale);
            memcpy(&inverse, &of_unit, sizeof inverse);
        }
    }
};

}  // namespace infer
