// Rotary position embedding of one head, halves paired (NeoX order).
#pragma once

#include "vectors.h"

namespace infer {

struct Rotation {
    const int64_t *positions;  // [rows]; null: no rotation
    const float *cos, *sin;    // [positions, rotated]
    int64_t rotated;           // features [0, rotated) turn with the next `rotated`, the rest stay

    // Writes a head of `dim` features of that row, given by value(i, n): n <= LANES of them from i on.
    template <class O, class F> void turn(int64_t row, int64_t dim, O *out, F value) const {
        const int64_t half = positions ? rotated : 0;
        if (half) {
            const float *c = cos + positions[row] * half, *s = sin + positions[row] * half;
            over_row(half, [&](int64_t i, int n) {
                f32x16 a = value(i, n), b = value(half + i, n), x = load_n(c + i, n), y = load_n(s + i, n);
                store_n(out + i, vfma(a, x, -(b * y)), n);
                store_n(out + half + i, vfma(b, x, a * y), n);
            });
        }
        over_row(dim - 2 * half, [&](int64_t i, int n) { store_n(out + 2 * half + i, value(2 * half + i, n), n); });
    }
};

}  // namespace infer
