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
        int32_t most = 0;
        for (int i = 0; i < LANES; i++) most = bits[i] > most ? bits[i] : most;
        float value;
        memcpy(&value, &most, sizeof value);
        return value;
    }
};

struct Quantizer {
    float scale;    // 0 for a row of zeros (subnormal scales count as 0), infinity or NaN for a row that holds one
    float inverse;  // 0 where there is none: every value is then stored as 128

    explicit Quantizer(float largest) : scale(largest / 127.0f), inverse(0.0f) {
        if (scale < FLT_MIN) scale = 0.0f;
        else if (scale <= FLT_MAX) inverse = 1.0f / scale;
    }

    // The first n lanes, to nearest, ties to even. Adding 1.5 * 2^23 leaves the rounded value in the low bits; there is no
    // number, NaN included, that this is undefined for.
    void store(uint8_t *p, f32x16 v, int n) const {
        u32x16 shifted = as<u32x16>(v * inverse + 12582912.0f) + 128u;
        u8x16 bytes = low_bytes(shifted);
        memcpy(p, &bytes, n);
    }
};

}  // namespace infer
