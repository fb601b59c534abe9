// The order in which words of an int8 weight go by on machines whose sums of two byte products saturate at 16 bits.
//
// Rows are bytes up to 255, so the products of two weights of one sign whose magnitudes add up to more than 128 may not fit. In each half of a panel
// words of 16 features without such a pair come first, and the others are multiplied with more care, and half as fast. All is exact, so no order shows.
// Behind the panels, each beginning at a multiple of 64 bytes:
//   safe   [2 * panels] int32: words that come first
//   added  [2 * panels][16] int32: 128 times the sum of each feature's other weights, whose products take the offset from x themselves
//   words  [2 * panels][words of a row] int32
#pragma once

#include "../gemm.h"
#include "../lanes.h"

namespace infer {

struct Order {
    int32_t *safe, *added, *words;

    Order(void *panels, int64_t n, int64_t count) {
        const int64_t halves = (n + PANEL - 1) / PANEL * 2;
        safe = (int32_t *)panels + halves * count * LANES;
        added = safe + (halves + LANES - 1) / LANES * LANES;
        words = added + halves * LANES;
    }
};

// True if no pair of weights in a word could saturate.
inline bool is_safe(uint32_t word) {
    for (int pair = 0; pair < 2; pair++) {
        const int a = (int8_t)(word >> 16 * pair), b = (int8_t)(word >> (16 * pair + 8));
        const int above = (a > 0 ? a : 0) + (b > 0 ? b : 0), below = (a < 0 ? a : 0) + (b < 0 ? b : 0);
        if (above > 128 || below < -128) return false;
    }
    return true;
}

}  // namespace infer
